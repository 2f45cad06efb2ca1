"""What hardrun itself says steers no terminal, whatever names it has to tell (DV-07)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.house.tree import ROOT
from tests.installed import HARDRUN

pytestmark = pytest.mark.sandbox
# A title, colours in 7 bits, in 8 and in UTF-8, a mark that turns text round, a line of its own.
NASTY = b"\x1b]0;owned\x07\x1b[31m\x9b31m\xc2\x9b31m\xe2\x80\xae\r\nhardrun: all is well\x7f"
NAME = os.fsdecode(NASTY)
POLICY = """\
apiVersion: hardrun/v1
kind: Policy
metadata: {name: "x\\e[31m", description: "x\\e]0;owned\\a"}
bounds: {"net\\e[31mwork": none}
"""


def steers(text: bytes) -> bool:
    """Whether a terminal would obey some of it, or a reader take it for another line of ours."""
    decoded = os.fsdecode(text)
    return not all(c.isprintable() or c == "\n" for c in decoded) or "\nhardrun: all is" in decoded


def hardrun(directory: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    environment = {"HOME": str(directory), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8",
                   "PYTHONPATH": str(ROOT)}
    return subprocess.run([HARDRUN, *words], cwd=directory,
                          env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                          check=False, timeout=120)


@pytest.mark.parametrize("words", [
    ["run", "--ro", f"/nowhere/{NAME}", "--", "true"],
    ["run", "--", NAME],
    ["run", "--policy", NAME, "--", "true"],
    ["run", "--policy", "policy.yaml", "--", "true"],
    ["run", "--label", NAME, "--memory", NAME, "--", "true"],
    ["explain", "--policy", "agent", "--ro", f"here/{NAME}", "--label", f"a={NAME}", "--", NAME],
    ["why", "--ro", f"here/{NAME}", "--", "true", f"read {NAME}"],
    ["policy", "check", "policy.yaml"],
    ["plan", "show", f"here/{NAME}"],
    [NAME],
], ids=lambda words: " ".join(words)[:20].strip() if words[0] != NAME else "command")
def test_dv_07_what_the_command_line_says_steers_no_terminal(tmp_path: Path, words: list[str]
                                                             ) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / NAME).write_bytes(NASTY)
    (tmp_path / "policy.yaml").write_text(POLICY)
    done = hardrun(tmp_path, *words)
    assert done.stdout + done.stderr
    assert not steers(done.stdout + done.stderr), done


def test_dv_07_what_the_executor_says_does_not_either(tmp_path: Path) -> None:
    """A program that is stale names the file that changed; one that fails names its operation."""
    directory = tmp_path / NAME
    directory.mkdir()
    (directory / "data").mkdir()
    program = str(tmp_path / "program")
    done = hardrun(directory, "compile", "-o", program, "--ro", "data", "--", "true")
    assert done.returncode == 0, done
    assert subprocess.run([program], check=False).returncode == 0
    (directory / "data").rename(directory / "moved")
    (directory / "data").symlink_to("/etc")
    done = subprocess.run([program], capture_output=True, check=False)
    assert done.returncode == 125
    assert b"\\x1b]0;owned" in done.stderr
    assert not steers(done.stdout + done.stderr), done


@pytest.mark.parametrize("format", ["json", "isolate"])
def test_dv_07_neither_does_a_report(tmp_path: Path, format: str) -> None:
    done = hardrun(tmp_path, "run", "--report", "report", "--report-format", format, "--", NAME)
    assert done.returncode == 127
    assert not steers((tmp_path / "report").read_bytes())


def test_dv_07_what_the_command_says_is_its_own(tmp_path: Path) -> None:
    """The control: there it is seen, and passed on unchanged."""
    done = hardrun(tmp_path, "run", "--", "/usr/bin/printf", "%s", NAME)
    assert done.stdout == NASTY
    assert steers(done.stdout)
