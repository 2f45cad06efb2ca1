"""Why the kernel refused: from an operation and its errno to the layer at fault and a remedy.

The kernel answers a dozen different causes with EPERM. What tells them apart is the state around
the caller, which is read once (``Surroundings.read``); the rules themselves are pure. A remedy is
the least that helps: a profile for this program before a switch for the whole machine, a rule in an
outer container's filter before a container without one. None of them switches a protection off.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from hardrun.host.attempt import Failure
from hardrun.host.facts import kernel_version
from hardrun.kernel import idmap, lsm, mounts, procfs

_SYS = "/proc/sys"
# Operations that need a namespace, and the sysctl that counts it.
_COUNTERS = {
    "network namespace": "max_net_namespaces", "ipc namespace": "max_ipc_namespaces",
    "uts namespace": "max_uts_namespaces", "cgroup namespace": "max_cgroup_namespaces",
}
_MOUNTS = frozenset({
    "make_private", "root_tmpfs", "mount_proc", "mount_devpts", "root_attributes", "pivot_root",
    "make_directory",
})


class Surroundings(NamedTuple):
    """What stands around the caller. Text is as the kernel writes it, None where it is absent."""

    kernel: tuple[int, int] = (6, 0)
    unprivileged_userns_clone: str | None = None  # Debian's switch
    max_user_namespaces: str | None = None
    apparmor_restrict_userns: str | None = None  # Ubuntu's, from 23.10
    apparmor_restrict_unconfined: str | None = None  # Ubuntu's, on by default from 26.04
    apparmor_label: str | None = None
    selinux_context: str | None = None  # where SELinux enforces
    seccomp: int = 0
    no_new_privs: bool = False
    nested: bool = False  # not in the initial user namespace
    covered_proc: tuple[str, ...] = ()  # mounts over parts of /proc
    memfd_noexec: str | None = None
    keys_maximum: str | None = None

    @classmethod
    def read(cls) -> Surroundings:
        """Read them for this process."""
        status = procfs.status()
        whole = (idmap.IdMapping(0, 0, 2**32 - 1),)
        covered = (
            mount.mount_point for mount in mounts.parse(procfs.mountinfo())
            if mount.mount_point.startswith("/proc/")
            and mount.type not in ("binfmt_misc", "autofs")
        )
        return cls(
            kernel=kernel_version(os.uname().release),
            unprivileged_userns_clone=lsm.read_line(f"{_SYS}/kernel/unprivileged_userns_clone"),
            max_user_namespaces=lsm.read_line(f"{_SYS}/user/max_user_namespaces"),
            apparmor_restrict_userns=lsm.read_line(
                f"{_SYS}/kernel/apparmor_restrict_unprivileged_userns"),
            apparmor_restrict_unconfined=lsm.read_line(
                f"{_SYS}/kernel/apparmor_restrict_unprivileged_unconfined"),
            apparmor_label=lsm.apparmor_label(),
            selinux_context=lsm.label() if lsm.selinux_enforcing() else None,
            seccomp=status.seccomp or 0,
            no_new_privs=bool(status.no_new_privs),
            nested=idmap.parse_map(procfs.id_map("self", "uid_map")) != whole,
            covered_proc=tuple(covered),
            memfd_noexec=lsm.read_line(f"{_SYS}/vm/memfd_noexec"),
            keys_maximum=lsm.read_line(f"{_SYS}/kernel/keys/maxkeys"),
        )

    @property
    def confining_profile(self) -> str:
        """The AppArmor profile that confines the caller; empty when none does."""
        profile, mode = lsm.profile_of(self.apparmor_label or "unconfined")
        return "" if profile == "unconfined" or mode in ("unconfined", "complain") else profile


class Diagnosis(NamedTuple):
    """The layer that stands in the way, and what would help."""

    layer: str
    fix: str


def diagnose(failure: Failure, around: Surroundings) -> Diagnosis:
    """The likeliest cause of a failure, and its least remedy."""
    name = failure.operation
    if name in ("clone", "write_id_map", "await_id_maps"):
        return _user_namespace(failure, around)
    if name in _COUNTERS:
        return _other_namespace(failure, around)
    if name == "write_id_map_helper" and around.no_new_privs:
        return Diagnosis("no_new_privs of the caller", "start hardrun from a process without it "
                         "(in systemd NoNewPrivileges=no): newuidmap needs its privilege")
    if name == "write_id_map_helper":
        return Diagnosis(
            "newuidmap, newgidmap",
            "run them by hand to see what they say: the ranges in /etc/subuid and /etc/subgid must "
            "belong to this user")
    if name == "join_session_keyring":
        return _keyring(failure, around)
    if name in _MOUNTS:
        return _mount(failure, around)
    if name in ("load_seccomp", "landlock_ruleset", "landlock_restrict"):
        return _filter(name, failure, around)
    return _refused(around) or Diagnosis("kernel", "")


def _user_namespace(failure: Failure, around: Surroundings) -> Diagnosis:
    number = failure.errno
    if number in (errno.ENOSPC, errno.EUSERS):
        if around.max_user_namespaces == "0":
            return Diagnosis("sysctl user.max_user_namespaces",
                             "as root: sysctl -w user.max_user_namespaces=15000")
        return Diagnosis(
            "user namespace limit",
            "the user's namespaces (user.max_user_namespaces) or 32 levels of nesting are used up: "
            "end other sandboxes")
    if around.unprivileged_userns_clone == "0":
        return Diagnosis("sysctl kernel.unprivileged_userns_clone",
                         "as root: sysctl -w kernel.unprivileged_userns_clone=1")
    if number == errno.EINVAL and failure.operation == "clone":
        return Diagnosis("kernel without user namespaces",
                         "a kernel with CONFIG_USER_NS=y; the landlock tier needs none")
    if number == errno.ENOSYS and around.kernel < (5, 3):
        return Diagnosis("kernel before 5.14", "a newer kernel: clone3(2) is missing")
    return _refused(around, number) or Diagnosis(
        "kernel", "the caller's ids may have no mapping in its own user namespace, or it may be in "
        "a chroot (clone(2), EPERM)")


def _refused(around: Surroundings, number: int = errno.EPERM) -> Diagnosis | None:
    """Which security module or filter refuses what a new user namespace needs."""
    profile = around.confining_profile
    if number == errno.ENOSYS and around.seccomp == 2:
        return _outer_filter()
    if profile and profile != "unprivileged_userns":
        return Diagnosis(f"AppArmor profile {profile} of the caller",
                         f"add 'userns,', 'mount,', 'umount,' and 'pivot_root,' to the profile "
                         f"{profile}, or use a copy of it with these rules")
    if around.apparmor_restrict_userns == "1":
        return Diagnosis("AppArmor (kernel.apparmor_restrict_unprivileged_userns)",
                         "give hardrun a profile of its own, as root: hardrun doctor "
                         "--emit-apparmor > /etc/apparmor.d/hardrun; apparmor_parser -r "
                         "/etc/apparmor.d/hardrun")
    if around.seccomp == 2:
        return _outer_filter()
    if around.selinux_context:
        return Diagnosis(f"SELinux domain {around.selinux_context}",
                         "the rule that is missing, as root: ausearch -m AVC -ts recent | "
                         "audit2allow -R")
    return None


def _outer_filter() -> Diagnosis:
    return Diagnosis(
        "seccomp filter of an outer container or service",
        "let its profile allow what sandboxes are made of: clone, clone3, unshare, mount, umount2, "
        "pivot_root, open_tree, move_mount, fsopen, fsconfig, fsmount, mount_setattr, keyctl, "
        "sethostname, landlock_*")


def _other_namespace(failure: Failure, around: Surroundings) -> Diagnosis:
    if failure.errno in (errno.ENOSPC, errno.EUSERS):
        switch = f"user.{_COUNTERS[failure.operation]}"
        return Diagnosis(f"sysctl {switch}", f"as root: sysctl -w {switch}=15000")
    if failure.errno == errno.EINVAL:
        return Diagnosis(f"kernel without {failure.operation}s",
                         "a kernel with it built in, or a policy that shares it")
    return _refused(around, failure.errno) or Diagnosis("kernel", "")


def _mount(failure: Failure, around: Surroundings) -> Diagnosis:
    if failure.errno == errno.ENOSYS and around.kernel < (5, 12):
        return Diagnosis("kernel before 5.14", "a newer kernel: mount_setattr(2) is missing")
    if failure.operation == "mount_proc" and failure.errno == errno.EPERM and around.covered_proc:
        return Diagnosis(
            f"the caller's own /proc is partly covered ({around.covered_proc[0]})",
            "a policy with 'filesystem: {proc: none}'; in Kubernetes 'procMount: Unmasked' "
            "together with 'hostUsers: false'")
    if failure.operation == "mount_proc" and failure.errno == errno.EINVAL:
        return Diagnosis("kernel before 5.8", "a newer kernel, or 'filesystem: {proc: masked}'")
    return _refused(around, failure.errno) or Diagnosis("kernel", "")


def _keyring(failure: Failure, around: Surroundings) -> Diagnosis:
    if failure.errno == errno.EDQUOT:
        return Diagnosis(f"quota of keys ({around.keys_maximum or '200'} for each user)",
                         "end sessions that hold keys, or as root: sysctl -w "
                         "kernel.keys.maxkeys=2000")
    if around.seccomp == 2:
        return _outer_filter()
    return Diagnosis("kernel", "")


def _filter(name: str, failure: Failure, around: Surroundings) -> Diagnosis:
    if around.seccomp == 2 and failure.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
        return _outer_filter()
    if name == "load_seccomp":
        return Diagnosis("kernel without seccomp filters", "a kernel with CONFIG_SECCOMP_FILTER=y")
    return landlock_missing(around)


def landlock_missing(around: Surroundings) -> Diagnosis:
    """Why there is no Landlock."""
    if around.kernel < (5, 13):
        return Diagnosis("kernel before 5.13", "a newer kernel: Landlock came with 5.13")
    if around.seccomp == 2:
        return _outer_filter()
    return Diagnosis("kernel without Landlock",
                     "a kernel with CONFIG_SECURITY_LANDLOCK=y, and landlock in its lsm= list")


def not_executable(error: OSError, around: Surroundings) -> Diagnosis:
    """Why the executor could not be started from a memory file."""
    if error.filename == "memory file" and around.memfd_noexec == "2":
        return Diagnosis("sysctl vm.memfd_noexec", "as root: sysctl -w vm.memfd_noexec=1")
    if error.filename in ("memory file", "execution"):
        return _refused(around, errno.EACCES) or Diagnosis("kernel", "")
    return Diagnosis("installation", f"{error.filename} can't be read: make -C hardrun/executor, "
                     "or install hardrun again")


def apparmor_profile(program: str, around: Surroundings) -> str:
    """An AppArmor profile that lets one program make user namespaces and restricts it no further.

    Where unconfined processes are held to their lack of a profile (26.04), the mode ``unconfined``
    grants nothing; ``default_allow`` does the same without being that.
    """
    mode = "default_allow" if around.apparmor_restrict_unconfined == "1" else "unconfined"
    return (
        "abi <abi/4.0>,\n"
        "include <tunables/global>\n\n"
        f'profile hardrun "{program}" flags=({mode}) {{\n'
        "  userns,\n\n"
        "  include if exists <local/hardrun>\n"
        "}\n"
    )
