"""Descriptors, limits, Landlock (sections FD, RS and LM)."""

from __future__ import annotations

import os
import stat
import struct

from tests.escape.attacks import REFUSED, Attack
from tests.escape.probe import AT_FDCWD, Out, Result, call

_HIDDEN = REFUSED | {"ENOENT"}
_PROCESSES = 32
_NOFILE = 7
_MANY = struct.pack("=2Q", 1 << 20, 1 << 30)  # more than any host gives (fs.nr_open)
_DESCRIPTORS = (
    Attack(property="FD-02", name="list descriptors of PID 1", layers=("not dumpable",),
           refused=_HIDDEN, steps=(call("openat", AT_FDCWD, "/proc/1/fd", os.O_DIRECTORY, 0),)),
    # ETXTBSY: the kernel found the program and saw that it runs.
    Attack(property="FD-06", name="write the executor", layers=("not dumpable",), refused=_HIDDEN,
           works=frozenset({"ETXTBSY"}),
           steps=(call("openat", AT_FDCWD, "/proc/1/exe", os.O_WRONLY, 0),)),
)

# -- limits ---------------------------------------------------------------------------------------
_FSCONFIG_CMD_CREATE = 6
_LIMITS = (
    Attack(property="RS-02", name="fork bomb", options={"limits": {"pids": str(_PROCESSES)}},
           steps=(call("@fork", 3 * _PROCESSES),), layers=("RLIMIT_NPROC",),
           refused=frozenset({"EAGAIN"})),
    # Any user namespace may mount cgroup2, and so reach every group of its user's.
    Attack(property="RS-04", name="a cgroup2 of its own", layers=("seccomp", "capability sets"),
           steps=(call("fsopen", "cgroup2", 0),
                  call("fsconfig", Result(0), _FSCONFIG_CMD_CREATE, 0, 0, 0)),
           refused=REFUSED | {"EBADF", "EINVAL"}),
    Attack(property="RS-05", name="raise a hard limit", layers=("the kernel",),
           inconclusive="the host's CAP_SYS_RESOURCE, which no user namespace has",
           steps=(call("prlimit64", 0, _NOFILE, 0, Out(16)),
                  call("prlimit64", 0, _NOFILE, _MANY, 0)), refused=frozenset({"EPERM"})),
    Attack(property="RS-07", name="lower oom_score_adj", layers=("the kernel",),
           inconclusive="the host's CAP_SYS_RESOURCE, which no user namespace has",
           steps=(call("openat", AT_FDCWD, "/proc/self/oom_score_adj", os.O_WRONLY, 0),
                  call("write", Result(0), "-500", 4))),
)

# -- Landlock: what each right is for, where nothing else stands in the way ------------------------
_MOUNTED = ("read-only mounts", "Landlock")
_LANDLOCK = (
    Attack(property="LM-04", name="truncate", layers=_MOUNTED, refused=REFUSED | {"EROFS"},
           steps=(call("truncate", "/etc/hostname", 0),)),
    Attack(property="LM-04", name="rename into another directory", layers=_MOUNTED,
           refused=REFUSED | {"EROFS", "EXDEV"},
           steps=(call("renameat2", AT_FDCWD, "/etc/group", AT_FDCWD, "/var/group", 0),)),
    Attack(property="LM-04", name="link into another directory", layers=_MOUNTED,
           refused=REFUSED | {"EROFS", "EXDEV"},
           steps=(call("linkat", AT_FDCWD, "/etc/passwd", AT_FDCWD, "/var/passwd", 0),)),
    Attack(property="LM-04", name="make a fifo", layers=_MOUNTED, refused=REFUSED | {"EROFS"},
           steps=(call("mknodat", AT_FDCWD, "/var/fifo", stat.S_IFIFO | 0o600, 0),)),
    Attack(property="LM-04", name="make a link", layers=_MOUNTED, refused=REFUSED | {"EROFS"},
           steps=(call("symlinkat", "/proc", AT_FDCWD, "/var/link"),)),
    Attack(property="LM-04", name="remove a file", layers=_MOUNTED, refused=REFUSED | {"EROFS"},
           steps=(call("unlinkat", AT_FDCWD, "/etc/hosts", 0),)),
)
ATTACKS: tuple[Attack, ...] = (*_DESCRIPTORS, *_LIMITS, *_LANDLOCK)
