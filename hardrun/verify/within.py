"""Read what the kernel shows of a sandbox with ids of its own to its owner within its namespace.

The files in /proc of such processes are another user's. Whoever made the user namespace has every
capability in it, and so may read them once in there: a program of its own goes in, since a process
with threads can't, and prints what it read.

    python -m hardrun.verify.within PID …
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from hardrun.kernel import procfs

_PATIENCE = 30.0
Hidden = Mapping[str, Any]
"""By ``PID`` or ``PID/task/TID``: the fields of a LivePosture that only the owner may read."""


def read(processes: Iterable[int]) -> Hidden:
    """Have the processes of one sandbox read from within; empty where nobody can go in."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run(
        [sys.executable, "-P", "-m", __name__, *map(str, processes)], capture_output=True,
        env={"PYTHONPATH": package}, cwd="/", check=False, timeout=_PATIENCE)
    try:
        entries = json.loads(done.stdout)
    except ValueError:
        return {}
    return {name: {
        "descriptors": {int(fd): procfs.Descriptor(*entry) for fd, entry in fields[0].items()},
        "environment": frozenset(fields[1])} for name, fields in entries.items()}


def _main(processes: list[int]) -> None:
    entered, found = False, {}
    for pid in processes:
        try:
            if not entered:
                _enter(pid)
                entered = True
            for name in (str(pid), *(f"{pid}/task/{tid}" for tid in procfs.threads(pid))):
                found[name] = (procfs.descriptors(name), sorted(procfs.environment_names(name)))
        except OSError:
            continue  # PID 1, which hides from everybody, or ended meanwhile
    sys.stdout.write(json.dumps(found))


def _enter(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    if libc.setns(descriptor, 0) < 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(descriptor)


if __name__ == "__main__":
    _main([int(word) for word in sys.argv[1:]])
