"""Which system calls a seccomp filter around the caller refuses, told apart from every other layer.

A filter sees a call before the kernel looks at its arguments. So each call is made with arguments
that no kernel accepts: EINVAL or EFAULT comes from the kernel behind the filter, EPERM or ENOSYS
from the filter. Calls whose first check is a privilege (pivot_root, fsopen) can't be told apart
like this and are not asked.

Started as a program of its own, because a filter may kill: ``python -I -S filtered.py NAME:N:A…``
prints a line for each call that came back. It imports nothing of hardrun.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType

_BAD_FLAG, _BAD_POINTER = 1 << 31, 1
# The arguments, and the Linux that brought the call: before it ENOSYS says nothing.
_CALLS: Mapping[str, tuple[tuple[int, ...], tuple[int, int]]] = MappingProxyType({
    "clone": ((0x10000000 | 0x00010000, 0), (0, 0)),  # CLONE_NEWUSER with CLONE_THREAD alone
    "clone3": ((0, 0), (5, 3)),
    "unshare": ((1,), (0, 0)),
    "mount": ((_BAD_POINTER, _BAD_POINTER, _BAD_POINTER, 0, 0), (0, 0)),
    "umount2": ((_BAD_POINTER, _BAD_FLAG), (0, 0)),
    "open_tree": ((0, _BAD_POINTER, _BAD_FLAG), (5, 2)),
    "fsconfig": ((-1, 0, 0, 0, 0), (5, 2)),
    "mount_setattr": ((0, _BAD_POINTER, _BAD_FLAG, 0, 0), (5, 12)),
    "keyctl": ((9999,), (0, 0)),
    "seccomp": ((9999, 0, 0), (3, 17)),
    "landlock_create_ruleset": ((0, 0, _BAD_FLAG), (5, 13)),
})
_REFUSED = (errno.EPERM, errno.ENOSYS, errno.EACCES)
_PATIENCE = 20


def refused(kernel: tuple[int, int]) -> tuple[str, ...] | None:
    """The calls that a filter refuses, of those that sandboxes are made with.

    None where it can't be found out: no interpreter to start, or it doesn't get that far.
    """
    from hardrun.errors import HardrunError
    from hardrun.kernel.seccomp import tables

    try:
        numbers = tables.numbers(tables.architecture_of(os.uname().machine))
    except HardrunError:
        return None
    waiting = [name for name, (_, since) in _CALLS.items() if name in numbers and kernel >= since]
    found: list[str] = []
    while waiting:
        answers = _ask(waiting, numbers)
        if answers is None:
            return None
        found += [name for name in waiting if answers.get(name) in _REFUSED]
        unanswered = [name for name in waiting if name not in answers]
        found += unanswered[:1]  # killed there
        waiting = unanswered[1:]
    return tuple(found)


def _ask(names: list[str], numbers: Mapping[str, int]) -> dict[str, int] | None:
    words = [":".join(map(str, (name, numbers[name], *_CALLS[name][0]))) for name in names]
    if not sys.executable:
        return None
    try:
        done = subprocess.run([sys.executable, "-I", "-S", __file__, *words], text=True,
                              capture_output=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.split()
    if lines[:1] != ["ready"]:
        return None
    return {name: int(number) for name, _, number in (line.partition("=") for line in lines[1:])}


def _main(words: list[str]) -> None:
    import ctypes

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    sys.stdout.write("ready\n")
    for word in words:
        name, *arguments = word.split(":")
        sys.stdout.flush()
        ctypes.set_errno(0)
        syscall(*(ctypes.c_long(int(argument)) for argument in arguments))
        sys.stdout.write(f"{name}={ctypes.get_errno()}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main(sys.argv[1:])
