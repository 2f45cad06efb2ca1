"""The posture of one running process, as the kernel shows it to this caller.

A field that the kernel does not show is None, and ``unknown`` says why. PID 1 of a sandbox is
non-dumpable, so that the workload can't reach into it; nor can whoever looks from outside, and
most of it stays unknown by design.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from hardrun.kernel import cgroups, idmap, lsm, mounts, procfs, selinux

T = TypeVar("T")


class Observer(NamedTuple):
    """Who is outside: what has to be told apart from the sandbox's own."""

    uid: int
    gid: int
    status: procfs.Status
    namespaces: Mapping[str, str]
    mounts: tuple[mounts.Mount, ...]
    sockets: frozenset[int] = frozenset()

    @classmethod
    def read(cls, pid: int | str = "self") -> Observer:
        """Read it for a process: the one that looks, or the one that started the sandbox."""
        status = procfs.status(pid)
        return cls(status.uids[1], status.gids[1], status, procfs.namespaces(pid),
                   mounts.parse(procfs.mountinfo(pid)), procfs.sockets(pid))


@dataclass(frozen=True)
class LivePosture:
    """One process, or one thread of it: threads have credentials, filters and labels of their own.

    ``is_init``: PID 1, the executor and not the workload. ``told`` names the fields that PID 1 told
    of itself, since the kernel hides them. See :mod:`hardrun.kernel.procfs` for what is read.
    """

    pid: int
    status: procfs.Status
    namespaces: Mapping[str, str] | None = None
    uid_map: tuple[idmap.IdMapping, ...] | None = None
    gid_map: tuple[idmap.IdMapping, ...] | None = None
    mounts: tuple[mounts.Mount, ...] | None = None
    limits: Mapping[str, procfs.Limit] | None = None
    descriptors: Mapping[int, procfs.Descriptor] | None = None
    stat: procfs.Stat | None = None
    interfaces: tuple[str, ...] | None = None
    cgroup: Mapping[str, str] | None = None
    environment: frozenset[str] | None = None
    apparmor: str | None = None
    selinux: str | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)
    is_init: bool = False
    told: frozenset[str] = frozenset()


def observe(process: int, thread: int = 0, *, is_init: bool = False) -> LivePosture:
    """Read the posture of a process or of one of its threads.

    Raises ProcessLookupError when it is gone, a process that has ended and was not waited for
    included.
    """
    pid: int | str = f"{process}/task/{thread}" if thread else process
    unknown: dict[str, str] = {}
    status = procfs.status(pid)
    if status.state in "ZX":
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(pid))

    def read(name: str, function: Callable[[], T]) -> T | None:
        try:
            return function()
        except PermissionError:
            unknown[name] = ("the kernel hides it: PID 1 is non-dumpable by design"
                             if is_init else "the kernel hides it from this user")
        except ProcessLookupError:
            if not os.path.exists(f"/proc/{pid}/status"):
                raise
            unknown[name] = "this kernel does not show it"
        except OSError as error:
            if procfs.status(pid).state in "ZX":  # it has ended meanwhile, and has none any more
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(pid)) from None
            unknown[name] = error.strerror or str(error)
        return None

    enforcing = selinux.enforcing() is not None
    return LivePosture(
        pid=process, status=status, unknown=unknown, is_init=is_init,
        namespaces=read("namespaces", lambda: procfs.namespaces(pid)),
        uid_map=read("uid_map", lambda: idmap.parse_map(procfs.id_map(pid, "uid_map"))),
        gid_map=read("gid_map", lambda: idmap.parse_map(procfs.id_map(pid, "gid_map"))),
        mounts=read("mounts", lambda: mounts.parse(procfs.mountinfo(pid))),
        limits=read("limits", lambda: procfs.limits(pid)),
        descriptors=read("descriptors", lambda: procfs.descriptors(pid)),
        stat=read("stat", lambda: procfs.stat(pid)),
        interfaces=read("interfaces", lambda: procfs.interfaces(pid)),
        cgroup=read("cgroup", lambda: cgroups.limits(pid)),
        environment=read("environment", lambda: procfs.environment_names(pid)),
        apparmor=lsm.apparmor_label(pid), selinux=lsm.label(pid) if enforcing else None,
    )
