"""Builds the view of one run: what is visible, what is private, what was granted."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hardrun.errors import BadInput
from hardrun.plan.view import Entry, Kind, Use, View
from hardrun.posture.filesystem import below, parents
from hardrun.workload.model import Mount, Workload

# What a dynamic program needs before it has done anything: where a policy names no list.
MINIMAL_VISIBLE = frozenset({"/usr", "/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime"})
MERGED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
RESERVED = ("/proc", "/dev", "/sys")


def system_directories(visible: frozenset[str]) -> tuple[str, ...]:
    """What of the root is the system's, by first components: no profile lets anything write there.
    """
    paths = {*visible, *MERGED, "/etc", "/usr"} - {"/"}
    return tuple(sorted({"/" + path.split("/")[1] for path in paths}))


TMP, VAR_TMP, SHM = "/tmp", "/var/tmp", "/dev/shm"  # nosec B108: the sandbox's own
DEVICE_NUMBERS = {
    "null": os.makedev(1, 3),
    "zero": os.makedev(1, 5),
    "full": os.makedev(1, 7),
    "random": os.makedev(1, 8),
    "urandom": os.makedev(1, 9),
    "tty": os.makedev(5, 0),
}
VISIBLE, READABLE, WRITABLE = "filesystem.visible", "filesystem.readable", "filesystem.writable"
CANARY = "/run/hardrun-canary"
"""A file that modes and mounts let be read and Landlock does not: how its domain is verified."""
_DEV_SIZE = 65536  # a tmpfs that holds nothing but mount points and links


class Account(NamedTuple):
    """Who the workload is inside."""

    name: str
    uid: int
    gid: int
    home: str


class RootOptions(NamedTuple):
    """What the posture says about the root."""

    visible: frozenset[str]
    devices: frozenset[str]
    proc: str  # "none", "pid" or "masked"
    private_terminals: bool
    network: bool
    read_only: bool
    layered: bool
    hostname: str


def build_view(workload: Workload, account: Account, options: RootOptions) -> View:
    """The view of one run.

    Raises BadInput for a root file system or a grant that can't be laid out: FS-03 and FS-04
    (a rootfs whose /proc, /dev or /etc leads elsewhere), FS-22 (a grant that would hide them).
    """
    view = View(workload.rootfs, layered=options.layered)
    if workload.rootfs is None:
        _add_visible(view, options.visible)
        _add_generated(view, account, options)
    else:
        _add_rootfs(view, workload.rootfs, options)
    _add_private(view, account, workload.rootfs is not None)
    _add_devices(view, options)
    if options.proc != "none":
        _add_directory(view, "/proc", "filesystem.proc", 0o555)
        view.add(Entry(Kind.PROC, "/proc", "filesystem.proc", Use.PROC))
    _add_links(view, workload.links)
    _add_grants(view, workload.mounts)
    return view


def _add_directory(view: View, path: str, control: str, mode: int = 0o755) -> None:
    """Make a directory and its parents where the view does not have them yet.

    Raises BadInput where they would have to be made in a tree of the host.
    """
    for directory in (path, *parents(path)):
        if directory in view.mounts or directory in view.made:
            continue
        on_root = view.mount_of(directory) is None
        if view.host_path(directory) is not None and view.find(directory).missing == "" \
                and not (view.layered and on_root):  # what it covers, a layer may have removed
            continue
        mount = view.mount_of(directory)
        if mount is not None and mount.kind is Kind.BIND:
            raise BadInput(f"{path}: there is no such directory in {mount.source}, which is "
                           f"granted as {mount.path}", hint="make it first, or grant it elsewhere")
        view.add(Entry(Kind.DIRECTORY, directory, control,
                       mode=mode if directory == path else 0o755))


def _add_visible(view: View, visible: frozenset[str]) -> None:
    paths = MINIMAL_VISIBLE if "/" in visible else visible
    outermost = [p for p in sorted(paths) if not any(q in paths for q in parents(p))]
    for path in sorted(outermost, key=os.path.islink):  # links last: is their target visible?
        _add_visible_path(view, path)
    if "/usr" in view.mounts:
        for path in MERGED:
            if path not in view.made and path not in view.mounts:
                _add_visible_path(view, path)
    # Landlock has one rule for /etc: beneath it lies nothing but what this list put there.
    if any(p.startswith("/etc/") for p in view.mounts):
        view.add(Entry(Kind.DIRECTORY, "/etc", VISIBLE, Use.READ))


def _add_visible_path(view: View, path: str) -> None:
    try:
        status = os.lstat(path)
        resolved = os.path.realpath(path, strict=True)
    except OSError:
        return  # a list for every distribution names what only some have
    if any(below(resolved, p) for p in RESERVED):
        return
    if stat.S_ISLNK(status.st_mode) and view.mount_of(resolved) is not None:
        view.add(Entry(Kind.LINK, path, VISIBLE, source=os.readlink(path)))
        return
    if view.mount_of(view.canonical(path)) is not None:
        return  # reached by a link that is there already
    _add_bind(view, resolved, path, VISIBLE, Use.READ if below(path, "/etc") else Use.RUN)


def _add_bind(view: View, source: str, path: str, control: str, use: Use) -> None:
    if os.path.isdir(source):
        _add_directory(view, path, control)
    else:
        _add_directory(view, os.path.dirname(path), control)
        mount = view.mount_of(path)
        if (mount is None or mount.kind is not Kind.BIND) \
                and (view.find(path).missing or (view.layered and mount is None)):
            view.add(Entry(Kind.FILE, path, control, mode=0o644))
    view.add(Entry(Kind.BIND, path, control, use, source=source))


def _add_generated(view: View, account: Account, options: RootOptions) -> None:
    uid, gid, name = account.uid, account.gid, account.name
    root = "" if uid == 0 else "root:x:0:0:root:/root:/usr/sbin/nologin\n"
    nobody = "" if uid == 65534 else "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    files = {
        "passwd": f"{root}{name}:x:{uid}:{gid}:{name}:{account.home}:/bin/sh\n{nobody}",
        "group": ("" if gid == 0 else "root:x:0:\n") + f"{name}:x:{gid}:\n"
                 + ("" if gid == 65534 else "nogroup:x:65534:\n"),
        "hosts": f"127.0.0.1\tlocalhost {options.hostname}\n::1\tlocalhost\n",
        "hostname": f"{options.hostname}\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }
    if options.network:
        resolver = _resolver()
        if resolver:
            files["resolv.conf"] = resolver
    _add_directory(view, "/etc", VISIBLE)
    view.add(Entry(Kind.DIRECTORY, "/etc", VISIBLE, Use.READ))
    for file, content in files.items():
        path = f"/etc/{file}"
        view.mounts.pop(path, None)
        view.add(Entry(Kind.FILE, path, VISIBLE, mode=0o644, content=os.fsencode(content)))


RESOLVER_FILE = "/etc/resolv.conf"


def _resolver() -> str:
    """The host's resolver configuration; a copy, since its target may lie in /run (FS-21)."""
    try:
        with open(RESOLVER_FILE, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(65536)
    except OSError:
        return ""


def _add_rootfs(view: View, rootfs: str, options: RootOptions) -> None:
    for name in ("proc", "dev", "sys", "etc", "tmp"):
        path = os.path.join(rootfs, name)
        if os.path.islink(path):
            raise BadInput(f"--rootfs {rootfs}: /{name} is a symbolic link to "
                           f"{os.readlink(path)!r}", hint=f"make it a directory: an image that "
                           f"chooses where /{name} lies is refused (CVE-2019-19921)")
        if os.path.lexists(path) and not os.path.isdir(path):
            raise BadInput(f"--rootfs {rootfs}: /{name} is not a directory")
    view.add(Entry(Kind.DIRECTORY, "/", "filesystem.read_only_root",
                   Use.RUN if options.read_only and not options.layered else Use.BUILD))
    inside = os.path.join(rootfs, RESOLVER_FILE[1:])
    if options.network and os.path.isfile(inside) and not os.path.islink(inside):
        source = os.path.realpath(RESOLVER_FILE)
        if os.path.isfile(source):
            view.add(Entry(Kind.BIND, RESOLVER_FILE, "network", Use.READ, source=source))


def _add_private(view: View, account: Account, rootfs: bool) -> None:
    """HOME, /tmp and /run: of the one tmpfs, or, in a rootfs, tmpfs of their own."""
    kind = Kind.TMPFS if rootfs else Kind.PRIVATE
    _add_directory(view, TMP, VISIBLE, 0o1777)
    view.add(Entry(kind, TMP, VISIBLE, Use.BUILD, mode=0o1777))
    if account.home != TMP:
        _add_directory(view, account.home, VISIBLE, 0o700)
        view.add(Entry(kind, account.home, VISIBLE, Use.BUILD, mode=0o700))
    if not rootfs:
        _add_directory(view, "/run", VISIBLE)
        view.add(Entry(Kind.FILE, CANARY, "landlock", mode=0o444))
        _add_directory(view, "/var", VISIBLE)
        view.add(Entry(Kind.LINK, VAR_TMP, VISIBLE, source=TMP))


def _add_devices(view: View, options: RootOptions) -> None:
    _add_directory(view, "/dev", "devices")
    if view.rootfs is not None:
        view.add(Entry(Kind.TMPFS, "/dev", "devices", Use.DEVICES, size=_DEV_SIZE))
    else:
        view.add(Entry(Kind.DIRECTORY, "/dev", "devices", Use.DEVICES))
    for name in sorted(options.devices):
        path = f"/dev/{name}"
        view.add(Entry(Kind.FILE, path, "devices", mode=0o666))
        view.add(Entry(Kind.DEVICE, path, "devices", source=path))
    if options.proc != "none":
        links = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
                 "stderr": "/proc/self/fd/2"}
        for name, target in links.items():
            view.add(Entry(Kind.LINK, f"/dev/{name}", "devices", source=target))
    if options.private_terminals:
        view.add(Entry(Kind.DIRECTORY, "/dev/pts", "terminal"))
        view.add(Entry(Kind.LINK, "/dev/ptmx", "terminal", source="pts/ptmx"))
    view.add(Entry(Kind.DIRECTORY, SHM, "devices", mode=0o1777))
    view.add(Entry(Kind.PRIVATE if view.rootfs is None else Kind.TMPFS, SHM,
                   "devices", Use.WRITE, mode=0o1777))


def _add_links(view: View, links: Sequence[tuple[str, str]]) -> None:
    for path, target in links:
        if view.find(path).missing == "":
            continue
        mount = view.mount_of(path)
        if mount is None or mount.kind is not Kind.BIND:
            _add_directory(view, os.path.dirname(path), READABLE)
            view.add(Entry(Kind.LINK, path, READABLE, source=target))


def _add_grants(view: View, mounts: Iterable[Mount]) -> None:
    for mount in sorted(mounts, key=lambda m: m.destination.split("/")):
        destination = view.canonical(mount.destination)
        _check_destination(mount, destination)
        over = view.mount_of(destination)
        if mount.access == "ro" and view.host_path(destination) == mount.source \
                and over is not None and over.use is Use.RUN:
            continue  # visible as it is
        if over is not None and over.path == destination and over.control in (READABLE, WRITABLE):
            raise BadInput(f"{mount.origin}: two grants at {destination}",
                           hint="keep one of them")
        _forget_below(view, destination)
        if mount.source is None:
            _add_directory(view, destination, WRITABLE)
            separate = mount.size is not None or view.rootfs is not None
            view.add(Entry(Kind.TMPFS if separate else Kind.PRIVATE, destination, WRITABLE,
                           Use.BUILD, mode=0o1777, size=mount.size or 0))
            continue
        control, use = (WRITABLE, Use.BUILD) if mount.access == "rw" else (READABLE, Use.RUN)
        _add_grant(view, mount, destination, control, use)


def _add_grant(view: View, mount: Mount, destination: str, control: str, use: Use) -> None:
    assert mount.source is not None
    try:
        _add_bind(view, mount.source, destination, control, use)
    except BadInput as error:
        raise BadInput(f"{mount.origin} {mount.source}:{error.message}", hint=error.hint) from None
    below_it = view.mount_of(os.path.dirname(destination))
    if below_it is not None and below_it.kind is Kind.BIND:
        target = below_it.source.rstrip("/") + destination[len(below_it.path):]
        if os.path.isdir(target) != os.path.isdir(mount.source) or not os.path.exists(target):
            raise BadInput(f"{mount.origin} {mount.source}:{destination}: there is nothing of its "
                           f"kind at {target} to mount it on",
                           hint="make it first, or choose another destination")


def _check_destination(mount: Mount, destination: str) -> None:
    """A grant must not hide what the sandbox is built of: /proc, /dev, /sys (FS-22)."""
    if mount.access == "tmpfs" and destination == SHM:
        return
    if destination == "/" or any(below(destination, reserved) for reserved in RESERVED):
        raise BadInput(f"{mount.origin} {mount.source or ''}:{destination} would hide what the "
                       f"sandbox has there", hint="choose another destination")


def _forget_below(view: View, destination: str) -> None:
    """What the sandbox itself put at and beneath a grant gives way; other grants stay."""
    for table in (view.made, view.mounts):
        for path in [p for p in table if below(p, destination)]:
            if table[path].control not in (READABLE, WRITABLE):
                del table[path]
