"""Compile steps: conditions, namespaces, ids, and what the parent process watches."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Protocol

from hardrun.errors import HostUnsupported
from hardrun.plan.context import Context, Program
from hardrun.plan.schema import StandardIO, Unsafe
from hardrun.plan.uapi import Clone
from hardrun.posture.control import UNLIMITED

KEYRING = "hardrun"
HOSTNAME = "hardrun"
_SHAREABLE = {"ipc": Clone.CLONE_NEWIPC, "uts": Clone.CLONE_NEWUTS,
              "cgroup": Clone.CLONE_NEWCGROUP}
# Switches of the kernel and of distributions that decide whether the plan could still be the same.
_SWITCHES = (
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
)


class Dependency(Protocol):
    """A path that the decision was made from."""

    @property
    def path(self) -> str: ...
    @property
    def device(self) -> int: ...
    @property
    def inode(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def ctime_ns(self) -> int: ...


def add_conditions(program: Program, dependencies: Iterable[Dependency]) -> None:
    """What a stored plan needs to find unchanged; it refuses to run stale."""
    context = program.context
    facts = context.facts
    for d in dependencies:
        program.add("plan", "require_path", d.path, d.device, d.inode, d.mtime_ns, d.ctime_ns)
    for path in _SWITCHES:
        content = _content(path)
        if content is not None:
            program.add("plan", "require_content", path, content)
    ids = sorted(facts.supplementary_groups)
    groups = struct.pack(f"<{len(ids)}I", *ids)
    program.add("ids.supplementary_groups", "require_ids", facts.uid, facts.gid, groups)
    program.add("landlock", "require_landlock", facts.landlock_abi)


def _content(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(512).rstrip("\n")
    except OSError:
        return None


def add_namespaces(program: Program) -> None:
    """Clone flags and what is set up inside the new namespaces."""
    context = program.context
    if context.word("keyring") == "private" and context.facts.keyring.available:
        program.add("keyring", "join_session_keyring", KEYRING)
    flags = Clone.CLONE_NEWUSER | Clone.CLONE_NEWNS | Clone.CLONE_NEWPID
    shared = context.names("namespaces.shared")
    for name, flag in _SHAREABLE.items():
        if name not in shared:
            flags |= flag
    if context.word("network") == "host":
        program.unsafe |= Unsafe.SHARED_NETWORK
    else:
        flags |= Clone.CLONE_NEWNET
        program.add("network", "loopback_up")
    program.add("namespaces.shared", "clone", int(flags))
    if not context.flag("namespaces.nested") and context.facts.nested_namespaces_limit.available:
        # the limit of the new namespace itself: no process in it can make one below (US-06)
        program.add("namespaces.nested", "write_sysctl", "/proc/sys/user/max_user_namespaces", "0")
    if flags & Clone.CLONE_NEWUTS:
        program.add("namespaces.shared", "set_hostname", context.workload.hostname or HOSTNAME)
    program.add("namespaces.shared", "make_private")


def add_ids(program: Program) -> None:
    """The id maps, and the supplementary groups where they are to be dropped.

    A gid map that an ordinary user writes needs setgroups denied, and then the caller's groups
    stay: a file of mode 0040 of one of them is readable inside (US-02). The kernel lets setgroups
    be only where newgidmap maps a subordinate gid as well. Raises HostUnsupported without one,
    unless the Decision accepts that as degraded.
    """
    context = program.context
    facts, account = context.facts, context.account
    ranges = context.word("ids.range") != "single"
    drop = context.word("ids.supplementary_groups") == "drop" and bool(facts.supplementary_groups)
    wanted = [control for control, needed in
              (("ids.range", ranges), ("ids.supplementary_groups", drop)) if needed]
    helpers = facts.id_ranges.available
    if not helpers and not set(wanted) <= context.degraded:
        raise HostUnsupported(f"{', '.join(wanted)}: this needs newuidmap, newgidmap and "
                              "subordinate ids", fact="id_ranges",
                              hint="hardrun doctor says which is missing")
    if not wanted or not helpers:
        program.add("ids.user", "write_id_map", account.uid, account.gid)
        return
    uids = _id_map(account.uid, facts.uid, facts.subordinate_uids if ranges else ())
    gids = _id_map(account.gid, facts.gid, facts.subordinate_gids if ranges
                   else ((facts.subordinate_gids[0][0], 1),))
    program.add(wanted[0], "write_id_map_helper", facts.newuidmap.detail, uids)
    program.add(wanted[0], "write_id_map_helper", facts.newgidmap.detail, gids)
    program.add(wanted[0], "await_id_maps")
    if drop:
        program.add("ids.supplementary_groups", "set_groups", b"")


def _id_map(inside: int, own: int, ranges: Iterable[tuple[int, int]]) -> bytes:
    """Arguments of newuidmap(1): ``inside`` is the caller's own id, the ranges fill the rest."""
    words = [inside, own, 1]
    at = 0
    for start, count in ranges:
        while count > 0:
            if at == inside:
                at += 1
            size = min(count, inside - at) if at < inside else count
            words += [at, start, size]
            at, start, count = at + size, start + size, count - size
    return b"".join(str(word).encode() + b"\0" for word in words)


def add_parent(program: Program) -> None:
    """Descriptors 0-2, time-out and what is watched for want of a cgroup."""
    context = program.context
    terminal = context.word("terminal")
    mode = StandardIO.RELAY
    if terminal == "inherited":
        mode = StandardIO.INHERIT
    elif terminal == "private" and context.workload.terminal:
        mode = StandardIO.TERMINAL
    program.add("terminal", "standard_io", int(mode), int(context.workload.interactive),
                _limit(context, "limits.output"))
    timeout = _limit(context, "limits.timeout")
    if timeout:
        program.add("limits.timeout", "timeout", timeout)
    memory, cpu_time = _limit(context, "limits.memory"), _limit(context, "limits.cpu_time")
    if memory or cpu_time:
        program.add("limits.memory" if memory else "limits.cpu_time", "watch", memory, cpu_time)


def _limit(context: Context, control: str) -> int:
    """A limit as the parent's operations take it: 0 stands for none."""
    value = context.number(control)
    return 0 if value >= UNLIMITED else value


def dependency_of(path: str) -> tuple[str, int, int, int, int]:
    """``require_path`` values for a path as it is now; absent: zeros."""
    try:
        status = os.lstat(path)
    except OSError:
        return path, 0, 0, 0, 0
    return path, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
