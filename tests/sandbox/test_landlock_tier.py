"""The landlock tier on the real kernel: a host that refuses user namespaces is faked, no more.

The hostile script runs three ways: unconfined, where what it tries must work (else a test says
nothing), and in the landlock tier of each Landlock ABI.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hardrun.kernel import landlock
from tests.fake_kernel import FakeKernel
from tests.installed import HARDRUN
from tests.sandbox.canaries import PYTHON, Canary, canaries, unreached, wrong

ABI = landlock.abi_version()
# A kernel with ABI 6 lacks one right of the later ones (canaries.wrong), an older one too much.
ABIS = range(1, (landlock.HIGHEST_ABI if ABI >= 6 else ABI) + 1)
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(ABI < 1 or not os.path.exists(PYTHON),
                                reason="needs Landlock and the system's Python")



@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    with canaries(tmp_path) as made:
        yield made


def hardrun(kernel: FakeKernel, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return kernel.run([HARDRUN, *words],
                      env={**os.environ, "PYTHONPATH": str(ROOT)}, **options)


def without_namespaces(abi: int | None = None, **changes: Any) -> FakeKernel:
    return FakeKernel(landlock_abi=abi, user_namespaces=errno.EPERM, **changes)


def test_unconfined_all_of_it_works(canary: Canary) -> None:
    done = subprocess.run(canary.command(), capture_output=True, text=True, check=True,
                          **canary.passed())
    assert unreached(done.stdout) == set()


LANDLOCK_ALONE = """
import ctypes, json, os, struct, sys
sys.path.insert(0, sys.argv[1])
from hardrun.kernel import landlock
libc = ctypes.CDLL(None)
rights = struct.pack("=Q", landlock.filesystem_access(landlock.abi_version()))
ruleset = libc.syscall(ctypes.c_long(444), rights, ctypes.c_size_t(8), 0)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.syscall(ctypes.c_long(446), ruleset, 0) == 0
found = {}
for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, 3):
    try:
        os.fchown(os.open(sys.argv[2], mode), -1, os.getgid())
        found[mode] = 0
    except OSError as error:
        found[mode] = error.errno
print(json.dumps(found))
"""


def test_landlock_alone_asks_for_no_right_where_the_access_mode_is_3(canary: Canary) -> None:
    done = subprocess.run([sys.executable, "-P", "-c", LANDLOCK_ALONE, str(ROOT),
                           str(canary.outside / "secret")], capture_output=True, text=True,
                          check=True)
    assert json.loads(done.stdout) == {
        **dict.fromkeys(("0", "1", "2"), errno.EACCES), "3": 0}


@pytest.mark.parametrize("abi", ABIS)
def test_nothing_of_the_host_is_reached_with_any_landlock_abi(canary: Canary, abi: int) -> None:
    done = hardrun(without_namespaces(abi), "run", "--policy", "agent", "--refresh",
                   *canary.grants(), "--", *canary.command(), **canary.passed())
    assert done.returncode == 0, done.stderr
    assert wrong(canary, done.stdout, abi) == {}


def explained(kernel: FakeKernel, *words: str) -> dict[str, Any]:
    done = hardrun(kernel, "explain", "--json", *words, "--", "true")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    return {control["control"]: control for control in document["controls"]}


@pytest.mark.parametrize("abi", ABIS)
def test_the_decision_says_what_an_abi_lacks(abi: int) -> None:
    controls = explained(without_namespaces(abi), "--policy", "agent")
    assert controls["min_tier"]["enforcement"]["kind"] == "degraded"
    assert controls["min_tier"]["enforcement"]["by"][0] == f"landlock tier: Landlock ABI {abi}"
    said = controls["landlock"]["enforcement"]["because"]
    assert all(words in said for words in landlock.lacking(abi))
    signals = controls["namespaces.shared"]["enforcement"]["because"]
    assert ("signals reach" in signals) == (abi < 6)
    rules = "Landlock TCP rules" in controls["network"]["enforcement"]["by"]
    assert rules == (abi >= 4)


@pytest.mark.parametrize("abi", ABIS)
def test_the_full_tier_runs_with_any_landlock_abi(abi: int) -> None:
    kernel = FakeKernel(landlock_abi=abi)
    done = hardrun(kernel, "run", "--policy", "agent", "--refresh", "--", "echo", "started")
    assert (done.stdout, done.returncode) == ("started\n", 0), done.stderr
    enforcement = explained(kernel, "--policy", "agent")["landlock"]["enforcement"]
    assert enforcement["by"][0] == f"Landlock ABI {abi}"
    assert enforcement["kind"] == ("enforced" if abi >= 6 else "replaced")


@pytest.mark.parametrize("policy", ["untrusted", "judge", "contained"])
def test_what_needs_the_full_tier_is_refused_in_one_line(policy: str) -> None:
    done = hardrun(without_namespaces(), "run", "--policy", policy, "--", "true")
    assert done.returncode == 125
    problem, hint = done.stderr.splitlines()
    assert problem.startswith("hardrun: min_tier: full is the least (policies/")
    assert "this host has the landlock tier: no user namespace: clone (clone3): EPERM" in problem
    assert "or a policy that accepts the landlock tier: agent, build" in hint


def test_a_request_can_only_tighten() -> None:
    kernel = without_namespaces()
    refused = hardrun(kernel, "run", "--policy", "agent", "--min-tier", "full", "--", "true")
    assert refused.returncode == 125
    assert "min_tier: full is the least" in refused.stderr
    beyond = hardrun(FakeKernel(), "run", "--policy", "untrusted", "--min-tier", "landlock", "--",
                     "true")
    assert "min_tier: landlock asked (--min-tier), at most full" in beyond.stderr
    asked = hardrun(kernel, "run", "--policy", "contained", "--min-tier", "landlock", "--", "true")
    assert asked.returncode == 0, asked.stderr


def test_without_landlock_too_there_is_no_tier() -> None:
    done = hardrun(without_namespaces(0), "run", "--policy", "agent", "--", "true")
    assert done.returncode == 125
    assert "this host has no tier" in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("words,flag", [
    (["--tmpfs", "/scratch"], "--tmpfs"), (["--hostname", "box"], "--hostname"),
    (["--ro", "/usr/share:/data"], "--ro /usr/share:/data"), (["-t"], "-t")])
def test_what_has_to_be_mounted_is_refused(words: list[str], flag: str) -> None:
    done = hardrun(without_namespaces(), "run", "--policy", "agent", *words, "--", "true")
    assert done.returncode == 125
    assert f"{flag}" in done.stderr
    assert "needs the full tier" in done.stderr


def test_a_stored_plan_and_a_compiled_program_keep_the_tier(tmp_path: Path) -> None:
    kernel = without_namespaces()
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [HARDRUN, "run", "--policy", "agent", "--", "sh", "-c",
               "echo $HOME; ls $HOME"]
    for _ in range(2):
        done = kernel.run(command, env={**os.environ, "PYTHONPATH": str(ROOT), **environment})
        assert done.stdout.startswith("/tmp/hardrun-0x"), done.stderr
    assert list((tmp_path / "cache" / "hardrun").rglob("*.plan"))
    program = tmp_path / "program"
    work = tmp_path / "work"
    work.mkdir()
    made = hardrun(kernel, "compile", "--policy", "build", "--rw", ".", "-o", str(program), "--",
                   "touch", "made", cwd=str(work))
    assert made.returncode == 0, made.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert kernel.run([str(program)], cwd=elsewhere).returncode == 0
    assert (elsewhere / "made").exists()
    home = kernel.run([str(program)], cwd=Path.home())
    assert home.returncode == 125
    assert "working directory" in home.stderr
    # where there are namespaces a compiled program still has the tier that was decided
    assert subprocess.run([program], cwd=work).returncode == 0
    assert (work / "made").exists()


def test_what_is_run_later_is_told_when_it_was_changed(tmp_path: Path) -> None:
    hooks = tmp_path / ".git" / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "pre-commit").write_text("#!/bin/sh\n")
    report = tmp_path / "report"
    done = hardrun(without_namespaces(), "run", "--policy", "agent", "--rw", str(tmp_path),
                   "--report", str(report), "--", "sh", "-c",
                   f"echo evil >> {hooks}/pre-commit; echo A=1 > {tmp_path}/.envrc")
    assert done.returncode == 0, done.stderr
    document = json.loads(report.read_text())
    assert document["tier"] == "landlock"
    assert document["created"] == [str(tmp_path / ".envrc"), str(hooks)]
    assert "filesystem.protected" in {d["control"] for d in document["degraded"]}


def test_programs_find_what_they_need() -> None:
    script = "python3 -c 'import ssl, tempfile; print(tempfile.gettempdir())'; git --version"
    done = hardrun(without_namespaces(), "run", "--policy", "agent", "--refresh", "--", "sh", "-ec",
                   script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("/tmp/hardrun-0x")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_compiler_works(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("int main(void) { return 3; }\n")
    done = hardrun(without_namespaces(), "run", "--policy", "build", "--rw", str(tmp_path), "--",
                   "sh", "-ec", f"cd {tmp_path}; gcc a.c -o a; ./a")
    assert done.returncode == 3, done.stderr


def test_verify_finds_the_sandbox_and_what_holds_in_it() -> None:
    script = """
import json, subprocess, sys
hardrun = sys.argv[1:2]
with subprocess.Popen([*hardrun, "run", "--policy", "agent", "--refresh", "--", "sh", "-c",
                       "echo ready; read line"], stdin=subprocess.PIPE,
                      stdout=subprocess.PIPE) as running:
    running.stdout.readline()
    done = subprocess.run([*hardrun, "verify", "--json", str(running.pid)], capture_output=True)
    running.stdin.close()
print(done.stdout.decode() or json.dumps(done.stderr.decode()))
sys.exit(done.returncode)
"""
    done = without_namespaces().run([sys.executable, "-c", script, HARDRUN],
                                    env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {check["control"]: check for process in json.loads(done.stdout)["processes"]
              for check in process["checks"]}
    assert checks["landlock"]["result"] == "holds"
    assert checks["capabilities"]["result"] == "holds"
    assert "differs" not in {check["result"] for check in checks.values()}


def test_a_start_can_be_verified_first() -> None:
    done = hardrun(without_namespaces(), "run", "--policy", "agent", "--verify", "--", "echo", "ok")
    assert (done.stdout, done.returncode) == ("ok\n", 0), done.stderr
