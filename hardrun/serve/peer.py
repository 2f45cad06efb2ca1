"""Who asks, and what: from the kernel's files of the process at the other end of a socket.

Nothing of it is the asking process's word alone, and its message needs no format. The files are
those that proc(5) shows to the process's own user.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from hardrun.kernel import lsm, procfs

MAXIMUM = 256 << 10
"""Bytes of words, and of variables, that a request may have."""
_STATUS = ("Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:",
           "NoNewPrivs:", "Seccomp:", "Seccomp_filters:")


class Asked(NamedTuple):
    """The words after the program's name, and the environment."""

    words: list[str]
    environment: dict[str, str]


def asked(pid: int) -> Asked:
    """What a process was started with. Raises OSError, and ValueError where it is too much."""
    _, *words = _words(f"/proc/{pid}/cmdline")
    environment: dict[str, str] = {}
    for word in _words(f"/proc/{pid}/environ"):
        name, separator, value = word.partition("=")
        if name and separator:
            environment.setdefault(name, value)  # the first one counts, as in getenv(3)
    return Asked(words, environment)


def _words(path: str) -> list[str]:
    with open(path, "rb", buffering=0) as file:
        data = file.read(MAXIMUM)
        if data and (len(data) == MAXIMUM or not data.endswith(b"\0") or file.read(1)):
            raise ValueError(f"{path}: too long")
    return [os.fsdecode(word) for word in data.split(b"\0")[:-1]]


def surroundings(process: int | str = "self") -> tuple[object, ...]:
    """All that decides besides words, variables, directory and cgroup, to be compared.

    Raises OSError where it can't be seen.
    """
    root = os.stat(f"/proc/{process}/root")
    with open(f"/proc/{process}/status", encoding="utf-8", errors="surrogateescape") as file:
        status = [line for line in file if line.startswith(_STATUS)]
    hard = {name: limit.hard for name, limit in procfs.limits(process).items()}
    return (procfs.namespaces(process), (root.st_dev, root.st_ino), status, hard,
            lsm.label(process), lsm.apparmor_label(process))


def cgroup(process: int | str = "self") -> str:
    """The groups that a process is in, as /proc/PID/cgroup has them. Raises OSError."""
    with open(f"/proc/{process}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
