"""Read-backs of the view: every mount that shows something of the host must have been granted.

The expectation comes from the Decision alone, never from the plan: a mistake of the compiler that
shows too much is found here. Which host path a mount shows is told by the caller's own mount table:
same file system, and a root that lies beneath one of its mounts.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from hardrun.errors import BadInput
from hardrun.kernel.mounts import Mount, visible
from hardrun.plan.mounting import MASKED, READ_ONLY
from hardrun.plan.protect import find_protected
from hardrun.plan.root import DEVICE_NUMBERS
from hardrun.posture import filesystem
from hardrun.posture.devices import DEVICES
from hardrun.posture.filesystem import below
from hardrun.posture.network import NETWORK
from hardrun.verify import canaries
from hardrun.verify.check import Answer, Subject, Unreadable, listed, not_bound

_MOUNTINFO = "/proc/PID/mountinfo"
_RESOLVER = "/etc/resolv.conf"
_MADE_INSIDE = frozenset({"tmpfs", "proc", "devpts"})
_PROC_FLAGS = ("nosuid", "nodev", "noexec")


def host_paths(mount: Mount, outside: Iterable[Mount]) -> tuple[str, ...]:
    """Where the caller sees what a mount shows; empty for a file system of the sandbox's own."""
    found = []
    for candidate in outside:
        if candidate.device == mount.device and below(mount.root, candidate.root):
            rest = mount.root[len(candidate.root.rstrip("/")):]
            found.append(candidate.mount_point.rstrip("/") + rest or "/")
    return tuple(found)


def _of_host(subject: Subject) -> Iterator[tuple[Mount, tuple[str, ...]]]:
    """The mounts that show something of the host, without devices and masks.

    What is of no kind that a sandbox makes for itself is the host's, even where the caller does not
    see it: a file system that only another mount namespace has must not pass for our own.
    """
    devices = {m.device for m in subject.observer.mounts}
    for mount in subject.read("mounts"):
        foreign = mount.device in devices or mount.type not in _MADE_INSIDE
        if mount.mount_point == "/" and _is_layered(mount, subject):
            continue
        if foreign and not _is_device(mount, subject):
            yield mount, host_paths(mount, subject.observer.mounts)


def _is_device(mount: Mount, subject: Subject) -> bool:
    """A node of the host's /dev on a node of /dev, or its null device as a mask in /proc."""
    for path in host_paths(mount, subject.observer.mounts):
        if path == "/dev/null" and below(mount.mount_point, "/proc"):
            return True
        if path == mount.mount_point and os.path.dirname(path) == "/dev":
            return True
    return False


def _is_layered(mount: Mount, subject: Subject) -> bool:
    """An overlay of the sandbox's own: mounted for it, and of nothing but what the Decision says.

    The executor names the layers relative to a tmpfs that only it could reach, so the names alone
    say which is which; that the lower one is the given root is what the sealed plan tells.
    """
    value = subject.value(filesystem.OVERLAY) if _rootfs(subject) else "none"
    if mount.type != "overlay" or value == "none" or mount.super_option("userxattr") is None \
            or mount.device in {m.device for m in subject.observer.mounts}:
        return False
    planned = subject.evidence.sealed
    number = next((int(o.values[1]) for o in planned if o.name == "layer"), 0)
    below_it = next((str(o.values[0]) for o in planned if o.name == "root_overlay"), None)
    where = f"layers/{number}." if value == "persistent" else ""
    return (not planned or below_it in _rootfs(subject)) \
        and mount.super_option("lowerdir") == "lower" \
        and mount.super_option("upperdir") == f"{where}upper" \
        and mount.super_option("workdir") == f"{where}work"


def _granted(subject: Subject, *controls: filesystem.PathSet) -> frozenset[str]:
    paths = frozenset(path for control in controls for path in subject.value(control))
    return paths | frozenset(subject.resolve(path) for path in paths)


def _within(paths: Iterable[str], granted: Iterable[str]) -> bool:
    allowed = tuple(granted)
    return any(below(path, prefix) for path in paths for prefix in allowed)


def _show(mount: Mount, paths: tuple[str, ...]) -> str:
    source = paths[0] if paths else f"{mount.type} {mount.root}"
    return f"{source} on {mount.mount_point} ({','.join(mount.options)})"


def _rootfs(subject: Subject) -> frozenset[str]:
    rootfs = subject.workload.get("rootfs")
    return frozenset({str(rootfs), subject.resolve(str(rootfs))}) if rootfs else frozenset()


def readable(subject: Subject) -> Answer:
    """Nothing of the host is mounted but what was granted."""
    granted = _granted(subject, filesystem.VISIBLE, filesystem.READABLE, filesystem.WRITABLE)
    granted |= _rootfs(subject)
    if subject.value(NETWORK) == "host":
        granted |= {_RESOLVER, subject.resolve(_RESOLVER)}
    mounts = list(_of_host(subject))
    extra = [_show(m, paths) for m, paths in mounts if not _within(paths, granted)]
    extra += [f"{path} opened from inside" for path in canaries.reached(subject)]
    return Answer(not extra, f"not granted: {listed(extra)}" if extra else
                  f"mounts of the host, all granted: {len(mounts)}", _MOUNTINFO)


def shown(subject: Subject) -> Answer:
    """What is visible without a writable grant is read-only, nosuid and nodev."""
    writable_root = _rootfs(subject) if not subject.value(filesystem.READ_ONLY_ROOT) else ()
    writable = _granted(subject, filesystem.WRITABLE).union(writable_root)
    wrong = [_show(m, paths) for m, paths in _of_host(subject) if not _within(paths, writable)
             and not (m.read_only and m.has("nosuid") and m.has("nodev"))]
    if not _rootfs(subject) and not _within(("/usr",), writable):
        wrong += [f"{path} took a file" for path in canaries.written(subject) if path == "/usr"]
    return Answer(not wrong, listed(wrong) if wrong else "read-only, nosuid, nodev", _MOUNTINFO)


def writable(subject: Subject) -> Answer:
    """What of the host can be written was granted as writable, and is nosuid and nodev."""
    granted = _granted(subject, filesystem.WRITABLE)
    if not subject.value(filesystem.READ_ONLY_ROOT):
        granted |= _rootfs(subject)
    written = [(m, paths) for m, paths in _of_host(subject) if not m.read_only]
    wrong = [_show(m, paths) for m, paths in written if not _within(paths, granted)
             or not (m.has("nosuid") and m.has("nodev"))]
    return Answer(not wrong, listed(wrong) if wrong else
                  listed(m.mount_point for m, _ in written), _MOUNTINFO)


def protected(subject: Subject) -> Answer:
    """Every protected path that exists below a writable grant lies on a read-only mount."""
    names = subject.value(filesystem.PROTECTED)
    mounts = subject.read("mounts")
    count, wrong = 0, []
    for mount, paths in _of_host(subject) if names else ():
        if mount.read_only or not paths or not os.path.isdir(paths[0]):
            continue
        try:
            found = find_protected(paths[0], names)
        except BadInput as error:
            raise Unreadable(error.message) from None
        for path in found:
            count += 1
            inside = mount.mount_point.rstrip("/") + path[len(paths[0].rstrip("/")):]
            over = _lies_on(inside, mounts)
            if not os.path.islink(path) and (over is None or not over.read_only):
                wrong.append(inside)
    return Answer(not wrong, f"writable: {listed(wrong)}" if wrong else
                  f"{count} paths read-only", _MOUNTINFO)


def _lies_on(path: str, mounts: tuple[Mount, ...]) -> Mount | None:
    while True:
        mount = visible(mounts, path)
        if mount is not None or path == "/":
            return mount
        path = os.path.dirname(path)


def read_only_root(subject: Subject) -> Answer:
    """The root mount is read-only."""
    root = visible(subject.read("mounts"), "/")
    if root is None:
        return Answer(holds=False, observed="no mount on /", evidence=_MOUNTINFO)
    wanted = subject.value(filesystem.READ_ONLY_ROOT)
    if _is_layered(root, subject):
        return Answer(holds=True, observed=f"below a layer ({_layers(root)})",
                      evidence=f"{_MOUNTINFO} /")
    taken = "; it took a file" if "/" in canaries.written(subject) else ""
    return Answer((root.read_only and not taken) or not wanted, ",".join(root.options) + taken,
                  f"{_MOUNTINFO} /")


def overlay(subject: Subject) -> Answer:
    """The root is an overlay exactly where the Decision has one, with the layer that it says."""
    root = visible(subject.read("mounts"), "/")
    layered = root is not None and root.type == "overlay" and not host_paths(
        root, subject.observer.mounts)
    if subject.value(filesystem.OVERLAY) == "none" or not _rootfs(subject):
        return Answer(not layered, "an overlay" if layered else "no layer", f"{_MOUNTINFO} /")
    holds = root is not None and _is_layered(root, subject)
    return Answer(holds, _layers(root) if layered and root else "no overlay on /",
                  f"{_MOUNTINFO} /")


def _layers(mount: Mount) -> str:
    names = ("lowerdir", "upperdir", "workdir")
    return ", ".join(f"{name}={mount.super_option(name)}" for name in names)


def proc(subject: Subject) -> Answer:
    """procfs of the sandbox's own, with no more in it than granted (PR-01, PR-02, PR-05)."""
    mounts: tuple[Mount, ...] = subject.read("mounts")
    mount = next((m for m in reversed(mounts) if m.mount_point == "/proc"), None)
    if mount is None:
        return not_bound("not mounted", _MOUNTINFO)
    value = subject.value(filesystem.PROC)
    problems = [f"not {flag}" for flag in _PROC_FLAGS if not mount.has(flag)]
    if mount.type != "proc" or mount.device in {m.device for m in subject.observer.mounts}:
        problems.append(f"{mount.type} that is not the sandbox's own")
    if value == "none":
        problems.append("mounted")
    subset = mount.super_option("subset") == "pid"
    if value == "pid" and not subset:
        problems.append("not subset=pid")
    if not subset:
        problems += [f"{path} is not masked" for path in MASKED
                     if os.path.exists(path) and not _masked(subject, mounts, path)]
        problems += [f"{path} is not read-only" for path in READ_ONLY if os.path.exists(path)
                     and not getattr(visible(mounts, path), "read_only", False)]
    return Answer(not problems, "; ".join(problems) or ",".join(mount.super_options),
                  f"{_MOUNTINFO} /proc")


def _masked(subject: Subject, mounts: tuple[Mount, ...], path: str) -> bool:
    """Whether the null device or an empty directory lies there, by what a look-up there meets."""
    if visible(mounts, path) is None:
        return False
    seen = f"/proc/{subject.live.pid}/root{path}"
    try:
        status = os.stat(seen)
        if stat.S_ISDIR(status.st_mode):
            return not os.listdir(seen)
    except PermissionError:
        return True  # nobody but the sandbox can look; the mount is there
    except FileNotFoundError:
        return False
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == DEVICE_NUMBERS["null"]


def devices(subject: Subject) -> Answer:
    """No device nodes but the granted ones; nodev wherever else something is mounted."""
    granted = {f"/dev/{name}" for name in subject.value(DEVICES)}
    nodes, open_to = [], []
    for mount in subject.read("mounts"):
        if _is_device(mount, subject):
            if not below(mount.mount_point, "/proc"):
                nodes.append(mount.mount_point)
        elif not (mount.has("nodev") or mount.type == "devpts" or mount.mount_point == "/dev"):
            open_to.append(mount.mount_point)
    extra = set(nodes) - granted
    problems = [f"not granted: {listed(extra)}"] if extra else []
    problems += [f"not nodev: {listed(open_to)}"] if open_to else []
    return Answer(not problems, "; ".join(problems) or listed(nodes), _MOUNTINFO)
