"""What a filter can answer: SECCOMP_RET_* of seccomp(2), their order and their names."""

from __future__ import annotations

import errno
from collections.abc import Iterable

KILL_PROCESS = 0x80000000
KILL_THREAD = 0x00000000
TRAP = 0x00030000
ERRNO = 0x00050000
TRACE = 0x7FF00000
LOG = 0x7FFC0000
ALLOW = 0x7FFF0000

_CLASS = 0xFFFF0000
_DATA = 0x0000FFFF

NAMES = {
    KILL_PROCESS: "kill process",
    KILL_THREAD: "kill thread",
    TRAP: "SIGSYS",
    ERRNO: "errno",
    TRACE: "trace",
    LOG: "log and allow",
    ALLOW: "allow",
}


def fails_with(number: int) -> int:
    """The action that makes a call fail with an errno."""
    return ERRNO | (number & _DATA)


ENOSYS = fails_with(errno.ENOSYS)
EPERM = fails_with(errno.EPERM)


def class_of(action: int) -> int:
    """The action without its data (errno, or the tracer's message)."""
    return action & _CLASS


def severity(action: int) -> int:
    """The kernel's own order over several filters: of two actions the lower is executed."""
    ret = action & _CLASS
    return ret - (1 << 32) if ret & 0x80000000 else ret


def _rank(action: int) -> tuple[int, bool, bool, int]:
    return severity(action), action != ENOSYS, action == ERRNO, action & _DATA


def strictest(actions: Iterable[int]) -> int:
    """The action that wins, whatever the order they are given in.

    Two different errno values are equally strict and the kernel would take the one installed
    last, so that the order of policies showed. Here ENOSYS wins, because programs fall back on
    it (glibc's threads when clone3 is missing), then the smallest. Errno 0, which says that a call
    was done that was not, comes last: whoever is refused as well is told so.
    """
    return min(actions, key=_rank)


def loosest(actions: Iterable[int]) -> int:
    """The last in the order of which ``strictest`` gives the first."""
    return max(actions, key=_rank)


def at_most(action: int, bound: int) -> bool:
    """Whether ``action`` is as strict as ``bound`` or stricter."""
    return severity(action) <= severity(bound)


def permits(action: int) -> bool:
    """Whether the call is executed, perhaps after a tracer's or the log's notice."""
    return class_of(action) in (ALLOW, LOG, TRACE)


def describe(action: int) -> str:
    """For people: ``allow``, ``EPERM``, ``kill process``."""
    data = action & _DATA
    if class_of(action) == ERRNO:
        return errno.errorcode.get(data, f"errno {data}")
    return NAMES[class_of(action)]
