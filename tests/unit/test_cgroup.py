"""A sandbox's cgroup as far as it is decided and told: messages, operations, usage, read-backs."""

from __future__ import annotations

from typing import Any

import pytest

from hardrun.errors import HostUnsupported, PolicyRefused
from hardrun.executor import report
from hardrun.host.facts import Fact
from hardrun.kernel.cgroups import GROUP
from hardrun.kernel.systemd import scope_messages
from hardrun.plan.compile import PlannedRun
from hardrun.posture import limits
from hardrun.verify.check import Answer, Subject
from hardrun.verify.limits import READ_BACK, of_init
from tests.planning import YES, facts, named, plan

EVERY = ("cpu", "cpuset", "io", "memory", "pids", "swap")
LINES = b"""outcome exited
started 1
status 0
cgroup.cpu.stat usage_usec 1500
cgroup.cpu.stat throttled_usec 2500000
cgroup.memory.events oom_kill 2
cgroup.memory.peak 4096
cgroup.pids.events max 3
cgroup.pids.peak 5
cgroup.io.stat 259:0 rbytes=10 wbytes=20 rios=1
cgroup.io.stat 8:0 rbytes=1 wbytes=2
cgroup.memory.pressure some avg10=0.00 avg60=0.00 avg300=0.00 total=500000
cgroup.memory.pressure full avg10=0.00 avg60=0.00 avg300=0.00 total=9
"""


def grouped(bus: str = "", controllers: tuple[str, ...] = EVERY, **options: Any) -> PlannedRun:
    """A plan for a host that offers a group."""
    host = facts(cgroup=YES, cgroup_delegation=YES, cgroup_directory="/sys/fs/cgroup/.",
                 cgroup_bus=bus, cgroup_controllers=controllers)
    return plan("true", host=host, **options)


def written(planned: PlannedRun) -> dict[str, str]:
    """What the group gets: file → text."""
    return {str(o.values[0]): str(o.values[1]) for o in named(planned, "cgroup_limit")}


def test_the_messages_say_where_the_executor_fills_in() -> None:
    messages = scope_messages(1000)
    assert messages.data.startswith(b"\0AUTH EXTERNAL 31303030\r\nBEGIN\r\n")
    request = messages.data[messages.request:]
    assert request[:2] == b"l\1"  # little-endian, a method call
    assert b"StartTransientUnit" in request
    assert request[messages.name - 8:messages.name + 22] == b"hardrun-" + b"0" * 16 + b".scope"
    assert request[messages.pids:messages.pids + 8] == b"\xfe\xff\xff\xff\xfd\xff\xff\xff"
    assert len(request) < 2048  # what the executor has room for


def test_limits_are_written_where_a_group_takes_them_and_nothing_stands_in() -> None:
    planned = grouped(values={"limits__memory": 64 << 20, "limits__swap": 0, "limits__pids": 16,
                              "limits__cpus": 1500})
    assert written(planned) == {
        "memory.max": str(64 << 20), "memory.oom.group": "1", "memory.swap.max": "0",
        "pids.max": "17", "cpu.max": "150000 100000"}
    [place] = named(planned, "cgroup")
    assert place.values[:3] == ("/sys/fs/cgroup/.", "+cpu +memory +pids", "")
    resources = {o.values[0] for o in named(planned, "set_limit")}
    assert not resources & {2, 6}  # RLIMIT_DATA, RLIMIT_NPROC
    [watched] = named(planned, "watch")
    assert watched.values == (0, 60_000)


def test_the_cgroup_namespace_is_made_after_the_move() -> None:
    for bus in ("", "/run/user/1000/bus"):
        planned = grouped(bus)
        [clone], [wait] = named(planned, "clone"), named(planned, "await_cgroup")
        assert not int(clone.values[0]) & 0x02000000
        assert wait.values == (int(bool(bus)), 1)
    [clone] = named(plan("true"), "clone")
    assert int(clone.values[0]) & 0x02000000


def test_a_hundredth_of_a_cpu_and_less_has_a_longer_period() -> None:
    assert written(grouped(values={"limits__cpus": 1}))["cpu.max"] == "1000 1000000"
    assert written(grouped(values={"limits__cpus": 10}))["cpu.max"] == "1000 100000"


def test_a_plan_with_disks_in_it_is_not_stored() -> None:
    assert grouped().storable
    assert not grouped(values={"limits__io": 1 << 20}).storable


def test_a_plan_without_cgroup_v2_is_stale_on_the_first_boot_that_has_it() -> None:
    def conditions(cause: str) -> set[str]:
        lacking = Fact(available=False, cause=cause)
        host = facts(cgroup=lacking, cgroup_delegation=lacking)
        return {str(o.values[0]) for o in named(plan("true", host=host, pinned=False),
                                                "require_path")}

    unified = "/sys/fs/cgroup/cgroup.controllers"
    assert unified in conditions("cgroup-v1")
    assert unified not in conditions("cgroup-not-delegated")
    assert f"/run/user/{facts().uid}/bus" in conditions("cgroup-not-delegated")


def test_cpus_that_are_not_there_or_not_left_are_refused() -> None:
    with pytest.raises(HostUnsupported, match="CPUs 8191 asked"):
        grouped(values={"limits__cpuset": frozenset({8191})})
    with pytest.raises(PolicyRefused, match="no CPU is left"):
        grouped(values={"limits__cpuset": frozenset()})


def test_what_the_kernel_counted_is_the_usage() -> None:
    usage = report.usage_of(report.parse(LINES))
    assert (usage.memory_peak, usage.oom_kills, usage.pids_refused) == (4096, 2, 3)
    assert usage.pids_peak == 4  # without PID 1
    assert (usage.read, usage.written) == (11, 22)
    assert (usage.throttled, usage.stalled) == (2.5, {"memory": 0.5})


def test_without_a_group_nothing_was_counted() -> None:
    usage = report.usage_of(report.parse(b"outcome exited\nstarted 1\nstatus 0\n"))
    assert (usage.memory_peak, usage.pids_peak, usage.read, usage.oom_kills) == (None,) * 4
    assert not usage.stalled


class Read(Subject):
    """A process of which the group's files alone are known."""

    def __init__(self, layer: str, values: dict[Any, Any], files: dict[str, str]) -> None:
        object.__setattr__(self, "layers", (f"{limits.CGROUP}{layer}",))
        object.__setattr__(self, "given", values)
        object.__setattr__(self, "files", {GROUP: "/sys/fs/cgroup/x", **files})

    def value(self, control: Any) -> Any:
        return self.__dict__["given"][control]

    def read(self, name: str) -> Any:
        assert name == "cgroup"
        return self.__dict__["files"]


@pytest.mark.parametrize("control, value, file, kept, lost", [
    (limits.SWAP, 0, "memory.swap.max", "0", "1"),
    (limits.PIDS, 16, "pids.max", "17", "18"),
    (limits.CPUS, 500, "cpu.max", "50000 100000", "max 100000"),
    (limits.CPUS, 500, "cpu.max", "10000 100000", "60000 100000"),
    (limits.CPUSET, frozenset({0, 1}), "cpuset.cpus.effective", "0-1", "0-2"),
])
def test_a_raised_or_lost_limit_differs(control: Any, value: Any, file: str, kept: str,
                                        lost: str) -> None:
    def answer(files: dict[str, str]) -> Answer:
        return READ_BACK[control.id](Read(file.removesuffix(".effective"), {control: value}, files))

    assert answer({file: kept}).holds
    assert not answer({file: lost}).holds
    assert not answer({}).holds  # moved to a group without the controller
    assert answer({file: kept}).evidence == f"/sys/fs/cgroup/x/{file}"


@pytest.mark.parametrize("files, held", [
    ({"memory.max": "4096", "memory.oom.group": "1"}, True),
    ({"memory.max": "1024", "memory.oom.group": "1"}, True),
    ({"memory.max": "8192", "memory.oom.group": "1"}, False),
    ({"memory.max": "max", "memory.oom.group": "1"}, False),
    ({"memory.max": "4096", "memory.oom.group": "0"}, False),  # half a sandbox would live on
    ({}, False),
])
def test_a_memory_limit_ends_the_whole_sandbox(files: dict[str, str], held: bool) -> None:
    subject = Read("memory.max", {limits.MEMORY: 4096}, files)
    assert READ_BACK[limits.MEMORY.id](subject).holds == held


@pytest.mark.parametrize("text, held", [
    ("8:0 rbps=9 wbps=9 riops=max wiops=max\n8:16 rbps=9 wbps=9 riops=max wiops=max", True),
    ("8:0 rbps=9 wbps=max riops=max wiops=max\n8:16 rbps=9 wbps=9 riops=max wiops=max", False),
    ("8:0 rbps=9 wbps=9 riops=max wiops=max", False),  # one of two disks has lost its line
    ("8:0 rbps=9\n8:16 rbps=9 wbps=9", False),
    ("", False),
])
def test_a_rate_holds_for_every_disk(monkeypatch: pytest.MonkeyPatch, text: str, held: bool
                                     ) -> None:
    monkeypatch.setattr("hardrun.verify.limits.disks", lambda: ["8:0", "8:16"])
    answer = READ_BACK[limits.IO.id](Read("io.max", {limits.IO: 9}, {"io.max": text}))
    assert answer.holds == held


def test_pid_1_is_in_the_group_and_has_no_rlimits() -> None:
    assert of_init(("cgroup:memory.max",))
    assert not of_init(("RLIMIT_DATA", "watcher"))
    assert not of_init(("cgroup:cpu.stat", "RLIMIT_CPU"))
