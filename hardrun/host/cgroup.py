"""Which cgroup of this user takes limits, found by making one and writing to it.

A controller that is listed is not always one that can be used: in containers cgroupfs is often
read-only, and systemd delegates only some. A group is made, each limit is written, the group goes.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from hardrun.host.facts import Fact
from hardrun.kernel import lsm, mounts, procfs

# The file that a limit is written to; "max" is what a new group has, so nothing changes.
_LIMITS = {"memory": "memory.max", "pids": "pids.max", "cpu": "cpu.max"}
_DELEGATE = ("as root: a file /etc/systemd/system/user@.service.d/delegate.conf with the lines "
             "[Service] and Delegate=cpu memory pids, then systemctl daemon-reload and a new login")


class Found(NamedTuple):
    """Where groups can be made, and which controllers took a limit there."""

    fact: Fact
    directory: str = ""
    controllers: tuple[str, ...] = ()


def probe() -> Found:
    """Find the nearest cgroup, from the caller's own upwards, in which groups can be made."""
    mount = _mount()
    if mount is None:
        return Found(Fact(available=False, detail="no cgroup2 file system is mounted",
                          layer="cgroup v1",
                          fix="the kernel command line systemd.unified_cgroup_hierarchy=1"))
    own = own_directory(_read_cgroups(), mount.mount_point, mount.root)
    if mount.read_only:
        return Found(Fact(available=False, detail=f"{mount.mount_point} is read-only",
                          layer="outer container", fix="a writable cgroup namespace for the "
                          "outer container (cgroupns=private, delegated)"))
    best = Found(Fact(available=False, detail=f"{own} can't be written", layer="no delegation",
                      fix=_DELEGATE))
    directory = own
    while directory.startswith(mount.mount_point):
        controllers = _try(directory)
        if controllers:
            return Found(Fact(available=True, detail=f"{directory}: {', '.join(controllers)}"),
                         directory, controllers)
        if controllers is not None and not best.directory:
            best = Found(Fact(available=False, detail=f"{directory} has no controllers",
                              layer="no delegation", fix=_DELEGATE), directory)
        directory = os.path.dirname(directory)
    return best


def _mount() -> mounts.Mount | None:
    for mount in mounts.parse(procfs.mountinfo()):
        if mount.type == "cgroup2":
            return mount
    return None


def _read_cgroups() -> str:
    return lsm.read_line("/proc/self/cgroup") or ""


def own_directory(cgroups: str, mount_point: str, mount_root: str) -> str:
    """The directory of the cgroup2 group in the text of /proc/self/cgroup."""
    path = "/"
    for line in cgroups.splitlines():
        if line.startswith("0::"):
            path = line[3:]
    if mount_root != "/" and (path + "/").startswith(mount_root + "/"):
        path = path[len(mount_root):]
    return os.path.normpath(f"{mount_point}/{path.lstrip('/')}")


def _try(directory: str) -> tuple[str, ...] | None:
    """Controllers that take a limit in a group below ``directory``; None: none can be made.

    A process can be moved there only by one who may also write cgroup.procs (cgroups(7)).
    """
    if not os.access(f"{directory}/cgroup.procs", os.W_OK):
        return None
    group = f"{directory}/hardrun-probe-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        os.mkdir(group)
    except OSError:
        return None
    try:
        return tuple(name for name, file in _LIMITS.items() if _write(f"{group}/{file}", b"max"))
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(group)


def _write(path: str, data: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.write(descriptor, data) == len(data)
    except OSError:
        return False
    finally:
        os.close(descriptor)
