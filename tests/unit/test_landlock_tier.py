"""The landlock tier as values: what each control is worth in it, and what a plan for it holds."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from hardrun.errors import HostUnsupported
from hardrun.kernel import landlock
from hardrun.kernel.landlock import FilesystemAccess, NetworkAccess, Scope
from hardrun.kernel.seccomp import actions, profile, tables
from hardrun.kernel.seccomp.compile import build
from hardrun.kernel.seccomp.prebuilt import shipped_directory
from hardrun.kernel.seccomp.simulate import simulate
from hardrun.plan.landlock_tier import HostView, host_view
from hardrun.plan.root import RootOptions
from hardrun.plan.schema import BY_NAME, Phase, Unsafe
from hardrun.plan.view import Use
from hardrun.policy.engine import decide
from hardrun.posture.landlock_tier import RULES
from hardrun.posture.registry import BY_ID, CONTROLS
from tests import planning
from tests.policies import NO, facts, shipped, workload

NOWHERE = {"user_namespaces": NO}
# Controls that mean the same with and without namespaces.
SAME = {"seccomp", "environment", "session", "keyring", "descriptors", "umask"}


def test_every_control_has_a_rule_or_means_the_same() -> None:
    limits = {c.id for c in CONTROLS if c.id.startswith("limits.")}
    assert set(BY_ID) - set(RULES) - SAME <= limits
    assert set(RULES) <= set(BY_ID)


@pytest.mark.parametrize("control", [c for c in CONTROLS if c.id in RULES], ids=lambda c: c.id)
def test_what_is_not_enforced_by_its_own_layer_says_why(control: Any) -> None:
    for abi in range(1, landlock.HIGHEST_ABI + 1):
        for value in (control.loosest, control.default):
            found = control.enforcement(value, facts(**NOWHERE, landlock_abi=abi))
            assert found.kind == "enforced" or found.because, (control.id, value)
            assert found.kind == "degraded" or found.by


def test_the_facts_of_the_landlock_tier_have_no_namespaces_and_keep_the_reason() -> None:
    host = facts()
    reduced = host.without_namespaces("a reason")
    assert (host.tier, reduced.tier) == ("full", "landlock")
    assert not reduced.namespaces
    assert reduced.user_namespaces.detail == "a reason"
    assert facts(**NOWHERE).without_namespaces("a reason").user_namespaces == NO
    assert reduced.without_namespaces() == reduced


def test_the_best_tier_of_the_host_is_granted_and_told() -> None:
    policies = shipped("agent").policies
    assert decide(workload(), policies, facts()).tier == "full"
    for missing in ("user_namespaces", "pid_namespace", "mount_namespace"):
        decision = decide(workload(), policies, facts(**{missing: NO}))
        assert decision.tier == "landlock"
        told = decision.control("min_tier").enforcement
        assert told.kind == "degraded"
        assert missing.replace("_", " ").removesuffix("s") in told.because
        assert told.fix == NO.fix


def test_what_the_full_tier_can_not_enforce_may_hold_in_the_landlock_tier() -> None:
    decision = decide(workload(), shipped("agent").policies, facts(network_namespace=NO))
    assert decision.tier == "landlock"
    assert "network" in decision.control("min_tier").enforcement.because
    assert decision.control("network").enforcement.by == ("seccomp", "Landlock TCP rules")


@pytest.mark.parametrize("name", ["untrusted", "judge", "contained", "docker-default"])
def test_the_full_tier_is_the_least_of_most_policies(name: str) -> None:
    with pytest.raises(HostUnsupported, match="min_tier: full is the least"):
        decide(workload(), shipped(name).policies, facts(**NOWHERE))


def options(**changes: Any) -> RootOptions:
    values: dict[str, Any] = {
        "visible": frozenset({"/usr"}), "devices": frozenset({"null"}), "proc": "pid",
        "private_terminals": False, "network": False, "read_only": True, "layered": False,
        "hostname": "box"}
    return RootOptions(**{**values, **changes})


def test_nothing_but_what_was_granted_has_a_rule(tmp_path: Path) -> None:
    readable, writable = tmp_path / "r", tmp_path / "w"
    readable.mkdir()
    writable.mkdir()
    asked = planning.workload("true", ro=[str(readable)], rw=[str(writable)])
    view = host_view(asked, options())
    merged = {p: Use.RUN for p in view.uses() if p.startswith("/usr/") or "/lib" in p}
    assert view.uses() == {"/usr": Use.RUN, **merged, "/dev/null": Use.DEVICES,
                           str(readable): Use.RUN, str(writable): Use.BUILD}
    assert view.find(str(tmp_path)).missing == ""  # passed through
    assert view.find("/etc/passwd").missing == "/etc/passwd"
    assert view.openable(f"/usr/bin:{tmp_path}/bin:relative::/opt/nothing") == "/usr/bin"


def test_neither_the_root_nor_proc_sys_and_dev_are_ever_opened() -> None:
    view = HostView()
    for path in ("/", "/proc", "/proc/self", "/sys/kernel", "/dev", "/dev/shm", "/absent"):
        view.allow(path, Use.RUN, "filesystem.visible")
    assert view.uses() == {}


@pytest.mark.parametrize("abi", range(1, landlock.HIGHEST_ABI + 1))
def test_a_plan_handles_all_that_the_abi_knows(abi: int) -> None:
    plan = planning.plan("true", host=planning.facts(**NOWHERE, landlock_abi=abi),
                         values={"min_tier": "landlock", "seccomp": frozenset({"build"})})
    [ruleset] = planning.named(plan, "landlock_ruleset")
    files, network, scoped = ruleset.values
    assert files == landlock.filesystem_access(abi)
    assert bool(files & FilesystemAccess.REFER) == (abi >= 2)
    assert bool(files & FilesystemAccess.TRUNCATE) == (abi >= 3)
    assert network == (NetworkAccess.BIND_TCP | NetworkAccess.CONNECT_TCP if abi >= 4 else 0)
    assert bool(files & FilesystemAccess.IOCTL_DEV) == (abi >= 5)
    assert scoped == (Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL if abi >= 6 else 0)
    assert bool(files & FilesystemAccess.RESOLVE_UNIX) == (abi >= 9)
    for rule in planning.named(plan, "landlock_path"):
        assert rule.values[1] & ~files == 0


def test_a_plan_changes_nothing_of_the_host() -> None:
    plan = planning.plan("true", host=planning.facts(**NOWHERE, landlock_abi=6),
                         values={"min_tier": "landlock", "seccomp": frozenset({"build"})})
    assert plan.unsafe == (Unsafe.NO_NAMESPACES | Unsafe.NO_PIVOT_ROOT | Unsafe.NO_BOUNDING_DROP
                           | Unsafe.SHARED_NETWORK)
    assert planning.named(plan, "clone")[0].values == (0,)
    steps = [o.name for o in plan.operations if BY_NAME[o.name].phase is Phase.INIT]
    assert set(steps) == {"set_capabilities", "no_new_privs", "not_dumpable", "landlock_ruleset",
                          "landlock_path", "landlock_restrict"}


@pytest.mark.parametrize("more", [
    {"rootfs": "/"}, {"hostname": "box"}, {"terminal": True}, {"tmpfs": ["/x"]},
    {"ro": ["/usr/share:/data"]}])
def test_what_has_to_be_mounted_is_refused_by_name(more: dict[str, Any]) -> None:
    with pytest.raises(HostUnsupported, match="needs the full tier"):
        host_view(planning.workload("true", **more), options())


# Call and arguments; what Landlock would let pass, whatever its ABI.
REFUSED: list[tuple[str, tuple[int, ...], int]] = [
    *((name, (*before, mode), errno.EACCES) for name, before in (("open", (0,)), ("openat", (0, 0)))
      for mode in (3, 3 | os.O_TRUNC, 3 | os.O_CREAT, 3 | os.O_TMPFILE, 3 | 1 << 32)),
    ("openat2", (), errno.ENOSYS), ("io_uring_setup", (), errno.ENOSYS), ("bpf", (7,), errno.EPERM),
    ("file_setattr", (), errno.ENOSYS), ("keyctl", (), errno.ENOSYS),
    *((name, (), errno.EPERM) for name in ("chown", "lchown", "fchown", "fchownat", "mq_open",
                                           "shmget", "unshare")),
    *((name, (), errno.EOPNOTSUPP) for name in ("setxattr", "fsetxattr", "setxattrat",
                                                "fremovexattr")),
    # FS_IOC_SETFLAGS as most encode it, for 32 bits, as ppc64le does; with a high half
    *(("ioctl", (0, request), errno.ENOTTY) for request in (
        0x40086602, 0x40046602, 0x80086602, 1 << 32 | 0x40086602,
        0x401C5820,  # FS_IOC_FSSETXATTR
        0x40806685,  # FS_IOC_ENABLE_VERITY
        0xC0406618,  # FS_IOC_REMOVE_ENCRYPTION_KEY
        0x5000940E, 0x50009401, 0x5000943F)),  # btrfs: SUBVOL_CREATE, SNAP_CREATE, SNAP_DESTROY_V2
    *((name, (*before, mode), errno.EPERM) for name, before in (
        ("chmod", (0,)), ("fchmod", (0,)), ("fchmodat", (0, 0)), ("fchmodat2", (0, 0)))
      for mode in (0o4755, 0o2755, 0o666)),
    *((name, (12,), errno.EPERM) for name in ("prlimit64", "sched_setscheduler", "sched_setparam",
                                              "sched_setattr", "sched_setaffinity")),
    *((name, arguments, errno.EPERM) for name, user in (("setpriority", 2), ("ioprio_set", 3))
      for arguments in ((0, 12), (1, 12), (user, 0))),
    ("open", (0, os.O_CREAT, 0o4755), errno.EPERM), ("creat", (0, 0o2755), errno.EPERM),
    ("openat", (0, 0, os.O_TMPFILE | os.O_RDWR, 0o4600), errno.EPERM),
    ("mknodat", (0, 0, 0o104755), errno.EPERM),
]
ALLOWED: list[tuple[str, tuple[int, ...]]] = [
    *(("openat", (0, 0, mode | more, 0o644)) for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
      for more in (0, os.O_CREAT, os.O_TRUNC, os.O_PATH)),
    ("openat", (0, 0, os.O_RDONLY, 0o4755)),  # a third argument that the kernel does not read
    ("fchmod", (0, 0o755)), ("fgetxattr", ()), ("sched_setaffinity", (0,)), ("setpriority", (0, 0)),
    ("ioprio_set", (1, 0)),
    # FS_IOC_GETFLAGS, FS_IOC_FIEMAP, FICLONE, FICLONERANGE, TCGETS, FIONREAD
    *(("ioctl", (0, request)) for request in (0x80086601, 0xC020660B, 0x40049409, 0x4020940D,
                                              0x5401, 0x541B)),
]


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64", "riscv64", "s390x", "ppc64le"])
def test_what_landlock_has_no_right_for_is_refused(architecture: str) -> None:
    always = profile.load(shipped_directory() / "landlock-tier" / "always.json")
    program = build([always], architecture=architecture, capabilities=frozenset(),
                    kernel_release="6.18")
    numbers = tables.numbers(architecture)

    def answer(name: str, arguments: tuple[int, ...]) -> int:
        return simulate(program, architecture, numbers[name], arguments).action

    answers = [(name, arguments, answer(name, arguments))
               for name, arguments, _ in REFUSED if name in numbers]
    assert answers == [(name, arguments, actions.fails_with(number))
                       for name, arguments, number in REFUSED if name in numbers]
    assert {answer(*call) for call in ALLOWED if call[0] in numbers} == {actions.ALLOW}
