"""Which cgroup takes a sandbox with limits, found by making one.

A controller that is listed is not always one that can be used: in containers cgroupfs is often
read-only, and systemd delegates only some. So a throw-away child of the executor is placed in a
group exactly as a sandbox would be, every limit is written there, and the group goes.

There are two ways. A group that is delegated to the caller (a service or scope with Delegate=, a
container, ``--cgroup-parent``) is written to directly. Everywhere else a user's systemd is asked
for a scope: it alone may move processes out of a login session.

Root of a host whose controllers are those of version 1 has a group in each hierarchy instead
(``cgroup_v1``), found and tried the same way.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from typing import NamedTuple

from hardrun.errors import BadInput
from hardrun.host import cgroup_v1
from hardrun.host.attempt import Attempt, ExecutorUnusable, Failure
from hardrun.host.causes import FIXES
from hardrun.host.facts import Fact
from hardrun.kernel import cgroups, lsm, mounts, systemd
from hardrun.plan.schema import Operation

CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")
SUPERVISOR = "hardrun-supervisor"
"""Where the parent of sandboxes goes: a group whose children have controllers holds no process."""
# What a new group has: writing it changes nothing. io.max takes no value without a device.
_LIMITS = {"memory": ("memory.max", "max"), "swap": ("memory.swap.max", "max"),
           "pids": ("pids.max", "max"), "cpu": ("cpu.max", "max"),
           "cpuset": ("cpuset.cpus", "\n")}
_NO_BUS = ("a login session of this user (or as root: loginctl enable-linger USER), so that its "
           "systemd runs; or --cgroup-parent with a group delegated to it")
_OF_ROOT = ("a group made for it in each hierarchy, as in mkdir /sys/fs/cgroup/pids/boxes, and "
            "--cgroup-parent boxes")
_INHERIT = 2


class Candidate(NamedTuple):
    """A place to try; ``path`` is shown, the others are what operations take.

    Of version 1 there are ``hierarchies``, and ``limits`` that can be written in a group of them.
    """

    path: str
    directory: str
    bus: str
    controllers: tuple[str, ...]
    hierarchies: tuple[tuple[str, str], ...] = ()
    cpuset: tuple[str, str] = ("", "")
    limits: tuple[tuple[str, str], ...] = ()

    @property
    def moves(self) -> bool:
        """Whether PID 1 is moved into the group rather than cloned into it."""
        return bool(self.bus or self.hierarchies)

    def place(self, controllers: Collection[str], uid: int) -> list[Operation]:
        """The operations that make a group here with these controllers, by the kernel's names."""
        made = []
        if self.bus or not self.hierarchies:
            messages = systemd.scope_messages(uid) if self.bus else systemd.Messages(b"", 0, 0, 0)
            enable = " ".join(f"+{name}" for name in sorted(controllers) if name != "swap")
            made = [Operation("cgroup", (self.directory, "" if self.hierarchies else enable,
                                         self.bus, *messages))]
        for name, directory in self.hierarchies:
            if set(controllers) & set(name.split(",")):
                made.append(Operation("cgroup_v1", (directory, name)))
                if "cpuset" in name.split(","):
                    made += [Operation("cgroup_limit", ("cpuset.cpus", self.cpuset[0])),
                             Operation("cgroup_limit", ("cpuset.mems", self.cpuset[1]))]
        return made

    def trial(self, uid: int) -> list[Operation]:
        """A plan that places a child here and writes every limit."""
        names = {name for of, _ in self.hierarchies for name in of.split(",")} or self.controllers
        limits = self.limits or [_LIMITS[name] for name in self.controllers if name in _LIMITS]
        return [Operation("argument", ("hardrun-probe",)), *self.place(names, uid),
                *(Operation("cgroup_limit", limit) for limit in limits), Operation("clone", (0,)),
                Operation("standard_io", (_INHERIT, 0, 0)),
                Operation("await_cgroup", (int(self.moves), 0))]


class Found(NamedTuple):
    """Where groups can be made, and which controllers took a limit there."""

    fact: Fact
    delegation: Fact
    directory: str = ""
    bus: str = ""
    controllers: tuple[str, ...] = ()
    hierarchies: tuple[tuple[str, str], ...] = ()
    cpuset: tuple[str, str] = ("", "")


def candidate(uid: int, parent: str = "") -> Candidate | Fact:
    """The one place to try, or why there is none. ``parent`` is what --cgroup-parent names.

    Raises BadInput where that is no cgroup.
    """
    mount = cgroups.mount()
    limiting = mount and set(_controllers(mount.mount_point)) & set(CONTROLLERS)
    if not limiting and cgroup_v1.applies() and (place := _version_1(uid, parent)):
        return place
    if mount is None:
        return _lacking("no cgroup2 file system is mounted", "cgroup-v1")
    if mount.read_only:
        return _lacking(f"{mount.mount_point} is read-only", "cgroup-read-only")
    if parent:
        return _explicit(parent, mount)
    if not set(_controllers(mount.mount_point)) & set(CONTROLLERS):  # hybrid: version 1 has them
        return _lacking(f"{mount.mount_point} has no controllers for limits", "cgroup-v1")
    own = cgroups.group_of("self", mount)
    return _delegated(own, mount) or _by_systemd(uid, mount) or _lacking(
        f"{own} is not delegated, and no systemd of this user listens", "cgroup-not-delegated",
        _NO_BUS)


def _version_1(uid: int, parent: str) -> Candidate | Fact | None:
    """Root's place in the hierarchies of version 1; None where none of them limits anything."""
    booted = os.path.isdir("/run/systemd/system")
    bus = systemd.bus_socket(uid, os.environ) if booted and not parent else ""
    found = cgroup_v1.usable(parent, scope=bool(bus))
    if found.hierarchies:
        path = "a scope of systemd" if bus else f"cgroup v1, {parent or 'at the top'}"
        return Candidate(path, found.hierarchies[0][1], bus, found.controllers, found.hierarchies,
                         found.cpuset, tuple(found.limits()))
    if parent:
        raise BadInput(f"--cgroup-parent {parent}: no hierarchy of cgroup v1 has such a group",
                       hint=f"name {_OF_ROOT}")
    return _lacking(f"not the caller's own: {', '.join(found.foreign)}", "cgroup-not-delegated",
                    _OF_ROOT) if found.foreign else None


def _explicit(parent: str, mount: mounts.Mount) -> Candidate:
    own = cgroups.group_of("self", mount)
    if os.path.basename(own) == SUPERVISOR:
        own = os.path.dirname(own)
    path = own if parent == "." else parent
    if not path.startswith(mount.mount_point):
        path = f"{mount.mount_point}/{path}"
    path = os.path.realpath(path)
    if not os.path.isfile(f"{path}/cgroup.procs") or not path.startswith(mount.mount_point):
        raise BadInput(f"--cgroup-parent {parent}: not a cgroup below {mount.mount_point}",
                       hint="name a group that is delegated to you, as /proc/self/cgroup has it, "
                       "or . for the one you are in")
    if path == own:
        _step_aside(path)
    return _direct(path, path)


def _direct(path: str, directory: str) -> Candidate:
    """A group that is written to directly, with its controllers enabled for the groups in it.

    That is done while nothing runs below it: enabling cpuset asks for the right to move every
    process there, which nobody has over a newuidmap at work (EPERM).
    """
    for name in _controllers(path):
        with contextlib.suppress(OSError), open(f"{path}/cgroup.subtree_control", "w",
                                                encoding="ascii") as file:
            file.write(f"+{name}")
    return Candidate(path, directory, "", _usable(path))


def _delegated(own: str, mount: mounts.Mount) -> Candidate | None:
    """The caller's own group, or the one above from which it stepped aside, if it is delegated."""
    for path in (own, os.path.dirname(own)):
        if path.startswith(mount.mount_point) and _is_delegated(path, mount) and (
                path != own or _step_aside(path)):
            own_group = os.path.basename(own) == SUPERVISOR or path == own
            late = own_group and mount.root == "/"
            return _direct(path, f"{mount.mount_point}/." if late else path)
    return None


def _is_delegated(path: str, mount: mounts.Mount) -> bool:
    """The system's systemd marks what it delegates; its users' managers mark nothing, but make a
    scope for whoever asks. The group of such a manager is not ours (systemd.resource-control(5)).

    Where there is no systemd, in containers, a group that can be written was made for the caller.
    """
    if not os.access(f"{path}/cgroup.procs", os.W_OK) or \
            os.path.basename(path).startswith("user@"):
        return False
    for attribute in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(path, attribute) == b"1":
                return True
    return not os.path.isdir("/run/systemd/system") and os.stat(path).st_uid == os.geteuid()


def _step_aside(path: str) -> bool:
    """Leave a group that is this process's alone; whether it is empty now."""
    try:
        with open(f"{path}/cgroup.procs", encoding="ascii") as file:
            if set(file.read().split()) - {str(os.getpid())}:
                return False
        os.makedirs(f"{path}/{SUPERVISOR}", exist_ok=True)
        with open(f"{path}/{SUPERVISOR}/cgroup.procs", "w", encoding="ascii") as file:
            file.write("0")
    except OSError:
        return False
    return True


def _by_systemd(uid: int, mount: mounts.Mount) -> Candidate | None:
    manager = mount.mount_point
    if uid != 0:
        manager += f"/user.slice/user-{uid}.slice/user@{uid}.service"
    bus = systemd.bus_socket(uid, os.environ)
    if not bus or not os.path.isdir(manager) or mount.root != "/":
        return None
    return Candidate("a scope of systemd", f"{mount.mount_point}/.", bus, _usable(manager))


def _controllers(path: str) -> list[str]:
    return (lsm.read_line(f"{path}/cgroup.controllers") or "").split()


def _usable(path: str) -> tuple[str, ...]:
    found = [name for name in _controllers(path) if name in CONTROLLERS]
    if os.path.exists(f"{path}/memory.swap.max"):
        found.append("swap")
    return tuple(sorted(found))


def judge(place: Candidate | Fact, attempt: Attempt | None) -> Found:
    """What the trial of a candidate came to; without an ``attempt`` nothing could be started."""
    if isinstance(place, Fact):
        return Found(place, place)
    try:
        failure = attempt.result() if attempt else "not tried: the executor can't be started"
    except ExecutorUnusable as error:
        failure = f"not tried: {error.strerror}"
    return verdict(place, failure)


def verdict(place: Candidate, failure: Failure | str | None) -> Found:
    """What a place is worth after its trial; ``failure`` is None where every limit was taken."""
    if failure is not None:
        lost = _lacking(f"{place.path}: {failure}", "cgroup-not-delegated",
                        _OF_ROOT if place.hierarchies else "" if place.bus else
                        "a group that is delegated to this user and holds no process itself")
        return Found(lost, lost)
    known = [name for name in CONTROLLERS if name in place.controllers]
    lacking = [name for name in CONTROLLERS if name not in known]
    fact = Fact(available=True, detail=f"{place.path}: {', '.join(known) or 'no controllers'}")
    delegation = Fact(available=True, detail="every controller") if not lacking else _lacking(
        f"not delegated: {', '.join(lacking)}", "cgroup-not-delegated",
        _OF_ROOT if place.hierarchies else "")
    return Found(fact, delegation, place.directory, place.bus, place.controllers,
                 place.hierarchies, place.cpuset)


def _lacking(detail: str, cause: str, fix: str = "") -> Fact:
    layer = {"cgroup-v1": "cgroup v1", "cgroup-read-only": "outer container"}
    return Fact(available=False, detail=detail, cause=cause, fix=fix or FIXES[cause],
                layer=layer.get(cause, "no delegation"))
