"""What stands around the caller: the state that tells a dozen causes of one EPERM apart."""

from __future__ import annotations

import os
from typing import NamedTuple

from hardrun.host.distribution import Distribution
from hardrun.host.facts import kernel_version
from hardrun.kernel import idmap, lsm, mounts, procfs, selinux

_SYS = "/proc/sys"
_SETFCAP = 1 << 31
_WHOLE = (idmap.IdMapping(0, 0, 2**32 - 1),)


class Surroundings(NamedTuple):
    """What stands around the caller. Text is as the kernel writes it, None where it is absent."""

    kernel: tuple[int, int] = (6, 0)
    distribution: Distribution = Distribution()
    unprivileged_userns_clone: str | None = None  # Debian's switch
    max_user_namespaces: str | None = None
    max_mnt_namespaces: str | None = None
    max_pid_namespaces: str | None = None
    apparmor_restrict_userns: str | None = None  # Ubuntu's, from 23.10
    apparmor_restrict_unconfined: str | None = None  # Ubuntu's, on by default from 26.04
    apparmor_label: str | None = None
    selinux_context: str | None = None  # where SELinux enforces, or may
    seccomp: int = 0
    filtered: tuple[str, ...] | None = None  # calls that a filter refuses, where that was tried
    no_new_privs: bool = False
    bare_root: bool = False  # uid 0 without CAP_SETFCAP
    nested: bool = False  # not in the initial user namespace
    own_ids: int = 2**32 - 1  # uids that the caller's user namespace has
    proc_mounted: bool = True
    covered_proc: tuple[str, ...] = ()  # mounts over parts of /proc
    memfd_noexec: str | None = None
    keys_maximum: str | None = None

    @classmethod
    def read(cls) -> Surroundings:
        """Read them for this process."""
        release = os.uname().release
        status = procfs.status()
        ids = idmap.parse_map(procfs.id_map("self", "uid_map"))
        table = mounts.parse(procfs.mountinfo())
        covered = (
            mount.mount_point for mount in table
            if mount.mount_point.startswith("/proc/")
            and mount.type not in ("binfmt_misc", "autofs")
        )
        return cls(
            kernel=kernel_version(release),
            distribution=Distribution.read(release),
            unprivileged_userns_clone=lsm.read_line(f"{_SYS}/kernel/unprivileged_userns_clone"),
            max_user_namespaces=lsm.read_line(f"{_SYS}/user/max_user_namespaces"),
            max_mnt_namespaces=lsm.read_line(f"{_SYS}/user/max_mnt_namespaces"),
            max_pid_namespaces=lsm.read_line(f"{_SYS}/user/max_pid_namespaces"),
            apparmor_restrict_userns=lsm.read_line(
                f"{_SYS}/kernel/apparmor_restrict_unprivileged_userns"),
            apparmor_restrict_unconfined=lsm.read_line(
                f"{_SYS}/kernel/apparmor_restrict_unprivileged_unconfined"),
            apparmor_label=lsm.apparmor_label(),
            selinux_context=selinux.confining(),
            seccomp=status.seccomp or 0,
            no_new_privs=bool(status.no_new_privs),
            bare_root=status.uids[1] == 0 and not status.capabilities["CapEff"] & _SETFCAP,
            nested=ids != _WHOLE,
            own_ids=sum(mapping.size for mapping in ids),
            proc_mounted=any(mount.type == "proc" for mount in table),
            covered_proc=tuple(covered),
            memfd_noexec=lsm.read_line(f"{_SYS}/vm/memfd_noexec"),
            keys_maximum=lsm.read_line(f"{_SYS}/kernel/keys/maxkeys"),
        )

    @property
    def outer_filter(self) -> bool:
        """Whether a seccomp filter around the caller may be what refuses."""
        return self.seccomp == 2 and self.filtered != ()

    @property
    def confining_profile(self) -> str:
        """The AppArmor profile that confines the caller; empty when none does."""
        profile, mode = lsm.profile_of(self.apparmor_label or "unconfined")
        return "" if profile == "unconfined" or mode in ("unconfined", "complain") else profile
