"""The wheel, as somebody gets it who has neither a compiler nor root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.house.tree import ROOT, files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, so that nothing in the tree is disturbed."""
    copy = tmp_path_factory.mktemp("tree")
    for path in files():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    done = subprocess.run([sys.executable, "-m", "hatchling", "build", "--target", "wheel"],
                          cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = list((copy / "dist").glob("*.whl"))
    assert len(found) == 1
    return found[0]


def test_the_wheel_is_for_this_machine_and_any_python(wheel: Path) -> None:
    assert wheel.name.endswith(f"-py3-none-linux_{os.uname().machine}.whl")


def test_the_wheel_carries_everything_that_is_not_source(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for path in (*files(below="policies"), *files(below="profiles")):
        assert f"hardrun/data/{path.relative_to(ROOT)}" in names
    for directory in ("filters", "compiled"):
        assert [n for n in names if n.startswith(f"hardrun/data/{directory}/")], directory
    assert not [n for n in names if n.endswith((".c", ".h", ".o")) and "operations" in n]


def test_the_wheel_has_what_benchmarks_are_compiled_from(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"hardrun/bench/probe.c", "hardrun/bench/floor.c", "hardrun/executor/uapi.h"} <= {*names}


def test_the_executor_in_the_wheel_is_executable(wheel: Path) -> None:
    entry = zipfile.ZipFile(wheel).getinfo("hardrun/executor/hardrun-exec")
    assert entry.external_attr >> 16 & 0o111 == 0o111


@pytest.mark.sandbox
def test_an_installed_wheel_runs_a_sandbox_with_no_compiler(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    # A PATH with the few programs that a start may need and nothing that compiles.
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("newuidmap", "newgidmap", "ldconfig"):
        found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
        if found:
            (tools / name).symlink_to(found)
    bare = {**os.environ, "PATH": str(tools), "HOME": str(tmp_path)}
    installed = subprocess.run([str(python), "-m", "pip", "install", "--quiet",
                                "--disable-pip-version-check", str(wheel)],
                               env=bare, capture_output=True, text=True, check=False)
    if installed.returncode != 0 and "No matching distribution" in installed.stderr:
        pytest.skip("no package index to install the dependencies from")
    assert installed.returncode == 0, installed.stderr
    for _ in range(2):
        done = subprocess.run([str(environment / "bin" / "hardrun"), "run", "--", "/usr/bin/true"],
                              env=bare, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        # What is decided and stored starts without its other half.
        (environment / "bin" / "hardrun-cli").unlink(missing_ok=True)
