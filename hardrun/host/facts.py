"""Host facts: what this kernel lets this user do, as one frozen value.

The engine reads nothing else about the host, so a Decision for any kind of host can be made, and
tested, anywhere. ``hardrun.host.probe`` fills it in by trying.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

Tier = Literal["full", "landlock", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that was tried.

    ``detail`` is what was seen (a path, an errno, a version), ``layer`` what stands in the way
    ("sysctl user.max_user_namespaces", "AppArmor", "seccomp of an outer container"), ``fix`` the
    smallest change that would make it available, ``cause`` the stable code of
    ``hardrun.host.causes``. The last three are empty when it is.
    """

    available: bool
    detail: str = ""
    layer: str = ""
    fix: str = ""
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a host and a user can enforce.

    Limits are in the units of setrlimit(2), keyed by ``RLIMIT_…``, with 2**63-1 for unlimited.
    """

    FULL_TIER: ClassVar[tuple[str, ...]] = (
        "memory_executable", "user_namespaces", "pid_namespace", "mount_namespace",
        "network_namespace", "ipc_namespace", "uts_namespace", "seccomp",
    )
    """The facts that make the full tier. Without a proc of its own a sandbox has none: less to
    see, and no defence less. Without Landlock the mounts alone hold what both would."""
    NAMESPACES: ClassVar[tuple[str, ...]] = (
        "user_namespaces", "pid_namespace", "mount_namespace",
    )
    """What no sandbox of the full tier can be without, whatever a policy asks for."""

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
    host_name: Fact
    """Whether a name can be set in it: outer filters refuse sethostname(2) (podman's default)."""
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
    apparmor_label: str = ""
    """What the executor runs under, with its mode: the caller's own, or that of a profile on the
    executor's path; empty without AppArmor."""
    apparmor_profiles: tuple[str, ...] = ()
    """Loaded profiles that enforce."""
    apparmor_complaining: tuple[str, ...] = ()
    """Loaded profiles in another mode: they report, and stop nothing."""
    apparmor_listed: bool = True
    """Whether the kernel lists them; else each name has to be tried (``host.labels``)."""
    selinux: Fact
    selinux_types: tuple[str, ...] = ()
    """Types that a program was executed with, and that the loaded policy enforces."""
    selinux_refused: Mapping[str, str] = field(default_factory=dict)
    """Types that policies name, and why they can't be used."""
    selinux_categories: int = 0
    """How many MCS categories the caller may give to its sandboxes."""

    # cgroups
    cgroup: Fact
    """Whether a group with limits was really made, and how."""
    cgroup_delegation: Fact
    """Whether that group had every controller that a limit needs."""
    cgroup_directory: str = ""
    """Where groups are made, as the operation ``cgroup`` has it; empty when nowhere."""
    cgroup_bus: str = ""
    """The socket of the bus on which systemd is asked for that directory; empty: no need to."""
    cgroup_controllers: tuple[str, ...] = ()
    """Controllers with a limit that could be written in the group; ``swap`` for its swap, and of
    cgroup v1 ``cpuacct`` for counting CPU time."""
    cgroup_hierarchies: tuple[tuple[str, str], ...] = ()
    """Of cgroup v1: hierarchies and where in them groups are made, as the operation ``cgroup_v1``
    has them. Empty with version 2."""
    cgroup_cpuset: tuple[str, str] = ("", "")
    """CPUs and memory nodes of a new group of cgroup v1, which has none and could hold nobody."""

    @property
    def tier(self) -> Tier:
        """``full``: namespaces, mounts, seccomp. ``landlock``: Landlock and seccomp alone."""
        if all(getattr(self, name).available for name in self.FULL_TIER):
            return "full"
        return "landlock" if self.landlock_tier else "none"

    @property
    def namespaces(self) -> bool:
        """Whether a sandbox can have namespaces at all."""
        return all(getattr(self, name).available for name in self.NAMESPACES)

    @property
    def landlock_tier(self) -> bool:
        """Whether a sandbox without namespaces can be made."""
        return (self.memory_executable.available and self.seccomp.available
                and self.landlock.available and self.landlock_abi > 0)

    def without_namespaces(self, because: str = "") -> HostFacts:
        """The same host as the landlock tier sees it: what needs namespaces is not there.

        ``because`` says why they are not used where there are some.
        """
        names = (*(self.NAMESPACES if self.namespaces else ()), "network_namespace",
                 "ipc_namespace", "uts_namespace", "host_name", "cgroup_namespace",
                 "nested_namespaces_limit", "proc_mount", "proc_subset", "devpts_mount",
                 "id_ranges", "apparmor", "selinux")
        none = Fact(available=False, detail=because or "not in the landlock tier")
        lost: dict[str, Any] = {name: none for name in names if getattr(self, name).available}
        return replace(self, **lost)

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
