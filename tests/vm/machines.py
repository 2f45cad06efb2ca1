"""The machines: one image, three ways to boot it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """A kernel and what root does to it before anybody else may use it."""

    name: str
    append: str = ""
    """Added to the kernel's command line."""
    labels: bool = False
    """Does it need labels on every file of the image?"""
    prepare: str = ""
    """Shell, run as the guest's root before the tests."""


MACHINES = {machine.name: machine for machine in (
    # Debian's default.
    Machine("apparmor"),
    Machine("selinux", append="security=selinux enforcing=1", labels=True),
    # No security module that labels processes, and nobody but root may have a user namespace.
    # Not apparmor=0: the kernel then takes SELinux for the one that may label. And cgroup v1.
    Machine("bare", append="lsm=lockdown,yama,landlock,bpf "
            "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1",
            prepare="sysctl -q kernel.unprivileged_userns_clone=0 user.max_user_namespaces=0"),
)}
