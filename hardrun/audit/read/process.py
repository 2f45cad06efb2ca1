"""Running processes: what is in force, from /proc, whatever engine started them and without it.

What the kernel hides from this caller is unknown, never fine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hardrun.audit.model import Place, Seen, Subject
from hardrun.audit.read.engine import UNLIMITED
from hardrun.audit.read.gather import Gather
from hardrun.kernel import capabilities, cgroups, procfs
from hardrun.posture.capabilities import CAPABILITIES
from hardrun.verify.find import image_of
from hardrun.verify.live import LivePosture, Observer, observe

_HIDDEN = "the kernel hides it from this user"
_FACTS: Mapping[str, tuple[str, str]] = {
    "network_mode": ("net", "namespaces"), "pid_namespace": ("pid", "namespaces"),
    "user_namespace": ("user", "namespaces"), "mount_namespace": ("mnt", "namespaces")}
_SHARED = ("ipc", "uts", "cgroup")
_SOCKETS = ("docker.sock", "containerd.sock", "crio.sock", "podman.sock", "cri-dockerd.sock")
_SYSTEM = ("/etc", "/usr", "/bin", "/sbin", "/boot", "/lib", "/lib64", "/root")


def _host() -> Observer:
    """The host: PID 1 where it can be read, else whoever looks."""
    try:
        return Observer.read(1)
    except (PermissionError, ProcessLookupError):
        return Observer.read()


def read(pid: int) -> Subject:
    """One process. Raises ProcessLookupError when it is gone."""
    return _subject(observe(pid), _host())


def containers() -> Iterator[Subject]:
    """The first process of every pid namespace but the host's, as far as this user can see.

    PID 1 of a sandbox of hardrun's runs nothing of the workload; the one that it started counts.
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
            found = _subject(observe(pid), host)
        except (PermissionError, ProcessLookupError):
            continue  # another user's, or gone meanwhile
        seen.add(key)
        yield found


def _subject(live: LivePosture, host: Observer) -> Subject:
    place = Place(f"/proc/{live.pid}", 0, 0, "process")
    gather = Gather("process", f"{live.pid} {live.status.name}", str(live.pid), place)

    def at(name: str) -> Place:
        return Place(f"/proc/{live.pid}/{name}", 0, 0, name)

    _credentials(gather, live, at("status"))
    _namespaces(gather, live, host, at("ns"))
    _mounts(gather, live, at("mountinfo"))
    _limits(gather, live, at("cgroup"))
    if live.apparmor is None:
        gather.unknown("apparmor_mode", "AppArmor is not on this host")
    else:
        gather.say("apparmor_mode", "unconfined" if live.apparmor.startswith("unconfined")
                   else "profile", at("attr"))
    return gather.subject()


def _credentials(gather: Gather, live: LivePosture, place: Place) -> None:
    status = live.status
    held = capabilities.names_of(
        status.capabilities["CapPrm"] | status.capabilities["CapEff"]
        | status.capabilities["CapInh"] | status.capabilities["CapAmb"])
    if not status.no_new_privs and status.uids[1] == 0:
        held |= capabilities.names_of(status.capabilities["CapBnd"])  # regained at an execve
    gather.values["capabilities"] = Seen(held & CAPABILITIES.loosest, place)
    if status.no_new_privs is None:
        gather.unknown("no_new_privs", "this kernel does not show it")
    else:
        gather.say("no_new_privs", status.no_new_privs, place)
    if status.seccomp is None:
        gather.unknown("seccomp_mode", "this kernel does not show it")
    else:
        gather.say("seccomp_mode", "profile" if status.seccomp else "unconfined", place)
    inside = status.uids[1]
    if live.uid_map is None:
        gather.unknown("ids.user", live.unknown.get("uid_map", _HIDDEN))
        return
    for entry in live.uid_map:
        if entry.outside <= inside < entry.outside + entry.size:
            inside = entry.inside + inside - entry.outside
            break
    gather.say("ids.user", "root" if inside == 0 else "self", place)


def _namespaces(gather: Gather, live: LivePosture, host: Observer, place: Place) -> None:
    own = live.namespaces
    for fact, (kind, _) in _FACTS.items():
        if own is None or kind not in own or kind not in host.namespaces:
            gather.unknown(fact, live.unknown.get("namespaces", _HIDDEN))
            continue
        private = own[kind] != host.namespaces[kind]
        gather.say(fact, "own" if private else "host", place)
    if own is None:
        gather.unknown("namespaces.shared", live.unknown.get("namespaces", _HIDDEN))
        return
    if gather.values["network_mode"].value == "own" and live.interfaces is not None \
            and set(live.interfaces) <= {"lo"}:
        gather.say("network_mode", "none", place)
    for kind in _SHARED:
        if kind in own and own[kind] == host.namespaces.get(kind):
            gather.add("namespaces.shared", kind, place)
    gather.nothing("namespaces.shared")


def _mounts(gather: Gather, live: LivePosture, place: Place) -> None:
    if live.mounts is None:
        for name in ("filesystem.read_only_root", "filesystem.writable", "filesystem.readable"):
            gather.unknown(name, live.unknown.get("mounts", _HIDDEN))
        return
    for mount in live.mounts:
        if mount.mount_point == "/":
            gather.say("filesystem.read_only_root", mount.read_only, place)
        if mount.root.endswith(_SOCKETS) or mount.mount_point.endswith(_SOCKETS):
            path = mount.root if mount.root.endswith(_SOCKETS) else mount.mount_point
            # /run is a file system of its own, so that the path in it lacks the beginning.
            gather.host_path(path if path.startswith(("/run/", "/var/run/")) else "/run" + path,
                             place, read_only=mount.read_only)
        elif mount.root in _SYSTEM and not mount.read_only and mount.root != mount.mount_point:
            gather.host_path(mount.root, place, read_only=False)
    gather.nothing("filesystem.readable", "filesystem.writable")


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
