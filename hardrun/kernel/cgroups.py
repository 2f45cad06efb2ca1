"""The groups of a process: where they are, and the files of their limits (cgroups(7)).

Of version 2 there is one tree. Of version 1 each controller may have a tree of its own, a
*hierarchy*, mounted in a place of its own; hybrid hosts have both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from hardrun.kernel import mounts, procfs

FILES = ("memory.max", "memory.swap.max", "pids.max", "cpu.max", "cpuset.cpus.effective", "io.max",
         "memory.oom.group")
FILES_V1 = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "pids.max",
            "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpuset.effective_cpus",
            "blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device")
GROUP = ""
"""The key of :func:`limits` under which the directory of the group of version 2 is."""


class Hierarchy(NamedTuple):
    """A hierarchy of version 1, and where in it a process is.

    ``name`` are its controllers as /proc/PID/cgroup has them: ``cpu,cpuacct``.
    """

    name: str
    mount: mounts.Mount
    group: str

    @property
    def controllers(self) -> tuple[str, ...]:
        """Each of them."""
        return tuple(self.name.split(","))


def mount() -> mounts.Mount | None:
    """The first mount of cgroup2, or None."""
    for found in mounts.parse(procfs.mountinfo()):
        if found.type == "cgroup2":
            return found
    return None


def hierarchies(pid: int | str = "self") -> Iterator[Hierarchy]:
    """The hierarchies of version 1 that are mounted, each once; those with a name alone are left
    out, and mounts that begin above the caller's cgroup namespace: who is where in them can't be
    told. Raises OSError when the process is gone."""
    mounted = [m for m in mounts.parse(procfs.mountinfo())
               if m.type == "cgroup" and not m.root.startswith("/..")]
    text = _text(pid)
    for line in text.splitlines():
        name = line.split(":")[1]
        for found in mounted if name and "=" not in name else ():
            if set(name.split(",")) <= set(found.super_options):
                yield Hierarchy(name, found,
                                directory_of(text, found.mount_point, found.root, name))
                break


def directory_of(cgroups: str, mount_point: str, mount_root: str, hierarchy: str = "") -> str:
    """The directory of a group in the text of /proc/PID/cgroup: that of version 2, or of the named
    hierarchy of version 1. Raises ValueError for a text that is none."""
    path = "/"
    for line in cgroups.splitlines():
        _, name, group = line.split(":", 2)
        if name == hierarchy:
            path = group
    if mount_root != "/" and (path + "/").startswith(mount_root + "/"):
        path = path[len(mount_root):]
    return os.path.normpath(f"{mount_point}/{path.lstrip('/')}")


def group_of(pid: int | str, where: mounts.Mount) -> str:
    """The directory of a process's group. Raises OSError when the process is gone."""
    return directory_of(_text(pid), where.mount_point, where.root)


def _text(pid: int | str) -> str:
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def limits(pid: int | str) -> Mapping[str, str] | None:
    """The files of a process's groups; None where no cgroups are mounted.

    Under ``GROUP`` is the directory of version 2, under the name of a controller that of its
    hierarchy of version 1. A file that a group has not, for want of a controller, is left out.
    """
    found: dict[str, str] = {}
    where = mount()
    if where is not None:
        found[GROUP] = group_of(pid, where)
        _read(found, found[GROUP], FILES)
    for hierarchy in hierarchies(pid):
        for controller in hierarchy.controllers:
            found[controller] = hierarchy.group
            _read(found, hierarchy.group,
                  [file for file in FILES_V1 if file.startswith(f"{controller}.")])
    return found or None


def _read(found: dict[str, str], group: str, files: tuple[str, ...] | list[str]) -> None:
    for name in files:
        try:
            with open(f"{group}/{name}", encoding="ascii") as file:
                found[name] = file.read().strip()
        except OSError:
            continue
