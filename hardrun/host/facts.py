"""Host facts: what this kernel lets this user do, as one frozen value.

The engine reads nothing else about the host, so a Decision for any kind of host can be made, and
tested, anywhere. ``hardrun.host.probe`` fills it in by trying.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

Tier = Literal["full", "landlock", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that was tried.

    ``detail`` is what was seen (a path, an errno, a version), ``layer`` what stands in the way
    ("sysctl user.max_user_namespaces", "AppArmor", "seccomp of an outer container"), ``fix`` the
    smallest change that would make it available. The last two are empty when it is.
    """

    available: bool
    detail: str = ""
    layer: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a host and a user can enforce.

    Limits are in the units of setrlimit(2), keyed by ``RLIMIT_…``, with 2**63-1 for unlimited.
    """

    FULL_TIER: ClassVar[tuple[str, ...]] = (
        "memory_executable", "user_namespaces", "pid_namespace", "mount_namespace",
        "network_namespace", "ipc_namespace", "uts_namespace", "proc_mount", "seccomp", "landlock",
    )
    """The facts that make the full tier."""

    # who and where
    kernel_release: str
    architecture: str
    boot_id: str
    uid: int
    gid: int
    user_name: str
    home: str
    supplementary_groups: tuple[int, ...] = ()
    """Without ``gid``, sorted."""
    hard_limits: Mapping[str, int] = field(default_factory=dict)

    # ids
    subordinate_uids: tuple[tuple[int, int], ...] = ()
    """Ranges (first id, count) of /etc/subuid that belong to this user."""
    subordinate_gids: tuple[tuple[int, int], ...] = ()
    newuidmap: Fact
    newgidmap: Fact
    id_ranges: Fact
    """Whether a range was really mapped by the helpers; only then can groups be dropped."""

    # namespaces and what is done in them
    user_namespaces: Fact
    mount_namespace: Fact
    pid_namespace: Fact
    network_namespace: Fact
    ipc_namespace: Fact
    uts_namespace: Fact
    cgroup_namespace: Fact
    nested_namespaces_limit: Fact
    """Whether user.max_user_namespaces can be lowered inside, which ends nesting for good."""
    proc_mount: Fact
    proc_subset: Fact
    """Whether proc takes ``subset=pid`` (Linux 5.8)."""
    devpts_mount: Fact
    overlay: Fact
    keyring: Fact
    memory_executable: Fact
    """Whether a memory file can be executed (sysctl vm.memfd_noexec)."""

    # filters and labels
    landlock_abi: int = 0
    landlock: Fact
    seccomp: Fact
    apparmor: Fact
    apparmor_profiles: tuple[str, ...] = ()
    selinux: Fact
    selinux_types: tuple[str, ...] = ()

    # cgroups
    cgroup: Fact
    cgroup_directory: str = ""
    """The delegated directory below which groups can be made; empty when there is none."""
    cgroup_controllers: tuple[str, ...] = ()
    """Controllers with a limit that could be written in a group made for the trial."""

    @property
    def tier(self) -> Tier:
        """``full``: namespaces, mounts, seccomp, Landlock. ``landlock``: the last two alone."""
        facts: tuple[Fact, ...] = tuple(getattr(self, name) for name in self.FULL_TIER)
        if all(fact.available for fact in facts):
            return "full"
        return "landlock" if self.seccomp.available and self.landlock.available else "none"

    @property
    def kernel_version(self) -> tuple[int, int]:
        """Major and minor number of the release; (0, 0) when it names none."""
        return kernel_version(self.kernel_release)


def kernel_version(release: str) -> tuple[int, int]:
    """Major and minor number of a release such as ``6.18.4-arch1``."""
    numbers = release.split("-")[0].split(".")
    try:
        return int(numbers[0]), int(numbers[1])
    except (ValueError, IndexError):
        return 0, 0
