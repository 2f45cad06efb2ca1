"""Root's limits on a host whose systemd still uses cgroup v1, memory among them.

The rest is tested on any host with such hierarchies (tests/sandbox/test_cgroup_v1.py).
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.groups import HOLD, PATIENT, groups
from tests.vm.guest import as_root, run_as, sysctl

pytestmark = pytest.mark.vm("bare")
TOP = Path("/sys/fs/cgroup")
LITTLE = ("--memory", "64M", "--swap", "0", "--")
EAT = "python3 -c 'bytearray(200 << 20)'; echo survived"
FULL, BARE = "contained", "agent"  # in the full tier, and without namespaces


@pytest.fixture(autouse=True)
def no_group_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 20
    while (left := groups()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


@pytest.fixture
def tier(request: pytest.FixtureRequest) -> Iterator[str]:
    """A policy; this machine has no user namespaces, and gives root some for that of namespaces."""
    before = sysctl("user.max_user_namespaces", "100") if request.param == FULL else ""
    yield request.param
    if before:
        sysctl("user.max_user_namespaces", before)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return run_as("root", ["hardrun", "run", *words])


def reported(*words: str) -> dict[str, Any]:
    run("--report", "/run/hardrun-report", *words)
    document: dict[str, Any] = json.loads(as_root("cat", "/run/hardrun-report"))
    return document


class Held:
    """A sandbox of root's that waits for a line."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            ["sudo", "-n", "env", "-i", "HOME=/root", "PATH=/opt/venv/bin:/usr/bin:/bin",
             "hardrun", "run", *PATIENT, *options, "--", "sh", "-c", HOLD],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        assert ready == "ready\n", self.process.communicate(timeout=60)
        [self.pids] = [path for path in groups() if path.parts[4] == "pids"
                       and not path.name.endswith(".scope")]
        self.executor = int(self.pids.name.removeprefix("hardrun-"))

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate("go\n", timeout=60)

    def file(self, name: str) -> Path:
        controller = name.split(".")[0]
        [group] = [path for path in groups() if path.name == self.pids.name
                   and controller in path.parts[4].split(",")]
        return group / name

    def read(self, name: str) -> str:
        return self.file(name).read_text().strip()

    def members(self, name: str) -> list[int]:
        return [int(pid) for pid in
                self.file(name).with_name("cgroup.procs").read_text().split()]


@pytest.mark.parametrize("tier", [FULL], indirect=True)
def test_systemd_gives_a_scope_in_every_hierarchy_that_it_manages(tier: str) -> None:
    raised = {"memory.memsw.limit_in_bytes": "-1", "memory.limit_in_bytes": "-1", "pids.max": "max"}
    with Held("--policy", tier, "--memory", "128M", "--swap", "16M", "--pids", "20", "--cpus",
              "0.5", "--cpuset", "0", "--io", "1M") as held:
        assert held.read("memory.limit_in_bytes") == str(128 << 20)
        assert held.read("memory.memsw.limit_in_bytes") == str(144 << 20)
        assert held.read("pids.max") == "21"
        assert held.read("cpu.cfs_quota_us") == "50000"
        assert held.read("cpuset.cpus") == "0"
        assert f" {1 << 20}\n" in held.file("blkio.throttle.read_bps_device").read_text()
        for file in raised:
            group = held.file(file).parent
            assert group.parent.name.startswith("hardrun-")
            assert group.parent.name.endswith(".scope")
            assert len(held.members(file)) == 2
            assert held.executor not in held.members(file)
        found = run_as("root", ["hardrun", "verify", str(held.executor)])
        assert found.returncode == 0, found.stdout + found.stderr
        as_root("sh", "-c", "; ".join(f"echo {text} > {held.file(file)}"
                                      for file, text in raised.items()))
        lost = run_as("root", ["hardrun", "verify", str(held.executor)])
        assert lost.returncode == 1
        for file in raised:
            assert str(held.file(file)) in lost.stdout
        init = min(held.members("memory.limit_in_bytes"))
        as_root("sh", "-c", f"echo {init} > /sys/fs/cgroup/memory/cgroup.procs")
        assert held.process.wait(60) == 125


@pytest.mark.parametrize("tier", [FULL, BARE], indirect=True)
def test_too_much_memory_ends_the_whole_sandbox_with_a_verdict(tier: str) -> None:
    """Version 1 kills a single process: the parent ends what is left of the sandbox."""
    report = reported("--policy", tier, *LITTLE, "sh", "-c", f"{EAT}; sleep 100")
    assert report["outcome"] == "memory-limit"
    assert report["message"] == "killed: memory limit 64M"
    assert report["returncode"] == 128 + signal.SIGKILL
    assert report["usage"]["wall"] < 100
    assert report["usage"]["oom_kills"] >= 1
    assert 32 << 20 < report["usage"]["memory_peak"] <= 64 << 20


@pytest.mark.parametrize("tier", [FULL], indirect=True)
def test_what_half_a_sandbox_answers_counts_for_nothing(tier: str) -> None:
    """Though it may have ended by itself before the parent has seen what the kernel killed."""
    assert run("--policy", tier, *LITTLE, "sh", "-c", EAT).returncode == 128 + signal.SIGKILL
    enough = run("--policy", tier, "--memory", "512M", "--", "sh", "-c", EAT)
    assert (enough.returncode, enough.stdout) == (0, "survived\n")


@pytest.mark.parametrize("tier", [FULL], indirect=True)
def test_a_killed_parent_leaves_nothing_for_long(tier: str) -> None:
    with Held("--policy", tier, "--memory", "128M", "--pids", "20") as held:
        as_root("kill", "-9", str(held.executor))
    assert run("--policy", tier, "--memory", "128M", "--", "true").returncode == 0


@pytest.mark.parametrize("tier", [FULL], indirect=True)
def test_groups_that_root_made_are_used_and_no_other_hierarchy(tier: str) -> None:
    boxes = [TOP / name / "boxes" for name in ("memory", "pids")]
    as_root("mkdir", *map(str, boxes))
    try:
        with Held("--policy", tier, "--memory", "128M", "--swap", "0", "--pids", "20",
                  "--cgroup-parent", "boxes") as held:
            assert held.pids.parent == TOP / "pids/boxes"
            assert held.file("memory.limit_in_bytes").parent.parent == TOP / "memory/boxes"
            assert len([path for path in groups() if path.name == held.pids.name]) == 2
    finally:
        as_root("rmdir", *map(str, boxes))


def test_an_ordinary_user_is_told_and_gets_what_rlimits_can_do() -> None:
    """Nobody but root may write to version 1: it can't be delegated safely."""
    facts = json.loads(subprocess.run(["hardrun", "doctor", "--json"], capture_output=True,
                                      text=True, timeout=100).stdout)
    assert facts["cgroup"]["cause"] == "cgroup-v1"
    assert facts["cgroup_hierarchies"] == []
    done = subprocess.run(["hardrun", "explain", "--policy", BARE, "--memory", "64M", "--", "true"],
                          capture_output=True, text=True, timeout=100)
    assert "RLIMIT_DATA" in done.stdout
