"""Compile step: the sandbox's cgroup and what is written there, before the workload starts."""

from __future__ import annotations

import os
from pathlib import Path

from hardrun.errors import HostUnsupported, PolicyRefused
from hardrun.host.cgroup import Candidate
from hardrun.plan.context import Context, Program
from hardrun.plan.isolation import content_of, dependency_of
from hardrun.posture import limits, units
from hardrun.posture.control import UNLIMITED

_PERIOD, _LONG_PERIOD = 100_000, 1_000_000  # µs; the kernel takes no quota below 1 ms
_CPUSET = limits.CPUSET.id
_UNIFIED = "/sys/fs/cgroup/cgroup.controllers"  # there where systemd made version 2 the only one
_COMPARED = 511  # bytes of a file that the executor compares


def add_cgroup(program: Program) -> None:
    """A group of the sandbox's own, if the Decision enforces a limit by one.

    Raises HostUnsupported for CPUs that this host has not.
    """
    context, facts = program.context, program.context.facts
    controls = context.in_cgroup()
    if not controls:
        return
    files = {control: _files(context, control) for control in sorted(controls)}
    controllers = {file.split(".")[0] for written in files.values() for file, _ in written}
    if facts.cgroup_hierarchies:
        controllers |= {layer.removeprefix(limits.CGROUP).split(".")[0] for control in controls
                        for layer in context.layers[control] if layer.startswith(limits.CGROUP)}
    place = Candidate("", facts.cgroup_directory, facts.cgroup_bus, (), facts.cgroup_hierarchies,
                      facts.cgroup_cpuset)
    first = min(controls, key=list(context.layers).index)
    for operation in place.place(controllers, facts.uid):
        program.add(first, operation.name, *operation.values)
    for control, written in files.items():
        for file, value in written:
            program.add(control, "cgroup_limit", file, value)
    namespace = "cgroup" not in context.names("namespaces.shared")
    program.add(first, "await_cgroup", int(place.moves), int(namespace))


def add_conditions(program: Program) -> None:
    """A stored plan is made anew when systemd comes or goes, when a group may be delegated, and on
    the first boot with cgroup v2.

    A group that can't be made at a start makes the plan stale by itself.
    """
    facts = program.context.facts
    if facts.cgroup.available and facts.cgroup_bus:
        path, device, inode, *_ = dependency_of(facts.cgroup_bus)
        program.add("limits", "require_path", path, device, inode, 0, 0)
    elif facts.cgroup.cause == "cgroup-not-delegated":
        program.add("limits", "require_path", f"/run/user/{facts.uid}/bus", 0, 0, 0, 0)
        group = content_of("/proc/self/cgroup")
        if group is not None and len(group) < _COMPARED:
            program.add("limits", "require_content", "/proc/self/cgroup", group)
    elif facts.cgroup.cause == "cgroup-v1":
        path, device, inode, *_ = dependency_of(_UNIFIED)
        program.add("limits", "require_path", path, device, inode, 0, 0)


def _files(context: Context, control: str) -> list[tuple[str, str]]:
    """What a control writes: file and text. CPU time is counted by every group, unasked."""
    if control == _CPUSET:
        return [("cpuset.cpus", units.show_cpu_list(_cpus(context)))]
    value = context.number(control)
    if value >= UNLIMITED:
        return []
    if context.facts.cgroup_hierarchies:
        return _files_v1(context, control, value)
    if control == limits.MEMORY.id:
        # Half a sandbox after an OOM kill is of no use to anybody, and the verdict must be sure.
        return [("memory.max", str(value)), ("memory.oom.group", "1")]
    if control == limits.SWAP.id:
        return [("memory.swap.max", str(value))]
    if control == limits.PIDS.id:
        return [("pids.max", str(min(value + 1, 1 << 22)))]  # and PID 1, the executor's own
    if control == limits.CPUS.id:
        return [("cpu.max", f"{value * _period(value) // 1000} {_period(value)}")]
    if control == limits.IO.id:
        return [("io.max", f"{disk} rbps={value} wbps={value}") for disk in disks()]
    return []


def _period(thousandths: int) -> int:
    return _PERIOD if thousandths >= 10 else _LONG_PERIOD


def _files_v1(context: Context, control: str, value: int) -> list[tuple[str, str]]:
    """The same of version 1. Raises HostUnsupported for swap without memory."""
    if control == limits.MEMORY.id:
        return [("memory.limit_in_bytes", str(value))]
    if control == limits.SWAP.id:
        memory = context.number(limits.MEMORY.id)
        if memory >= UNLIMITED:
            raise HostUnsupported(f"{control}: cgroup v1 limits swap together with memory alone",
                                  fact="cgroup", controls=(control,), hint="give --memory, too")
        return [("memory.memsw.limit_in_bytes", str(memory + value))]
    if control == limits.PIDS.id:
        return [("pids.max", str(min(value + 1, 1 << 22)))]
    if control == limits.CPUS.id:
        return [("cpu.cfs_period_us", str(_period(value))),
                ("cpu.cfs_quota_us", str(value * _period(value) // 1000))]
    if control == limits.IO.id:
        return [(f"blkio.throttle.{way}_bps_device", f"{disk} {value}")
                for disk in disks() for way in ("read", "write")]
    return []


def _cpus(context: Context) -> frozenset[int]:
    """The CPUs to use. The kernel takes a set of CPUs that are not there, and then gives all."""
    value = context.posture[_CPUSET]
    assert isinstance(value, frozenset)
    if not value:
        raise PolicyRefused(f"{_CPUSET}: no CPU is left ({context.reason(_CPUSET)})",
                            hint="policies that apply together must have a CPU in common")
    here = frozenset(os.sched_getaffinity(0))
    if not value & here or (context.workload.cpuset is not None and not value <= here):
        raise HostUnsupported(f"{_CPUSET}: CPUs {units.show_cpu_list(value)} asked, this host has "
                              f"{units.show_cpu_list(here)}", fact="cpus", controls=(_CPUSET,),
                              hint=f"--cpuset {units.show_cpu_list(here)}")
    return value


def disks() -> list[str]:
    """``major:minor`` of every disk, as io.max takes them; partitions count for theirs."""
    found = []
    for name in sorted(os.listdir("/sys/block")) if os.path.isdir("/sys/block") else ():
        number = Path(f"/sys/block/{name}/dev").read_text(encoding="ascii").strip()
        size = Path(f"/sys/block/{name}/size").read_text(encoding="ascii").strip()
        if size != "0" and not name.startswith(("loop", "ram", "zram")):
            found.append(number)
    return found
