"""The Python that the pages show runs, and prints what they say."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _blocks(page: str) -> list[str]:
    """The pieces of Python of a page: fenced, or indented and beginning with an import."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fenced = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    indented = re.findall(r"(?:^    import .*\n(?:(?:    .*)?\n)*)", text, re.MULTILINE)
    return fenced + [textwrap.dedent(block) for block in indented]


def _run(program: str, directory: Path) -> list[str]:
    (directory / "solve.py").write_text("print(sum(range(10)))\n")
    done = subprocess.run([sys.executable, "-c", program], cwd=directory, capture_output=True,
                          text=True, check=True, timeout=100)
    return done.stdout.splitlines()


def test_readme_prints_what_it_says(tmp_path: Path) -> None:
    program = "\n".join(_blocks("README.md"))
    said = re.findall(r"^ *print\(.*\) +# (.*)$", program, re.MULTILINE)
    assert len(said) == 4
    assert _run(program, tmp_path) == said


@pytest.mark.parametrize("number", [0, 1])
def test_the_page_of_sessions_runs(tmp_path: Path, number: int) -> None:
    blocks = _blocks("docs/sessions.md")
    assert len(blocks) == 2
    printed = _run(blocks[number], tmp_path)
    assert printed == ([], ["exited 42", "timeout "])[number]
