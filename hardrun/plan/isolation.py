"""Compile steps: conditions, namespaces, ids, and what the parent process watches."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from hardrun.errors import BadInput, HostUnsupported
from hardrun.plan.context import Context, Program
from hardrun.plan.root import RESOLVER_FILE
from hardrun.plan.schema import StandardIO, Unsafe
from hardrun.plan.uapi import Clone
from hardrun.posture.control import UNLIMITED
from hardrun.state.ranges import Wish, usual_size

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts

KEYRING = "hardrun"
HOSTNAME = "hardrun"
_MAP_WORDS = 30
"""Ten extents: what the executor passes on to newuidmap."""
_SHAREABLE = {"ipc": Clone.CLONE_NEWIPC, "uts": Clone.CLONE_NEWUTS,
              "cgroup": Clone.CLONE_NEWCGROUP}
# Switches of the kernel and of distributions that decide whether the plan could still be the same.
_SWITCHES = (
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
)
# Where it is 0 there is another tier; elsewhere its value decides nothing.
_ONE_MORE_SWITCH = "/proc/sys/user/max_user_namespaces"


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
    if context.word("network") == "host":
        program.add("network", "require_path", *dependency_of(os.path.realpath(RESOLVER_FILE)))
    program.add("plan", "require_kernel", facts.kernel_release)
    for path in (*_SWITCHES, *([] if facts.namespaces else [_ONE_MORE_SWITCH])):
        content = content_of(path)
        if content is not None:
            program.add("plan", "require_content", path, content)
    ids = sorted(facts.supplementary_groups)
    groups = struct.pack(f"<{len(ids)}I", *ids)
    program.add("ids.supplementary_groups", "require_ids", facts.uid, facts.gid, groups)
    program.add("landlock", "require_landlock", facts.landlock_abi)


def content_of(path: str) -> str | None:
    """A short file of /proc or /sys without its final newline; None where there is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(512).rstrip("\n")
    except OSError:
        return None


def add_keyring(program: Program) -> None:
    """The session keyring, which is no namespace."""
    context = program.context
    if context.word("keyring") == "private" and context.facts.keyring.available:
        program.add("keyring", "join_session_keyring", KEYRING)


def add_namespaces(program: Program) -> None:
    """Clone flags and what is set up inside the new namespaces."""
    context = program.context
    flags = Clone.CLONE_NEWUSER | Clone.CLONE_NEWNS | Clone.CLONE_NEWPID
    shared = context.names("namespaces.shared")
    for name, flag in _SHAREABLE.items():
        # A cgroup namespace has its root where a process is when it is made: after the move.
        if name not in shared and not (name == "cgroup" and context.in_cgroup()):
            flags |= flag
    if context.word("network") == "host":
        program.unsafe |= Unsafe.SHARED_NETWORK
    else:
        flags |= Clone.CLONE_NEWNET
        program.add("network", "join_network")
    program.add("namespaces.shared", "clone", int(flags))
    if not context.flag("namespaces.nested") and context.facts.nested_namespaces_limit.available:
        # the limit of the new namespace itself: no process in it can make one below (US-06)
        program.add("namespaces.nested", "write_sysctl", "/proc/sys/user/max_user_namespaces", "0")
    if flags & Clone.CLONE_NEWUTS and _can_be_named(context):
        program.add("namespaces.shared", "set_hostname", context.workload.hostname or HOSTNAME)
    program.add("namespaces.shared", "make_private")


def _can_be_named(context: Context) -> bool:
    """Whether the sandbox gets a host name. Raises HostUnsupported for one that was asked for."""
    fact = context.facts.host_name
    if context.workload.hostname is not None and not fact.available:
        raise HostUnsupported(f"--hostname {context.workload.hostname}: {fact.detail}",
                              fact="host_name", cause=fact.cause, hint=fact.fix)
    return fact.available


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
    settable = context.word("ids.supplementary_groups") == "drop"
    drop = settable and bool(facts.supplementary_groups)
    wanted = [control for control, needed in
              (("ids.range", ranges), ("ids.supplementary_groups", drop)) if needed]
    helpers = facts.id_ranges.available
    if not helpers and not set(wanted) <= context.degraded:
        raise HostUnsupported(f"{', '.join(wanted)}: this needs newuidmap, newgidmap and "
                              "subordinate ids", fact="id_ranges", cause=facts.id_ranges.cause,
                              hint="hardrun doctor says which is missing")
    if not wanted or not helpers:
        program.add("ids.user", "write_id_map", account.uid, account.gid)
        return
    if not context.pinned:
        for path in (facts.newuidmap.detail, facts.newgidmap.detail, "/etc/subuid", "/etc/subgid"):
            program.add(wanted[0], "require_path", *dependency_of(path))
    if context.word("ids.range") == "own":
        program.ids = _own_ids(context)
        # Mapped when the range is taken, at each start: without numbers a helper does nothing.
        program.add("ids.range", "write_id_map_helper", facts.newuidmap.detail, b"")
        program.add("ids.range", "write_id_map_helper", facts.newgidmap.detail, b"")
        program.add("ids.range", "await_id_maps")
        program.add("ids.range", "become", account.uid, account.gid)
        if settable:
            _set_groups(program)
        return
    gids = id_map(account.gid, facts.gid, facts.subordinate_gids if ranges
                   else ((facts.subordinate_gids[0][0], 1),))
    if ranges:
        uids = id_map(account.uid, facts.uid, facts.subordinate_uids)
        program.add(wanted[0], "write_id_map_helper", facts.newuidmap.detail, uids)
    else:  # setgroups stays usable as long as nobody but newgidmap maps gids
        program.add(wanted[0], "write_uid_map", account.uid)
    program.add(wanted[0], "write_id_map_helper", facts.newgidmap.detail, gids)
    program.add(wanted[0], "await_id_maps")
    if settable:
        _set_groups(program)


def _set_groups(program: Program) -> None:
    # The primary group stays one of them: without it, who changes the gid would no longer be held
    # to what a file refuses that group (CVE-2022-36109, US-03). With ids of its own it is another:
    # the list of most callers has their own primary group in it, which must not come along.
    gid = struct.pack("<I", program.context.account.gid)
    program.add("ids.supplementary_groups", "set_groups", gid)


def _own_ids(context: Context) -> Wish:
    """The range that each start is to have for itself.

    No id of the caller's is in it and no file of the caller's can be mapped into it (an id-mapped
    mount of the host's file systems needs real root): what a grant shows is there for others.
    Raises BadInput for a grant that would be of no use.
    """
    facts, workload = context.facts, context.workload
    shown = [(m.origin, m.source, m.access == "rw") for m in workload.mounts if m.source]
    if workload.rootfs is not None:
        shown.append(("--rootfs", workload.rootfs, False))
    for origin, path, write in shown:
        mode = os.stat(path).st_mode
        needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0) \
            | (stat.S_IWOTH if write else 0)
        if mode & needed != needed:
            verb = "write" if write and mode & (needed ^ stat.S_IWOTH) == needed ^ stat.S_IWOTH \
                else "read"
            raise BadInput(f"{origin} {path}: a sandbox with ids of its own is nobody to the host "
                           f"and could not {verb} there",
                           hint="leave out --userns auto, or let others: chmod o+"
                           + ("rw" if write else "r") + "X")
    asked = workload.userns[1] if workload.userns is not None else 0
    return Wish(facts.subordinate_uids, facts.subordinate_gids,
                asked or usual_size(facts.subordinate_uids, facts.subordinate_gids))


def owner_note(rootfs: str, facts: HostFacts) -> str:
    """What to know of a root file system that an engine unpacked with the user's subordinate ids.

    Looked at are its first two levels; empty: nothing there belongs to such an id.
    """
    first = [rootfs, *_entries(rootfs)]
    for path in (*first, *(entry for directory in first[1:] for entry in _entries(directory))):
        uid = os.lstat(path).st_uid
        if any(start <= uid < start + count for start, count in facts.subordinate_uids):
            return (f"--rootfs {rootfs}: {path} belongs to uid {uid}, a subordinate id of yours,"
                    " and to nobody inside; --user 0 --userns shared maps them, where the policy"
                    " grants it")
    return ""


def _entries(directory: str) -> list[str]:
    try:
        return sorted(os.path.join(directory, name) for name in os.listdir(directory))
    except OSError:  # not a directory, or not for us
        return []


def id_map(inside: int, own: int, ranges: Iterable[tuple[int, int]]) -> bytes:
    """Arguments of newuidmap(1): ``inside`` is ``own``, the ranges fill what is left from 0 on."""
    words = [inside, own, 1]
    at = 0
    for start, count in ranges:
        while count > 0:
            if at == inside:
                at += 1
            size = min(count, inside - at) if at < inside else count
            words += [at, start, size]
            at, start, count = at + size, start + size, count - size
    return b"".join(str(word).encode() + b"\0" for word in words[:_MAP_WORDS])


def add_parent(program: Program) -> None:
    """Descriptors 0-2, time-out and what is watched."""
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
    memory, cpu_time = (_limit(context, control) if "watcher" in context.layers[control] else 0
                        for control in ("limits.memory", "limits.cpu_time"))
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
