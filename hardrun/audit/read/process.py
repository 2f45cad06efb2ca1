"""Running processes: what is in force, from /proc, whatever engine started them and without it.

What the kernel hides from this caller is unknown, never fine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from posixpath import join, normpath, relpath

from hardrun.audit.model import Place, Seen, Subject
from hardrun.audit.read.engine import UNLIMITED
from hardrun.audit.read.gather import Gather
from hardrun.kernel import capabilities, cgroups, mounts, procfs
from hardrun.posture.capabilities import CAPABILITIES
from hardrun.posture.filesystem import below
from hardrun.verify.find import image_of
from hardrun.verify.live import LivePosture, Observer, observe

_HIDDEN = "the kernel hides it from this user"
_FACTS: Mapping[str, str] = {
    "network_mode": "net", "pid_namespace": "pid", "user_namespace": "user",
    "mount_namespace": "mnt"}
_SHARED = ("ipc", "uts", "cgroup")
_PATHS = ("filesystem.readable", "filesystem.writable")
_SOCKETS = ("docker.sock", "containerd.sock", "crio.sock", "podman.sock", "cri-dockerd.sock")
# What engines make for a container: files that they write for it, below directories of their own
# (volumes and Kubernetes's secrets lie there, too).
_MADE = frozenset({"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/passwd", "/etc/group",
                   "/run/.containerenv"})
_OF_ENGINES = ("/var/lib/docker/", "/var/lib/containers/storage/", "/var/lib/kubelet/pods/",
               "/var/lib/containerd/io.containerd.", "/run/containerd/io.containerd.",
               "/run/containers/storage/")
_VOLUME = re.compile(r"/volumes/[^/]+/_data(?:/|$)")  # wherever the engine keeps its state
# Where the kernel's own file systems are in every container, and devices that every one has.
_KERNEL = ("/proc", "/sys", "/dev")
_MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sysrq-trigger")

At = Callable[[str, str], Place]


def _host() -> Observer:
    """The host: PID 1 where it can be read, else whoever looks."""
    try:
        return Observer.read(1)
    except (PermissionError, ProcessLookupError):
        return Observer.read()


def read(pid: int) -> Subject:
    """One process. Raises ProcessLookupError when it is gone."""
    return subject(observe(pid), _host())


def containers() -> Iterator[Subject]:
    """The first process of every pid namespace but the host's, as far as this user can see.

    PID 1 of a sandbox of hardrun runs nothing of the workload; the one that it started counts.
    """
    host = _host()
    own = host.namespaces.get("pid")
    seen: set[tuple[str | None, str | None]] = set()
    for pid in sorted(procfs.process_ids()):
        try:
            spaces = procfs.namespaces(pid)
            key = spaces.get("pid"), spaces.get("mnt")
            if spaces.get("pid") in (None, own) or key in seen or image_of(pid) is not None:
                continue
            found = subject(observe(pid), host)
        except (PermissionError, ProcessLookupError):
            continue  # another user's, or gone meanwhile
        seen.add(key)
        yield found


def subject(live: LivePosture, host: Observer) -> Subject:
    """What was read of a process, beside the host that it runs on."""
    gather = Gather("process", f"{live.pid} {live.status.name}", str(live.pid),
                    Place(f"/proc/{live.pid}", 0, 0, "process"))

    def at(name: str, field: str = "") -> Place:
        return Place(f"/proc/{live.pid}/{name}", 0, 0, field or name)

    _namespaces(gather, live, host, at)
    _credentials(gather, live, at)
    _mounts(gather, live, host, at)
    _limits(gather, live, at("cgroup"))
    if live.apparmor is None:
        gather.unknown("apparmor_mode", "AppArmor is not on this host")
    else:
        gather.say("apparmor_mode", "unconfined" if live.apparmor.startswith("unconfined")
                   else "profile", at("attr/current"))
    return gather.subject()


def _credentials(gather: Gather, live: LivePosture, at: At) -> None:
    status = live.status
    held = capabilities.names_of(
        status.capabilities["CapPrm"] | status.capabilities["CapEff"]
        | status.capabilities["CapInh"] | status.capabilities["CapAmb"])
    if not status.no_new_privs and (status.uids[1] == 0 or _has_setuid_files(gather, live)):
        held |= capabilities.names_of(status.capabilities["CapBnd"])  # regained at an execve
    gather.values["capabilities"] = Seen(held & CAPABILITIES.loosest, at("status", "CapBnd"))
    if status.no_new_privs is None:
        gather.unknown("no_new_privs", "this kernel does not show it")
    else:
        gather.say("no_new_privs", status.no_new_privs, at("status", "NoNewPrivs"))
    if status.seccomp is None:
        gather.unknown("seccomp_mode", "this kernel does not show it")
    else:
        gather.say("seccomp_mode", "profile" if status.seccomp else "unconfined",
                   at("status", "Seccomp"))
    inside = status.uids[1]
    if live.uid_map is None:
        gather.unknown("ids.user", live.unknown.get("uid_map", _HIDDEN))
        return
    for entry in live.uid_map:
        if entry.outside <= inside < entry.outside + entry.size:
            inside = entry.inside + inside - entry.outside
            break
    gather.say("ids.user", "root" if inside == 0 else "self", at("status", "Uid"))


def _has_setuid_files(gather: Gather, live: LivePosture) -> bool:
    """Whether it has an image of its own, in which setuid programs work: what a configuration
    leaves in the bounding set is then there for the taking."""
    space = gather.values.get("mount_namespace")
    root = mounts.visible(live.mounts or (), "/")
    return space is not None and space.value == "own" and root is not None \
        and not root.has("nosuid")


def _namespaces(gather: Gather, live: LivePosture, host: Observer, at: At) -> None:
    own = live.namespaces
    for fact, kind in _FACTS.items():
        if own is None or kind not in own or kind not in host.namespaces:
            gather.unknown(fact, live.unknown.get("namespaces", _HIDDEN))
            continue
        private = own[kind] != host.namespaces[kind]
        gather.say(fact, "own" if private else "host", at(f"ns/{kind}", ""))
    if own is None:
        gather.unknown("namespaces.shared", live.unknown.get("namespaces", _HIDDEN))
        return
    if gather.values["network_mode"].value == "own" and live.interfaces is not None \
            and set(live.interfaces) <= {"lo"}:
        gather.say("network_mode", "none", at("ns/net", ""))
    for kind in _SHARED:
        if kind in own and own[kind] == host.namespaces.get(kind):
            gather.add("namespaces.shared", kind, at(f"ns/{kind}", ""))
    gather.nothing("namespaces.shared")


def _mounts(gather: Gather, live: LivePosture, host: Observer, at: At) -> None:
    if live.mounts is None:
        for name in ("filesystem.read_only_root", "proc_mount", *_PATHS):
            gather.unknown(name, live.unknown.get("mounts", _HIDDEN))
        return
    shown = mounts.reachable(live.mounts)
    for mount in shown:
        if mount.mount_point == "/":
            gather.say("filesystem.read_only_root", mount.read_only, at("mountinfo", "/"))
    space = gather.values.get("mount_namespace")
    if space is not None and space.value == "host":  # which says the rest as well
        gather.host_path("/", space.place, read_only=False)
        gather.say("proc_mount", "unmasked", space.place)
        gather.nothing(*_PATHS)
        return
    gather.say("proc_mount", "masked" if _masked(shown) else "unmasked", at("mountinfo", "/proc"))
    found = [(path, mount) for mount in shown if (path := _of_host(mount, host)) is not None]
    writable = [(path, mount.mount_point) for path, mount in found if not mount.read_only]
    for path, mount in found:  # what lies within one that is writable came with it
        if not mount.read_only or not any(
                below(path, wider) and below(mount.mount_point, point)
                for wider, point in writable):
            gather.host_path(path, at("mountinfo", mount.mount_point), read_only=mount.read_only)
    gather.nothing(*_PATHS)


def _masked(shown: Sequence[mounts.Mount]) -> bool:
    """Whether what /proc tells and changes of the kernel is covered or read-only."""
    there = {mount.mount_point: mount for mount in shown}
    proc = there.get("/proc")
    if proc is None or proc.super_option("subset") == "pid":
        return True
    settings = there.get("/proc/sys")
    return settings is not None and settings.read_only and all(
        name in there or not os.path.exists(name) for name in _MASKED)


def _of_host(mount: mounts.Mount, host: Observer) -> str | None:
    """The path of the host that a mount shows; None for a file system of its own, for the root that
    the container was given and for what its engine made for it."""
    found = [normpath(join(outer.mount_point, relpath(mount.root, outer.root)))
             for outer in host.mounts if outer.device == mount.device
             and mount.root.startswith("/") and below(mount.root, outer.root)]
    if not found:  # /run of another mount namespace; what it has is known by its name
        return f"/run{mount.root}" if mount.root.endswith(_SOCKETS) else None
    path, point = min(found, key=len), mount.mount_point
    if point == "/":
        return path if path == "/" else None
    kernel = point not in _KERNEL and any(below(point, top) for top in _KERNEL)
    made = (point in _MADE and path != point) or (point == "/sys" and mount.read_only)
    own = path.startswith(_OF_ENGINES) or _VOLUME.search(path) or mount.root.endswith("//deleted")
    return None if kernel or made or own else path


def _limits(gather: Gather, live: LivePosture, place: Place) -> None:
    files = live.cgroup
    for control, name in (("limits.memory", "memory.max"), ("limits.pids", "pids.max"),
                          ("limits.cpus", "cpu.max")):
        if files is None or (name not in files and cgroups.GROUP not in files):
            gather.unknown(control, live.unknown.get("cgroup", _HIDDEN))
            continue
        word, _, period = files.get(name, "max").partition(" ")
        if word == "max" or not word.isdecimal():
            # A limit may stand on a group above, which holds as well.
            gather.say(control, UNLIMITED, place)
        else:
            amount = int(word) * 1000 // int(period) if period.isdecimal() else int(word)
            gather.say(control, max(1, amount), place)
