"""The posture of one running process, as the kernel shows it to this caller.

A field that the kernel does not show is None, and ``unknown`` says why. PID 1 of a sandbox is
non-dumpable, so that the workload can't reach into it; nor can whoever looks from outside, and
most of it stays unknown by design.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from hardrun.kernel import idmap, lsm, mounts, procfs

T = TypeVar("T")


class Observer(NamedTuple):
    """Who looks: what has to be told apart from the sandbox's own."""

    uid: int
    gid: int
    status: procfs.Status
    namespaces: Mapping[str, str]
    mounts: tuple[mounts.Mount, ...]

    @classmethod
    def read(cls) -> Observer:
        """Read it for this process."""
        return cls(os.getuid(), os.getgid(), procfs.status(), procfs.namespaces(),
                   mounts.parse(procfs.mountinfo()))


@dataclass(frozen=True)
class LivePosture:
    """One process. See :mod:`hardrun.kernel.procfs` for the meaning of what is read."""

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
    environment: frozenset[str] | None = None
    apparmor: str | None = None
    selinux: str | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_init(self) -> bool:
        """Whether this is PID 1 of its pid namespace: the executor, not the workload."""
        return self.status.pids[-1] == 1


def observe(pid: int) -> LivePosture:
    """Read the posture of a process. Raises ProcessLookupError when it is gone."""
    unknown: dict[str, str] = {}
    status = procfs.status(pid)

    def read(name: str, function: Callable[[], T]) -> T | None:
        try:
            return function()
        except PermissionError:
            unknown[name] = ("the kernel hides it: PID 1 is non-dumpable by design"
                             if status.pids[-1] == 1 else "the kernel hides it from this user")
        except ProcessLookupError:
            if not os.path.exists(f"/proc/{pid}/status"):
                raise
            unknown[name] = "this kernel does not show it"
        return None

    enforcing = lsm.selinux_enforcing() is not None
    return LivePosture(
        pid=pid, status=status, unknown=unknown,
        namespaces=read("namespaces", lambda: procfs.namespaces(pid)),
        uid_map=read("uid_map", lambda: idmap.parse_map(procfs.id_map(pid, "uid_map"))),
        gid_map=read("gid_map", lambda: idmap.parse_map(procfs.id_map(pid, "gid_map"))),
        mounts=read("mounts", lambda: mounts.parse(procfs.mountinfo(pid))),
        limits=read("limits", lambda: procfs.limits(pid)),
        descriptors=read("descriptors", lambda: procfs.descriptors(pid)),
        stat=read("stat", lambda: procfs.stat(pid)),
        interfaces=read("interfaces", lambda: procfs.interfaces(pid)),
        environment=read("environment", lambda: procfs.environment_names(pid)),
        apparmor=lsm.apparmor_label(pid), selinux=lsm.label(pid) if enforcing else None,
    )
