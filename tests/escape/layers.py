"""Defences, and how a plan looks that leaves one of them out.

A plan says with its *unsafe* bits what it leaves out, so these are plans that the executor carries
out as it carries out any other. What is taken away is taken away alone: everything else stays, and
shows whether it holds the same line by itself.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from hardrun.plan.schema import Operation, Unsafe
from hardrun.plan.uapi import Clone, MountAttribute


class Planned(NamedTuple):
    """The operations of a plan and its unsafe bits."""

    operations: tuple[Operation, ...]
    unsafe: Unsafe = Unsafe(0)

    def drop(self, *names: str, unsafe: Unsafe = Unsafe(0)) -> Planned:
        """Without the operations of these names."""
        return Planned(tuple(o for o in self.operations if o.name not in names),
                       self.unsafe | unsafe)

    def change(self, name: str, function: Callable[[Operation], Operation]) -> Planned:
        """With every operation of a name put through a function."""
        return self._replace(operations=tuple(function(o) if o.name == name else o
                                              for o in self.operations))

    def insert(self, *operations: Operation, after: str) -> Planned:
        """With more operations behind the last one of a name."""
        last = max(i for i, o in enumerate(self.operations) if o.name == after) + 1
        return self._replace(operations=(*self.operations[:last], *operations,
                                         *self.operations[last:]))


Removal = Callable[[Planned], Planned]
_REASON = "taken away for a test"


def _flags(planned: Planned, less: int) -> Planned:
    return planned.change("clone", lambda o: o._replace(values=(int(str(o.values[0])) & ~less,)))


def _seccomp(planned: Planned) -> Planned:
    return planned.drop("load_seccomp", unsafe=Unsafe.NO_SECCOMP)


def _landlock(planned: Planned) -> Planned:
    return planned.drop("landlock_ruleset", "landlock_path", "landlock_restrict",
                        unsafe=Unsafe.NO_LANDLOCK)


def _capabilities(planned: Planned) -> Planned:
    """All of them stay, across the exec as well: ambient, and no securebit against it."""
    every = (1 << 41) - 1
    return planned.drop("drop_bounding", "set_securebits",
                        unsafe=Unsafe.KEEPS_CAPABILITIES | Unsafe.NO_BOUNDING_DROP).change(
        "set_capabilities", lambda o: o._replace(values=(every,)))


def _no_new_privs(planned: Planned) -> Planned:
    """Filters go with it: the kernel takes none from an ordinary user without it."""
    return _landlock(_seccomp(planned)).drop("no_new_privs", unsafe=Unsafe.NO_NEW_PRIVS_OFF)


def _bounding(planned: Planned) -> Planned:
    return planned.drop("drop_bounding", unsafe=Unsafe.NO_BOUNDING_DROP)


def _network(planned: Planned) -> Planned:
    return _flags(planned.drop("join_network", unsafe=Unsafe.SHARED_NETWORK), Clone.CLONE_NEWNET)


def _attributes(mask: int) -> Removal:
    """Clear attributes of every mount that the plan makes."""
    places = {"bind": 2, "bind_working_directory": 0, "writable_directory": 1, "mount_tmpfs": 4,
              "root_attributes": 0}

    def removal(planned: Planned) -> Planned:
        for name, place in places.items():
            def clear(o: Operation, place: int = place) -> Operation:
                values = list(o.values)
                values[place] = int(str(values[place])) & ~mask
                return o._replace(values=tuple(values))
            planned = planned.change(name, clear)
        return planned
    return removal


def _without_limit(resource: int) -> Removal:
    def removal(planned: Planned) -> Planned:
        kept = tuple(o for o in planned.operations
                     if o.name != "set_limit" or o.values[0] != resource)
        return planned._replace(operations=kept)
    return removal


def changed(name: str, place: int, value: int | str) -> Removal:
    """Another value in every operation of a name."""
    return lambda planned: planned.change(
        name, lambda o: o._replace(values=(*o.values[:place], value, *o.values[place + 1:])))


def single_id(planned: Planned) -> Planned:
    """Ids by the kernel alone: where newuidmap and newgidmap have no rights (a tracer, a user
    namespace around) the sandbox is otherwise the same."""
    return planned.drop("write_id_map_helper", "write_uid_map", "await_id_maps", "become",
                        "set_groups").insert(
        Operation("write_id_map", (os.getuid(), os.getgid()), _REASON), after="clone")


LAYERS: Mapping[str, Removal] = {
    "seccomp": _seccomp,
    "Landlock": _landlock,
    "capability sets": _capabilities,
    "bounding set": _bounding,
    "no_new_privs": _no_new_privs,
    "securebits": lambda p: p.drop("set_securebits"),
    "network namespace": _network,
    "ipc namespace": lambda p: _flags(p, Clone.CLONE_NEWIPC),
    "uts namespace": lambda p: _flags(p.drop("set_hostname"), Clone.CLONE_NEWUTS),
    "cgroup namespace": lambda p: _flags(p, Clone.CLONE_NEWCGROUP),
    "setsid": lambda p: p.drop("new_session", unsafe=Unsafe.NO_SESSION),
    "close_range": lambda p: p.drop("close_descriptors", unsafe=Unsafe.KEEPS_DESCRIPTORS),
    "user.max_user_namespaces": lambda p: p.drop("write_sysctl"),
    "setgroups": lambda p: p.drop("set_groups"),
    "session keyring": lambda p: p.drop("join_session_keyring"),
    "not dumpable": lambda p: p.drop("not_dumpable", unsafe=Unsafe.DUMPABLE_INIT),
    "read-only mounts": _attributes(MountAttribute.MOUNT_ATTR_RDONLY),
    "nodev mounts": _attributes(MountAttribute.MOUNT_ATTR_NODEV),
    "noexec mounts": _attributes(MountAttribute.MOUNT_ATTR_NOEXEC),
    "nosuid mounts": _attributes(MountAttribute.MOUNT_ATTR_NOSUID),
    "proc subset=pid": changed("mount_proc", 1, 0),
    "RLIMIT_NPROC": _without_limit(6),
    "RLIMIT_DATA": _without_limit(2),
    "RLIMIT_CORE": _without_limit(4),
    "RLIMIT_NOFILE": _without_limit(7),
    "RLIMIT_MEMLOCK": _without_limit(8),
}
"""Defence → the plan without it. The names are those of ``hardrun explain``."""


def showing(*paths: str) -> Removal:
    """The mounts let a path of the host be seen, at the same place and as it is."""
    def removal(planned: Planned) -> Planned:
        made: list[Operation] = []
        known = {str(o.values[0]) for o in planned.operations if o.name == "make_directory"}
        for path in paths:
            status = os.stat(path)
            for parent in _parents(path):
                if parent not in known:
                    made.append(Operation("make_directory", (parent, 0o755), _REASON))
                    known.add(parent)
            made.append(Operation("make_directory", (path, 0o755), _REASON)
                        if stat.S_ISDIR(status.st_mode)
                        else Operation("make_file", (path, 0o644, b""), _REASON))
            # What this user namespace may clone at all: with the flags that the host locked.
            made.append(Operation("bind", (path, path, 0, 2, 0, 0, stat.S_IFMT(status.st_mode)
                                           | status.st_uid << 32), _REASON))
        return planned.insert(*made, after="make_directory")
    return removal


def _parents(path: str) -> list[str]:
    parts = path.strip("/").split("/")[:-1]
    return ["/" + "/".join(parts[:n]) for n in range(1, len(parts) + 1)]


def without(planned: Planned, removals: Iterable[Removal]) -> Planned:
    """The plan after every removal."""
    for removal in removals:
        planned = removal(planned)
    return planned
