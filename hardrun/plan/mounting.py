"""Compile steps: the view as mounts, and the same list once more as Landlock rules."""

from __future__ import annotations

import os
import stat

from hardrun.errors import BadInput, PolicyRefused
from hardrun.kernel.landlock import HIGHEST_ABI, FilesystemAccess, filesystem_access, scopes
from hardrun.plan.context import Context, Program
from hardrun.plan.root import DEVICE_NUMBERS
from hardrun.plan.schema import BindFlag, Unsafe
from hardrun.plan.uapi import MountAttribute
from hardrun.plan.view import Entry, Kind, Use
from hardrun.posture.filesystem import OVERLAY, parents

_NOSUID_NODEV = MountAttribute.MOUNT_ATTR_NOSUID | MountAttribute.MOUNT_ATTR_NODEV
_READ_ONLY = MountAttribute.MOUNT_ATTR_RDONLY | _NOSUID_NODEV
_NOEXEC = MountAttribute.MOUNT_ATTR_NOEXEC
ATTRIBUTES = {
    Use.READ: _READ_ONLY | _NOEXEC,
    Use.RUN: _READ_ONLY,
    Use.WRITE: _NOSUID_NODEV | _NOEXEC,
    Use.BUILD: _NOSUID_NODEV,
    # not nodev: a device could not be opened
    Use.DEVICES: MountAttribute.MOUNT_ATTR_NOSUID | _NOEXEC,
}
_A = FilesystemAccess
_READ = _A.READ_FILE | _A.READ_DIR
_EVERYTHING = filesystem_access(HIGHEST_ABI)
_WRITE = _EVERYTHING & ~(_A.EXECUTE | _A.MAKE_CHAR | _A.MAKE_BLOCK | _A.IOCTL_DEV)
RIGHTS = {
    Use.LIST: _A.READ_DIR,
    Use.READ: _READ,
    Use.RUN: _READ | _A.EXECUTE,
    Use.WRITE: _WRITE,
    Use.BUILD: _WRITE | _A.EXECUTE,
    Use.DEVICES: _READ | _A.WRITE_FILE | _A.IOCTL_DEV,
    # a process writes its own comm, oom_score_adj and attr/exec; procfs itself keeps it to those
    Use.PROC: _READ | _A.WRITE_FILE,
}
# What a full proc says about the host (PR-02): containers-common's list, GHSA-6fw5-f8r9-fgfm.
MASKED = ("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
          "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
          "/proc/timer_stats")
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# tmpfs takes no larger number of blocks or inodes without overflowing its own counters
_LAYER_MOUNTS = 65536  # a tmpfs that holds nothing but mount points
_LARGEST_TMPFS, _MOST_INODES = 1 << 40, 1 << 24


def add_mounts(program: Program) -> None:
    """The root, everything in it, and the pivot."""
    context = program.context
    entries = context.view.entries()
    shares = _tmpfs_shares(context, entries)
    layered = context.overlay() != "none"
    if context.view.rootfs is None:
        program.add("limits.tmpfs", "root_tmpfs", *shares["/"])
    else:
        if layered:
            _add_layer(program, shares["/"])
        status = os.stat(context.view.rootfs)
        device, inode = (status.st_dev, status.st_ino) if context.pinned else (0, 0)
        program.add("filesystem.visible", "root_overlay" if layered else "root_bind",
                    context.view.rootfs, int(_bind_flags(context)), device, inode, status.st_uid)
    for entry in entries:
        _add_entry(program, entry, shares)
    if context.proc() == "masked":
        for path in MASKED:
            program.add("filesystem.proc", "mask", path)
        for path in READ_ONLY:
            program.add("filesystem.proc", "make_read_only", path)
    # The tmpfs of the root is the sandbox's own: nothing is lost when it is always read-only.
    if context.view.rootfs is None:
        program.add("filesystem.read_only_root", "root_attributes", int(_READ_ONLY | _NOEXEC))
    elif context.flag("filesystem.read_only_root") and not layered:
        program.add("filesystem.read_only_root", "root_attributes", int(_READ_ONLY))
    program.add("namespaces.shared", "pivot_root")


def _add_layer(program: Program, share: tuple[int, int]) -> None:
    """The layer of the root: in memory, or where a named container keeps it.

    Raises BadInput for one that is to be kept without a name, or for ids that come and go.
    """
    context = program.context
    asked = context.workload.origins.get(OVERLAY.id, "--writable persistent")
    if context.overlay() == "ephemeral":
        program.add(OVERLAY.id, "layer", "", 0, *share)
        return
    if context.layer is None:
        raise BadInput(f"{asked}: changes are kept for a name", hint="hardrun run --name NAME …")
    if context.word("ids.range") != "single":
        # Files of ids that the next start does not have would be nobody's, or another sandbox's.
        raise BadInput(f"{asked}: the layer's files would have ids that the next start does not "
                       "have", hint="leave out --userns, or keep nothing: --writable ephemeral")
    program.add(OVERLAY.id, "layer", *context.layer, *share)


def _tmpfs_shares(context: Context, entries: list[Entry]) -> dict[str, tuple[int, int]]:
    """Bytes and inodes of each tmpfs: together they hold limits.tmpfs and no more (RS-03).

    Raises PolicyRefused when the sizes asked for are more than that.
    """
    total = min(context.number("limits.tmpfs"), _LARGEST_TMPFS)
    inodes = min(context.number("limits.inodes"), _MOST_INODES)
    sized = {e.path: e.size for e in entries if e.kind is Kind.TMPFS and e.size}
    unsized = [e.path for e in entries if e.kind is Kind.TMPFS and not e.size]
    overlay = context.overlay()
    if overlay == "persistent":
        sized["/"] = _LAYER_MOUNTS
    elif context.view.rootfs is None or overlay == "ephemeral":
        unsized.append("/")
    remainder = total - sum(sized.values())
    if remainder < len(unsized) * 4096:
        raise PolicyRefused(f"limits.tmpfs: {sum(sized.values())} bytes asked (--tmpfs), at most "
                            f"{total} in all ({context.reason('limits.tmpfs')})",
                            hint="smaller sizes, or none: then they share what there is")
    each = max(inodes // (len(sized) + len(unsized)), 16)
    return {path: (size, each) for path, size in sized.items()} | {
        path: (remainder // len(unsized), each) for path in unsized}


def _bind_flags(context: Context) -> BindFlag:
    # Recursive always: of a tree with locked mounts in it the kernel clones all or nothing.
    return BindFlag.RECURSIVE | (BindFlag.PINNED if context.pinned else BindFlag(0))


def _add_entry(program: Program, entry: Entry, shares: dict[str, tuple[int, int]]) -> None:
    path, control = entry.path, entry.control
    attributes = int(ATTRIBUTES.get(entry.use, _NOSUID_NODEV))
    if entry.kind is Kind.DIRECTORY:
        if path != "/":
            program.add(control, "make_directory", path, entry.mode)
        if path == "/dev/pts":
            program.add(control, "mount_devpts", path)
    elif entry.kind is Kind.FILE:
        program.add(control, "make_file", path, entry.mode, entry.content)
    elif entry.kind is Kind.LINK:
        program.add(control, "make_symlink", path, entry.source)
    elif entry.kind is Kind.PRIVATE:
        program.add(control, "writable_directory", path, attributes)
    elif entry.kind is Kind.TMPFS:
        size, inodes = shares[path]
        program.add(control, "mount_tmpfs", path, size, inodes, entry.mode, attributes)
    elif entry.kind is Kind.DEVICE:
        program.add(control, "bind_device", entry.source, path,
                    DEVICE_NUMBERS[os.path.basename(path)])
    elif entry.kind is Kind.PROC:
        program.add(control, "mount_proc", path,
                    int(program.context.proc() == "pid"))
    else:
        add_bind(program, control, entry.source, path, attributes)


def add_bind(program: Program, control: str, source: str, destination: str,
             attributes: int) -> None:
    """Bind a host tree; what the executor compares with is read now (FS-09).

    Raises BadInput when the source is gone.
    """
    context = program.context
    try:
        status = os.lstat(source)
    except OSError as error:
        raise BadInput(f"{source}: {os.strerror(error.errno or 0)}") from None
    device, inode = (status.st_dev, status.st_ino) if context.pinned else (0, 0)
    program.add(control, "bind", source, destination, attributes, int(_bind_flags(context)),
                device, inode, stat.S_IFMT(status.st_mode) | status.st_uid << 32)


def add_landlock(program: Program) -> None:
    """Rules from the same list as the mounts: the second lock says what the first one says.

    All rights that the ABI knows are handled (LM-04); a rule that the one above it implies is
    left out.
    """
    context = program.context
    abi = context.facts.landlock_abi
    if not context.flag("landlock") or abi < 1:
        program.unsafe |= Unsafe.NO_LANDLOCK
        return
    handled = filesystem_access(abi)
    # TCP rules only where the network namespace is the host's: a private one has no peers.
    program.add("landlock", "landlock_ruleset", int(handled), 0, int(scopes(abi)))
    granted: dict[str, FilesystemAccess] = {}
    for path, use in context.view.uses().items():
        rights = RIGHTS[use] & handled
        above = FilesystemAccess(0)
        for parent in (*parents(path), "/"):
            above |= granted.get(parent, FilesystemAccess(0))
        if rights & ~above:
            granted[path] = rights
            program.add("landlock", "landlock_path", path, int(rights))
    program.add("landlock", "landlock_restrict")
