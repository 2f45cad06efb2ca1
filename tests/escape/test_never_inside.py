"""Python stays outside (FD-08): once in a sandbox's view it would load whatever lies there.

Codecs, time zones, name services and every import that comes late are files (CVE-2019-14271,
CVE-2022-1227). What has to be done inside is done by the executor, which loads nothing.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.escape.calls import parsed
from tests.house.tree import ROOT, files, relative

pytestmark = pytest.mark.sandbox
ENTER = {"setns", "unshare", "chroot", "fchroot", "pivot_root"}
# The user namespace alone, to be its owner: the files around are the host's there, too.
ALLOWED = {("hardrun/verify/within.py", "setns")}


def entering(source: str) -> set[str]:
    """The calls by which a program changes its view, as attributes, names or in strings."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in ENTER:
            found.add(node.attr)
        if isinstance(node, ast.Name) and node.id in ENTER:
            found.add(node.id)
        if isinstance(node, ast.Call):
            found |= {a.value for a in node.args if isinstance(a, ast.Constant)
                      and isinstance(a.value, str) and a.value in ENTER and _is_lookup(node.func)}
    return found


def _is_lookup(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and function.id == "getattr"


def test_fd_08_no_module_changes_its_view() -> None:
    found = {(relative(path), name) for path in files(".py", below="hardrun")
             if "hostile" not in path.parts for name in entering(path.read_text(encoding="utf-8"))}
    assert found == ALLOWED
    entered = (ROOT / "hardrun/verify/within.py").read_text(encoding="utf-8")
    assert entered.count("/ns/") == entered.count("/ns/user") == 1


@pytest.mark.parametrize("source", ["import os\nos.chroot('/')", "libc.setns(3, 0)",
                                    "from os import unshare\nunshare(1)", "getattr(libc, 'setns')"])
def test_fd_08_one_that_does_is_found(source: str) -> None:
    assert entering(source)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_cve_2022_1227_fd_08_no_python_process_of_a_run_does(tmp_path: Path) -> None:
    """From its start to the exec of the executor; there is nothing left of it afterwards."""
    output = tmp_path / "calls"
    # Whoever is traced gets no right from newgidmap: a policy that is content without.
    words = ["hardrun", "run", "--refresh", "--policy", "contained", "--", "/usr/bin/true"]
    subprocess.run(["strace", "-f", "-qq", "-o", str(output), sys.executable, "-P", "-m", *words],
                   env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
                   check=True, cwd=tmp_path, stdin=subprocess.DEVNULL, timeout=120)
    calls = next(iter(parsed(output.read_text(encoding="utf-8", errors="replace")).values()))
    names = [c.name for c in calls]
    assert sys.executable in calls[0].arguments
    end = next(i for i, c in enumerate(calls) if c.name.startswith("exec") and i > 0)
    assert not ENTER & set(names[:end])
    assert {"clone", "clone3"} & set(names[end:]), "the executor makes the sandbox"
