"""Limits of memory, processes, time and space: the smaller one is the stricter one.

Without a cgroup some of them hold for each process and not for all of them together; that is said
as *degraded*, with what stands in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hardrun.posture import units
from hardrun.posture.control import UNLIMITED, Enforcement, degraded, enforced
from hardrun.posture.orders import Amount

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts

Rule = Callable[[int, "HostFacts"], Enforcement]
_DELEGATE = ("as root: put 'Delegate=cpu memory pids' below [Service] in"
             " /etc/systemd/system/user@.service.d/delegate.conf; the limit is exact once sandboxes"
             " are placed in cgroups")


def _by(*layers: str) -> Rule:
    """Enforced by the executor or the kernel without a cgroup."""
    def rule(value: int, facts: HostFacts) -> Enforcement:
        return enforced("not limited") if value == UNLIMITED else enforced(*layers)
    return rule


def _stand_in(controller: str, *layers: str) -> Rule:
    """Meant for a cgroup controller; these layers stand in for it."""
    def rule(value: int, facts: HostFacts) -> Enforcement:
        if value == UNLIMITED:
            return enforced("not limited")
        delegated = controller in facts.cgroup_controllers
        because = ("the sandbox is not placed in a cgroup" if delegated
                   else f"{controller} controller not delegated")
        return degraded(*layers, because=because, fact="cgroup_controllers",
                        fix="" if delegated else _DELEGATE)
    return rule


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
               _stand_in("memory", "RLIMIT_DATA", "watcher"), least=1 << 20)
SWAP = _size("swap", "swap", "Swap space of the whole sandbox.", _stand_in("memory"))
PIDS = _count("pids", "processes", "Processes and threads of the whole sandbox.",
              _stand_in("pids", "RLIMIT_NPROC"))
CPUS = Amount(id="limits.cpus", title="CPUs", meaning="CPUs' worth of time, such as 2 or 0.5.",
              loosest=UNLIMITED, default=UNLIMITED, enforce=_stand_in("cpu"), least=1,
              example="2", read=units.parse_cpus, tell=units.show_cpus, write=units.show_cpus)
CPU_TIME = _duration("cpu_time", "CPU time", "CPU time of the whole sandbox.",
                     _stand_in("cpu", "RLIMIT_CPU", "watcher"))
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
CORE = _size("core", "core dump", "Size of a core dump.", _by("RLIMIT_CORE"))
LOCKED_MEMORY = _size("locked_memory", "locked memory", "Memory that each process may lock.",
                      _by("RLIMIT_MEMLOCK"))

ALL = (MEMORY, SWAP, PIDS, CPUS, CPU_TIME, TIMEOUT, TMPFS, INODES, OPEN_FILES, OUTPUT, STACK,
       FILE_SIZE, CORE, LOCKED_MEMORY)
