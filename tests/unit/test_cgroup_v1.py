"""Limits by cgroup v1 as far as they are decided and told; the kernel's part is tests/sandbox."""

from __future__ import annotations

from typing import Any

import pytest

from hardrun.errors import HostUnsupported
from hardrun.executor import report
from hardrun.kernel import cgroups
from hardrun.plan.compile import PlannedRun
from hardrun.plan.schema import Operation
from hardrun.posture import limits
from hardrun.posture.control import UNLIMITED
from hardrun.verify.limits import READ_BACK
from tests.planning import YES, facts, named, plan
from tests.unit.test_cgroup import Read, written

EVERY = ("cpu", "cpuacct", "cpuset", "io", "memory", "pids", "swap")
APART = tuple((name, f"/v1/{name}/.")
              for name in ("blkio", "cpu", "cpuacct", "cpuset", "memory", "pids"))
JOINED = (("cpu,cpuacct", "/v1/cpu,cpuacct/boxes"), ("cpuset", "/v1/cpuset/boxes"),
          ("memory", "/v1/memory/boxes"), ("pids", "/v1/pids/boxes"))
SELF = """\
12:memory:/system.slice/job.service
8:pids:/system.slice/a:memory:/b
2:cpu,cpuacct:/
1:name=systemd:/system.slice/job.service
0::/init.scope
"""


def grouped(hierarchies: tuple[tuple[str, str], ...] = APART, bus: str = "",
            controllers: tuple[str, ...] = EVERY, **options: Any) -> PlannedRun:
    """A plan for a host that offers root its hierarchies of version 1."""
    host = facts(cgroup=YES, cgroup_delegation=YES, cgroup_directory=hierarchies[0][1],
                 cgroup_bus=bus, cgroup_controllers=controllers, cgroup_hierarchies=hierarchies,
                 cgroup_cpuset=("0-3", "0"))
    return plan("true", host=host, **options)


def places(planned: PlannedRun) -> list[str]:
    """The hierarchies in which a group is made."""
    return [str(o.values[1]) for o in named(planned, "cgroup_v1")]


def test_limits_have_the_names_and_units_of_version_1() -> None:
    planned = grouped(values={"limits__memory": 64 << 20, "limits__swap": 4096, "limits__pids": 16,
                              "limits__cpus": 1500, "limits__cpuset": frozenset({0})})
    assert written(planned) == {
        "memory.limit_in_bytes": str(64 << 20),
        "memory.memsw.limit_in_bytes": str((64 << 20) + 4096),
        "pids.max": "17", "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000",
        "cpuset.cpus": "0", "cpuset.mems": "0"}
    assert places(planned) == ["cpu", "cpuacct", "cpuset", "memory", "pids"]
    assert not named(planned, "cgroup")
    [wait] = named(planned, "await_cgroup")
    assert wait.values == (1, 1)


def test_a_group_can_hold_processes_before_it_is_limited_to_some_cpus() -> None:
    """A new cpuset is empty: what is around it is written first, then what was asked."""
    planned = grouped(values={"limits__cpuset": frozenset({0})})
    texts = [o.values for o in named(planned, "cgroup_limit") if "cpuset" in str(o.values[0])]
    assert texts == [("cpuset.cpus", "0-3"), ("cpuset.mems", "0"), ("cpuset.cpus", "0")]


def test_only_hierarchies_with_something_to_limit_or_to_count_get_a_group() -> None:
    bare = {f"limits__{name}": UNLIMITED for name in ("memory", "pids", "cpu_time")}
    assert places(grouped(values=bare)) == []
    assert places(grouped(values={**bare, "limits__pids": 9})) == ["pids"]
    assert places(grouped(values={**bare, "limits__cpu_time": 9000})) == ["cpuacct"]
    assert places(grouped(JOINED, values={**bare, "limits__cpu_time": 9000, "limits__cpus": 100})
                  ) == ["cpu,cpuacct"]


def test_systemd_is_asked_once_for_all_of_them() -> None:
    planned = grouped(bus="/run/dbus/system_bus_socket")
    [asked] = named(planned, "cgroup")
    assert asked.values[1:3] == ("", "/run/dbus/system_bus_socket")
    assert planned.operations.index(asked) < planned.operations.index(
        named(planned, "cgroup_v1")[0])


def test_swap_alone_can_not_be_limited_and_that_is_said() -> None:
    with pytest.raises(HostUnsupported, match="together with memory"):
        grouped(values={"limits__swap": 0, "limits__memory": UNLIMITED})


def test_what_a_hierarchy_lacks_is_said_as_elsewhere() -> None:
    without = tuple(name for name in EVERY if name not in ("memory", "swap"))
    host = facts(cgroup=YES, cgroup_hierarchies=APART, cgroup_controllers=without)
    assert limits.MEMORY.enforcement(1 << 30, host).by == ("RLIMIT_DATA", "watcher")
    assert limits.PIDS.enforcement(9, host).by == ("cgroup:pids.max",)
    assert limits.CPU_TIME.enforcement(9, host).by[0] == "cgroup:cpuacct.usage"


def test_writes_through_the_page_cache_are_not_held_back_and_that_is_said() -> None:
    host = facts(cgroup=YES, cgroup_hierarchies=APART, cgroup_controllers=EVERY)
    enforcement = limits.IO.enforcement(1 << 20, host)
    assert (enforcement.kind, enforcement.by) == (
        "degraded", ("cgroup:blkio.throttle.write_bps_device",))
    assert "page cache" in enforcement.because


@pytest.mark.parametrize("layer, values, files, held", [
    ("memory.limit_in_bytes", {limits.MEMORY: 8192}, {"memory.limit_in_bytes": "8192"}, True),
    ("memory.limit_in_bytes", {limits.MEMORY: 8192},
     {"memory.limit_in_bytes": "9223372036854771712"}, False),
    ("memory.memsw.limit_in_bytes", {limits.MEMORY: 8192, limits.SWAP: 4096},
     {"memory.memsw.limit_in_bytes": "12288"}, True),
    ("memory.memsw.limit_in_bytes", {limits.MEMORY: 8192, limits.SWAP: 4096},
     {"memory.memsw.limit_in_bytes": "16384"}, False),
    ("pids.max", {limits.PIDS: 16}, {"pids.max": "17"}, True),
    ("pids.max", {limits.PIDS: 16}, {"pids.max": "max"}, False),
    ("cpu.cfs_quota_us", {limits.CPUS: 500},
     {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"}, True),
    ("cpu.cfs_quota_us", {limits.CPUS: 500},
     {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "50000"}, False),
    ("cpu.cfs_quota_us", {limits.CPUS: 500},
     {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, False),
    ("cpuset.cpus", {limits.CPUSET: frozenset({0})}, {"cpuset.effective_cpus": "0"}, True),
    ("cpuset.cpus", {limits.CPUSET: frozenset({0})}, {"cpuset.effective_cpus": "0-1"}, False),
])
def test_a_raised_limit_differs_and_a_lost_one_too(layer: str, values: dict[Any, Any],
                                                   files: dict[str, str], held: bool) -> None:
    control = next(iter(values)) if layer != "memory.memsw.limit_in_bytes" else limits.SWAP
    where = {layer.split(".")[0]: "/v1/group"}
    answer = READ_BACK[control.id](Read(layer, values, {**where, **files}))
    assert answer.holds == held
    assert answer.evidence.startswith("/v1/group/")
    assert not READ_BACK[control.id](Read(layer, values, {})).holds  # moved out of the group


@pytest.mark.parametrize("read, write, held", [
    ("8:0 9\n8:16 9", "8:0 9\n8:16 9", True),
    ("8:0 9\n8:16 9", "8:0 9", False),  # one of two disks has lost its line
    ("8:0 9\n8:16 10", "8:0 9\n8:16 9", False),
    ("", "", False),
])
def test_a_rate_holds_for_every_disk_both_ways(monkeypatch: pytest.MonkeyPatch, read: str,
                                               write: str, held: bool) -> None:
    monkeypatch.setattr("hardrun.verify.limits.disks", lambda: ["8:0", "8:16"])
    files = {"blkio.throttle.read_bps_device": read, "blkio.throttle.write_bps_device": write}
    layer = "blkio.throttle.write_bps_device"
    assert READ_BACK[limits.IO.id](Read(layer, {limits.IO: 9}, files)).holds == held


def test_the_usage_is_what_version_1_counted() -> None:
    usage = report.usage_of(report.parse(b"""outcome exited
started 1
cgroup.cpu.stat nr_periods 4
cgroup.cpu.stat throttled_time 2500000000
cgroup.memory.oom_control oom_kill_disable 0
cgroup.memory.oom_control oom_kill 2
cgroup.memory.max_usage_in_bytes 4096
cgroup.pids.events max 3
cgroup.blkio.throttle.io_service_bytes 254:0 Read 10
cgroup.blkio.throttle.io_service_bytes 254:0 Write 20
cgroup.blkio.throttle.io_service_bytes 254:16 Read 1
cgroup.blkio.throttle.io_service_bytes Total 31
"""))
    assert (usage.memory_peak, usage.oom_kills, usage.pids_refused) == (4096, 2, 3)
    assert (usage.read, usage.written, usage.throttled) == (11, 20, 2.5)


@pytest.mark.parametrize("hierarchy, root, directory", [
    ("", "/", "/top/init.scope"),
    ("memory", "/", "/top/system.slice/job.service"),
    ("memory", "/system.slice", "/top/job.service"),  # a container's mount starts at its group
    ("memory", "/system.slice/job.service", "/top"),
    ("pids", "/", "/top/system.slice/a:memory:/b"),  # anybody may name a group like a line
    ("cpu,cpuacct", "/", "/top"),
    ("cpu", "/", "/top"),
])
def test_the_group_of_a_hierarchy_is_told_by_its_line_alone(hierarchy: str, root: str,
                                                            directory: str) -> None:
    assert cgroups.directory_of(SELF, "/top", root, hierarchy) == directory


@pytest.mark.parametrize("text, root, directory", [
    ("0::/../../other\n", "/", "/other"),  # from a cgroup namespace: above its root
    ("0::/gone (deleted)\n", "/", "/top/gone (deleted)"),
    ("0::/a:b::/c\n", "/", "/top/a:b::/c"),
    ("0::/job\n", "/jo", "/top/job"),  # not below it: a name that only begins alike
    ("0::/\n", "/", "/top"),
    ("", "/", "/top"),
    ("1:name=systemd:/x\n", "/", "/top"),  # no version 2
])
def test_what_stands_for_the_group_of_version_2(text: str, root: str, directory: str) -> None:
    assert cgroups.directory_of(text, "/top", root) == directory


@pytest.mark.parametrize("text", ["0", "0:", "0::/ok\nhalf a line", "\n", "0::/ok\n1:memory"])
def test_what_is_no_line_of_proc_cgroup_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="unpack"):
        cgroups.directory_of(text, "/top", "/")


def test_no_operation_of_version_1_reaches_a_plan_without_it() -> None:
    planned: list[Operation] = [*plan("true").operations]
    assert not {o.name for o in planned} & {"cgroup", "cgroup_v1", "cgroup_limit", "await_cgroup"}
