"""Doctor's answers, kept for as long as what they depend on is the same.

The key names the boot, the caller, the namespaces around it and every switch that decides; a file
counts under the rules of ``hardrun.cache``. A fault is remembered only if whatever repairs it
shows in the key (``SHOWN``): whoever has just repaired something is told so at once. What shows
nowhere is tried anew each time: what is used up, what a filter or a profile around the caller says,
cgroups. Runs never ask here: what is tried costs them some milliseconds of a first start that takes
a hundred, and a wrong answer would cost more.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import resource

from hardrun import __version__, cache
from hardrun.errors import HardrunError
from hardrun.host.facts import Fact, HostFacts
from hardrun.host.probe import HELPER_PATHS
from hardrun.kernel import lsm, mounts, procfs, selinux
from hardrun.values import load as load_value
from hardrun.values import plain

KIND = "hosts"
SHOWN = frozenset({
    # by the kernel, its command line and its modules: the boot, its release, /proc/filesystems
    "no-user-namespaces", "no-such-namespace", "kernel-too-old", "no-seccomp", "no-landlock",
    "landlock-not-enforced", "no-apparmor", "no-selinux", "no-overlay",
    # by a switch or a loaded policy
    "apparmor-restricts-userns", "max-user-namespaces", "unprivileged-userns-clone",
    "selinux-domain", "selinux-permissive", "memfd-noexec",
    # by the caller's process and its mounts
    "root-without-setfcap", "no-new-privs", "outer-single-id", "proc-read-only", "proc-covered",
    # by files
    "no-newuidmap", "newuidmap-unprivileged", "newuidmap-nosuid", "newuidmap-insecure",
    "no-subordinate-ids",
})
_ASKED_ANEW = ("cgroup", "cgroup_delegation")
_CONTENTS = (
    "/proc/sys/kernel/random/boot_id", "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_unconfined",
    "/proc/sys/user/max_user_namespaces", "/proc/sys/user/max_mnt_namespaces",
    "/proc/sys/user/max_net_namespaces", "/proc/sys/user/max_pid_namespaces",
    "/proc/sys/user/max_ipc_namespaces", "/proc/sys/user/max_uts_namespaces",
    "/proc/sys/user/max_cgroup_namespaces", "/proc/sys/vm/memfd_noexec",
    "/proc/sys/kernel/keys/maxkeys", "/proc/self/uid_map", "/proc/self/gid_map",
    "/proc/filesystems",
)
_SELINUX_STATUS = "/sys/fs/selinux/status"  # counts changes of mode, booleans and policy
_FILES = ("/etc/subuid", "/etc/subgid", "/etc/os-release", *HELPER_PATHS)
_STATUS = ("Groups:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:")


def key(executor: str) -> bytes | None:
    """Everything that the answers depend on and that can be seen, as one text.

    None where they depend on what can't be seen: the content of a seccomp filter or of an AppArmor
    profile around the caller, or AppArmor's policy in a container.
    """
    confinement = _confinement()
    if confinement is None:
        return None
    system = os.uname()
    root = os.stat("/")
    words = [__version__, system.release, system.machine, str(os.getuid()), str(os.getgid()),
             *_account(), confinement, f"{root.st_dev}:{root.st_ino}"]
    words += [_file(path) for path in (*_FILES, executor)]
    words += [lsm.read_line(path) or "" for path in _CONTENTS]
    words += [f"{name} {inode}" for name, inode in sorted(procfs.namespaces().items())]
    words += [f"{mount.mount_point} {mount.type} {mount.options} {mount.super_options}"
              for mount in mounts.parse(procfs.mountinfo())
              if mount.mount_point.startswith("/proc")]
    with open("/proc/self/status", encoding="utf-8", errors="surrogateescape") as file:
        words += [line for line in file if line.startswith(_STATUS)]
    words += [f"{name} {resource.getrlimit(getattr(resource, name))}" for name in dir(resource)
              if name.startswith("RLIMIT_")]
    return b"\0".join(os.fsencode(word) for word in words)


def _confinement() -> str | None:
    """The labels of the caller, with the number of changes to AppArmor's policy."""
    own = lsm.apparmor_label()
    if procfs.status().seccomp == 2 or lsm.is_confined(own or ""):
        return None
    revision = 0 if own is None else lsm.apparmor_revision()
    policy = lsm.read_line(_SELINUX_STATUS)
    if revision is None or (policy is None and selinux.context_of() is not None):
        return None
    return f"{own} {revision} {lsm.label()} {policy} {_first_process()}"


def _first_process() -> str:
    """When PID 1 was started: a container made later may have this one's namespace numbers."""
    try:
        return str(procfs.stat(1).start_time)
    except OSError:  # not to be seen
        return ""


def _account() -> tuple[str, ...]:
    """The caller's name and home, by its links; HOME counts where it is an absolute path."""
    try:
        entry = pwd.getpwuid(os.getuid())
        name, home = entry.pw_name, entry.pw_dir
    except KeyError:  # a uid without an account
        name, home = "", "/"
    if os.environ.get("HOME", "").startswith("/"):
        home = os.environ["HOME"]
    return name, home, os.path.realpath(home)


def _file(path: str) -> str:
    try:
        status = os.stat(path)
        flags = os.statvfs(path).f_flag
    except OSError:
        return f"{path} absent"
    return (f"{path} {status.st_dev}:{status.st_ino}:{status.st_mode}:{status.st_uid}"
            f":{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{flags}")


def load(of: bytes) -> HostFacts | None:
    """The answers under a key, if there are any that count; those about cgroups are not current."""
    data = cache.load(of, KIND)
    try:
        return None if data is None else load_value(HostFacts, json.loads(data))
    except (ValueError, RecursionError, HardrunError):
        return None


def lasts(facts: HostFacts) -> bool:
    """Whether the key tells for how long: not if what repairs a fault would not show in it."""
    values = {field.name: getattr(facts, field.name) for field in dataclasses.fields(facts)}
    causes = {value.cause for name, value in values.items() if name not in _ASKED_ANEW
              and isinstance(value, Fact) and not value.available}
    return causes <= SHOWN


def store(of: bytes, facts: HostFacts) -> None:
    """Keep the answers, if they last."""
    if lasts(facts):
        cache.store(of, json.dumps(plain(facts)).encode(), KIND)
