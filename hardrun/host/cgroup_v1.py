"""Which hierarchies of cgroup v1 take the limits of a sandbox that root starts.

An ordinary user gets none: the kernel lets nobody delegate version 1 safely. For root it is as
with version 2: the groups are those that the caller was given, never those of somebody else.

* ``--cgroup-parent NAME``: every hierarchy in which there is a group of this name. Whoever made
  groups of it in some hierarchies alone has the others left alone.
* systemd, where it runs, is asked for a scope, which it makes in every hierarchy that it manages.
* Else each hierarchy where the caller is at the top of what is mounted: nobody has put it anywhere.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from hardrun.kernel import cgroups, idmap, lsm, procfs
from hardrun.kernel.cgroups import Hierarchy

_WHOLE = (idmap.IdMapping(0, 0, 2**32 - 1),)
# Our name of a controller: that of version 1, and the file that shows whether the kernel has it. A
# group at the top of its hierarchy can't be limited in its processes and has no such file.
_LIMITED_BY = {
    "memory": ("memory", "memory.limit_in_bytes"),
    "swap": ("memory", "memory.memsw.limit_in_bytes"),
    "pids": ("pids", "cgroup.procs"), "cpu": ("cpu", "cpu.cfs_quota_us"),
    "cpuset": ("cpuset", "cpuset.cpus"), "io": ("blkio", "blkio.throttle.write_bps_device"),
    "cpuacct": ("cpuacct", "cpuacct.usage"),
}
# What a new group has: writing it changes nothing. A rate of blkio takes no value without a device.
_LIMITS = {"memory": ("memory.limit_in_bytes", "-1"), "swap": ("memory.memsw.limit_in_bytes", "-1"),
           "pids": ("pids.max", "max"), "cpu": ("cpu.cfs_quota_us", "-1")}


class Usable(NamedTuple):
    """Where groups can be made, and what can be limited there."""

    hierarchies: tuple[tuple[str, str], ...]
    """Names and directories, as the operation ``cgroup_v1`` takes them."""
    controllers: tuple[str, ...]
    cpuset: tuple[str, str]
    """CPUs and memory nodes that a new group is to have at first: those of the group around it."""
    foreign: tuple[str, ...]
    """Groups of the caller's that are somebody else's."""

    def limits(self) -> list[tuple[str, str]]:
        """What a trial writes: file and text."""
        return [_LIMITS[name] for name in self.controllers if name in _LIMITS]


def applies() -> bool:
    """Whether the caller is root of the host, which alone may use version 1."""
    return os.geteuid() == 0 and idmap.parse_map(procfs.id_map("self", "uid_map")) == _WHOLE


def usable(parent: str = "", *, scope: bool = False) -> Usable:
    """What there is of version 1 for root. ``parent`` is what --cgroup-parent names, ``scope`` says
    that systemd will move the caller to a group of its own."""
    places: list[tuple[str, str]] = []
    controllers: list[str] = []
    foreign: list[str] = []
    cpuset = ("", "")
    for hierarchy in cgroups.hierarchies():
        group = _named(hierarchy, parent) if parent else hierarchy.group
        files = {name: file for name, (controller, file) in _LIMITED_BY.items()
                 if controller in hierarchy.controllers}
        found = [name for name, file in files.items() if os.path.exists(f"{group}/{file}")]
        if not found or hierarchy.mount.read_only:
            continue
        if not (parent or scope or group == hierarchy.mount.mount_point):
            foreign.append(f"{hierarchy.name} ({group})")
            continue
        if "cpuset" in hierarchy.controllers:
            cpuset = (lsm.read_line(f"{group}/cpuset.cpus") or "",
                      lsm.read_line(f"{group}/cpuset.mems") or "")
            if not all(cpuset):  # nobody has given it any: it can hold no process
                continue
        late = not parent and hierarchy.mount.root == "/"
        places.append((hierarchy.name, f"{hierarchy.mount.mount_point}/." if late else group))
        controllers += found
    return Usable(tuple(places), tuple(sorted(controllers)), cpuset, tuple(foreign))


def _named(hierarchy: Hierarchy, parent: str) -> str:
    """The directory of the group ``parent`` in a hierarchy; empty where there is none.

    ``.`` is the caller's own. A path below the mount of any hierarchy names it in every one.
    """
    if parent == ".":
        return hierarchy.group
    top = hierarchy.mount.mount_point
    for other in cgroups.hierarchies():
        if f"{parent}/".startswith(f"{other.mount.mount_point}/"):
            parent = parent[len(other.mount.mount_point):]
            break
    path = os.path.realpath(f"{top}/{parent}")
    inside = path == top or path.startswith(f"{top}/")
    return path if inside and os.path.isfile(f"{path}/cgroup.procs") else ""
