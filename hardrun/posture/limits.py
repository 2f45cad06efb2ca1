"""Limits of memory, processes, time and space: the smaller one is the stricter one.

In a cgroup they hold for all processes together. Without one some of them hold for each process
alone; that is said as *degraded*, with what stands in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hardrun.posture import units
from hardrun.posture.control import UNLIMITED, Control, Enforcement, degraded, enforced
from hardrun.posture.orders import Amount, Covering

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts

Rule = Callable[[int, "HostFacts"], Enforcement]
CGROUP = "cgroup:"
"""What the layers begin with that are files of the sandbox's cgroup: ``cgroup:memory.max``."""
_DELEGATE = ("as root: put 'Delegate=cpu cpuset io memory pids' below [Service] in"
             " /etc/systemd/system/user@.service.d/delegate.conf, then systemctl daemon-reload and"
             " a new login")


def _by(*layers: str) -> Rule:
    """Enforced by the executor or the kernel without a cgroup."""
    def rule(value: int, facts: HostFacts) -> Enforcement:
        return enforced("not limited") if value == UNLIMITED else enforced(*layers)
    return rule


def _grouped(facts: HostFacts, controller: str, layers: tuple[str, ...],
             stand_ins: tuple[str, ...] = ()) -> Enforcement:
    """By a controller of the sandbox's cgroup, or by what stands in for it.

    ``swap`` stands for memory.swap.max, which a kernel may lack where it has memory.max.
    """
    if controller == "io" and controller in facts.cgroup_controllers and facts.cgroup_hierarchies:
        return degraded(*layers, because="cgroup v1 holds back what is read, and no writes that "
                        "the page cache has taken", fact="cgroup")
    if controller in facts.cgroup_controllers:
        return enforced(*layers)
    if controller == "swap" and "memory" in facts.cgroup_controllers:
        return degraded(*stand_ins, because="this kernel does not limit swap", fact="cgroup")
    detail = "" if facts.cgroup.available else f": {facts.cgroup.detail}"
    return degraded(*stand_ins, because=f"{controller} controller not delegated{detail}",
                    fact="cgroup_delegation" if facts.cgroup.available else "cgroup",
                    fix=facts.cgroup.fix or facts.cgroup_delegation.fix or _DELEGATE)


def _in_cgroup(controller: str, file: str, file_v1: str, *stand_ins: str) -> Rule:
    def rule(value: int, facts: HostFacts) -> Enforcement:
        if value == UNLIMITED:
            return enforced("not limited")
        layer = CGROUP + (file_v1 if facts.cgroup_hierarchies else file)
        return _grouped(facts, controller, (layer,), stand_ins)
    return rule


def _cpu_time(value: int, facts: HostFacts) -> Enforcement:
    """Every group counts CPU time, whatever its controllers; RLIMIT_CPU ends a process at once."""
    if value == UNLIMITED:
        return enforced("not limited")
    if facts.cgroup_hierarchies:
        return _grouped(facts, "cpuacct", (f"{CGROUP}cpuacct.usage", "RLIMIT_CPU", "watcher"),
                        ("RLIMIT_CPU", "watcher"))
    if facts.cgroup_controllers:
        return enforced(f"{CGROUP}cpu.stat", "RLIMIT_CPU", "watcher")
    return _grouped(facts, "cpu", (), ("RLIMIT_CPU", "watcher"))


class Cpus(Covering[int]):
    """Numbers of the CPUs that may be used; ``ANY_CPU`` stands for all of them."""

    def covers(self, wide: int, narrow: int) -> bool:
        return wide in (narrow, units.ANY_CPU)

    def parse(self, raw: object) -> frozenset[int]:
        if raw == "any":
            return self.loosest
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            raise ValueError(f"must be a list of CPUs such as '0-3,6', not {raw!r}")
        return units.parse_cpu_list(str(raw))

    def show(self, value: frozenset[int]) -> str:
        return "any" if value == self.loosest else units.show_cpu_list(value) or "none"

    def dump(self, value: frozenset[int]) -> list[Any]:
        return ["any"] if value == self.loosest else sorted(value)

    def load(self, data: Any) -> frozenset[int]:
        if data == ["any"]:
            return self.loosest
        if not isinstance(data, list) or not all(
                type(n) is int and 0 <= n <= units.LARGEST_CPU for n in data):
            raise ValueError(f"{data!r} is not a list of CPUs")
        return frozenset(data)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}],
                "examples": ["0-3,6"]}


def _cpuset(value: frozenset[int], facts: HostFacts) -> Enforcement:
    if value == CPUSET.loosest:
        return enforced("not limited")
    return _grouped(facts, "cpuset", (f"{CGROUP}cpuset.cpus",))


def _size(name: str, title: str, meaning: str, enforce: Rule, least: int = 0) -> Amount:
    return Amount(id=f"limits.{name}", title=title, meaning=meaning, loosest=UNLIMITED,
                  default=UNLIMITED, enforce=enforce, least=least, example="512M",
                  read=units.parse_size, tell=units.show_size, write=units.spell_size)


def _duration(name: str, title: str, meaning: str, enforce: Rule) -> Amount:
    return Amount(id=f"limits.{name}", title=title, meaning=meaning, loosest=UNLIMITED,
                  default=UNLIMITED, enforce=enforce, least=1, example="10m",
                  read=units.parse_duration, tell=units.show_duration, write=units.spell_duration,
                  plain_numbers=False)


def _count(name: str, title: str, meaning: str, enforce: Rule, least: int = 1) -> Amount:
    return Amount(id=f"limits.{name}", title=title, meaning=meaning, loosest=UNLIMITED,
                  default=UNLIMITED, enforce=enforce, least=least, example="256",
                  read=units.parse_count, tell=str, write=str)


MEMORY = _size("memory", "memory", "Memory of the whole sandbox.",
               _in_cgroup("memory", "memory.max", "memory.limit_in_bytes", "RLIMIT_DATA",
                          "watcher"), least=1 << 20)
SWAP = _size("swap", "swap", "Swap space of the whole sandbox, beside its memory.",
             _in_cgroup("swap", "memory.swap.max", "memory.memsw.limit_in_bytes"))
PIDS = _count("pids", "processes", "Processes and threads of the whole sandbox.",
              _in_cgroup("pids", "pids.max", "pids.max", "RLIMIT_NPROC"))
CPUS = Amount(id="limits.cpus", title="CPUs", meaning="CPUs' worth of time, such as 2 or 0.5.",
              loosest=UNLIMITED, default=UNLIMITED,
              enforce=_in_cgroup("cpu", "cpu.max", "cpu.cfs_quota_us"),
              least=1, example="2", read=units.parse_cpus, tell=units.show_cpus,
              write=units.show_cpus)
CPU_TIME = _duration("cpu_time", "CPU time", "CPU time of the whole sandbox.",
                     _cpu_time)
CPUSET = Cpus(id="limits.cpuset", title="which CPUs", meaning="The CPUs that may be used: 0-3,6.",
              loosest=frozenset({units.ANY_CPU}), default=frozenset({units.ANY_CPU}),
              enforce=_cpuset)
IO = _size("io", "disk traffic", "Bytes a second read from, and written to, each disk.",
           _in_cgroup("io", "io.max", "blkio.throttle.write_bps_device"), least=4096)
TIMEOUT = _duration("timeout", "time-out", "Wall-clock time until the sandbox is ended.",
                    _by("executor"))
TMPFS = _size("tmpfs", "temporary space", "Bytes of the sandbox's own file systems in memory.",
              _by("mount size"), least=1 << 16)
INODES = _count("inodes", "temporary files", "Files in the sandbox's own file systems in memory.",
                _by("mount nr_inodes"), least=64)
OPEN_FILES = _count("open_files", "open files", "Open descriptors of each process.",
                    _by("RLIMIT_NOFILE"), least=8)
OUTPUT = _size("output", "output", "Bytes written to standard output and error, pipes too.",
               _by("executor"))
STACK = _size("stack", "stack", "Stack of each process.", _by("RLIMIT_STACK"), least=1 << 16)
FILE_SIZE = _size("file_size", "file size", "Size of a file that is written.",
                  _by("RLIMIT_FSIZE"))
CORE = _size("core", "core dump", "Size of a core dump; at 0 no handler of the host's is started.",
             _by("RLIMIT_CORE"))
LOCKED_MEMORY = _size("locked_memory", "locked memory", "Memory that each process may lock.",
                      _by("RLIMIT_MEMLOCK"))

ALL: tuple[Control[Any], ...] = (
    MEMORY, SWAP, PIDS, CPUS, CPUSET, CPU_TIME, IO, TIMEOUT, TMPFS, INODES, OPEN_FILES, OUTPUT,
    STACK, FILE_SIZE, CORE, LOCKED_MEMORY)
