"""Linters are tests: what they find is mended, not discussed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.tree import ROOT


def _clean(*argv: str) -> None:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]


def _tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed (pip install '.[test]')")
    return found


def test_ruff_has_nothing_to_say() -> None:
    _clean(_tool("ruff"), "check", "--no-cache", ".")


def test_every_type_is_checked_strictly() -> None:
    _clean(_tool("mypy"))


def test_bandit_has_nothing_to_say() -> None:
    _clean(_tool("bandit"), "--quiet", "--configfile", "pyproject.toml", "--recursive", "hardrun",
           "hatch_build.py", "--format", "custom", "--msg-template",
           "{relpath}:{line}: {test_id} {msg}")


def test_shell_scripts_are_valid_for_any_posix_shell() -> None:
    for script in ("scripts/find-python", "scripts/prepare-host", "scripts/as-ordinary-user",
                   ".ci/run"):
        _clean("sh", "-n", script)
    if shutil.which("shellcheck"):
        _clean("shellcheck", "scripts/find-python", "scripts/prepare-host",
               "scripts/as-ordinary-user", ".ci/run")


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_the_compilers_analysis_of_the_executor_finds_nothing() -> None:
    _clean("make", "-s", "-C", "hardrun/executor", f"PYTHON={sys.executable}", "analyze")


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_the_executor_builds_with_sanitizers() -> None:
    _clean("make", "-s", "-C", "hardrun/executor", f"PYTHON={sys.executable}", "sanitize")


@pytest.mark.skipif(not shutil.which("musl-gcc"), reason="musl-gcc is not installed")
@pytest.mark.parametrize("name", ["probe", "floor"])
def test_the_compiler_has_nothing_to_say_of_the_benchmarks_programs(name: str) -> None:
    _clean("musl-gcc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Wshadow",
           "-Wformat=2", "-Wmissing-prototypes", "-Wconversion", "-fanalyzer", "-O2", "-c", "-o",
           "/dev/null", "-I", "hardrun/executor", f"hardrun/bench/{name}.c")
