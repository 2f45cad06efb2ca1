"""The known ways round a filter, simulated on each architecture it concerns (SC-01 … SC-24)."""

from __future__ import annotations

import errno
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hardrun.errors import BadInput
from hardrun.kernel.seccomp import actions, profile, tables
from hardrun.kernel.seccomp.compile import build
from hardrun.kernel.seccomp.simulate import simulate

SHIPPED = Path(__file__).parents[2] / "profiles" / "seccomp"
NEEDED = {
    "names": ["execve", "exit", "exit_group", "rt_sigreturn"],
    "action": "SCMP_ACT_ALLOW",
}
GARBAGE = 0x123 << 32
EPERM, ENOSYS, ALLOW = actions.EPERM, actions.ENOSYS, actions.ALLOW
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_ALG, AF_VSOCK, AF_XDP = (
    1, 2, 10, 16, 17, 38, 40, 44,
)  # fmt: skip


@cache
def shipped(name: str, architecture: str = "x86_64", *capabilities: str) -> bytes:
    return build(
        [profile.load(SHIPPED / f"{name}.json")],
        architecture=architecture,
        capabilities=frozenset(capabilities),
        kernel_release="6.18.0",
    )


def compiled(
    *rules: dict[str, Any], architecture: str = "x86_64", kernel: str = "6.18", **fields: Any
) -> bytes:
    document = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [NEEDED, *rules], **fields}
    loaded = profile.parse(json.dumps(document), file="p.json", name="p")
    return build(
        [loaded], architecture=architecture, capabilities=frozenset(), kernel_release=kernel
    )


def answer(program: bytes, name: str, *arguments: int, abi: str = "x86_64") -> int:
    return simulate(program, abi, tables.numbers(abi)[name], arguments).action


def allow(*names: str, **fields: Any) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **fields}


def compare(index: int, operator: str, value: int, second: int = 0) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": second, "op": f"SCMP_CMP_{operator}"}


PROFILES = ("judge", "untrusted", "build", "contained")


@pytest.mark.parametrize("name", [*PROFILES, "docker-default"])
def test_sc_01_a_call_through_an_unknown_abi_kills_the_process(name: str) -> None:
    for audit in (0, 0x40000008, 0xC00000B7, 0xFFFFFFFF):
        outcome = simulate(shipped(name), "x86_64", 39, audit=audit)
        assert outcome.action == actions.KILL_PROCESS


@pytest.mark.parametrize("name", PROFILES)
def test_sc_01_int_0x80_is_closed_unless_the_profile_declares_i386(name: str) -> None:
    assert answer(shipped(name), "getpid", abi="i386") == actions.KILL_PROCESS
    assert answer(shipped("docker-default"), "getpid", abi="i386") == ALLOW


@pytest.mark.parametrize("name", [*PROFILES, "docker-default"])
def test_sc_02_x32_is_closed_even_where_a_profile_declares_it(name: str) -> None:
    for number in (0, 39, 59, 512, 520):
        outcome = simulate(shipped(name), "x86_64", 0x40000000 | number)
        assert outcome.action == actions.KILL_PROCESS


def test_a_call_that_a_tracer_skips_is_not_taken_for_a_foreign_one() -> None:
    assert simulate(shipped("untrusted"), "x86_64", 0xFFFFFFFF).action == ENOSYS


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("request_number", [0x5412, 0x541C], ids=["TIOCSTI", "TIOCLINUX"])
def test_cve_2019_10063_typing_into_the_terminal_is_denied_with_high_bits_set(
    name: str, request_number: int
) -> None:
    for high in (0, GARBAGE, 0xFFFFFFFF << 32):
        assert answer(shipped(name), "ioctl", 0, request_number | high) == EPERM
    assert answer(shipped(name), "ioctl", 0, 0x5401) == ALLOW
    assert answer(shipped(name), "ioctl", 0, 0x5401 | GARBAGE) == ALLOW


def test_sc_03_an_equality_in_a_users_profile_is_as_wide_as_the_kernel_reads() -> None:
    deny = {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": [compare(1, "EQ", 0x5412)]}
    program = compiled(allow("ioctl"), deny)
    assert answer(program, "ioctl", 0, 0x5412 | GARBAGE) == EPERM


def test_a_comparison_of_a_64_bit_argument_uses_all_of_it() -> None:
    program = compiled(allow("mmap", args=[compare(1, "LE", 0x1_0000_0000)]))
    assert answer(program, "mmap", 0, 0x1_0000_0000) == ALLOW
    assert answer(program, "mmap", 0, 0x1_0000_0001) == EPERM
    assert answer(program, "mmap", 0, 0xFFFF) == ALLOW
    assert answer(program, "mmap", 0, 0xFFFF_0000_0000) == EPERM


@pytest.mark.parametrize("bit", [7, 17, 25, 26, 27, 28, 29, 30])
@pytest.mark.parametrize("name", PROFILES)
def test_sc_04_clone_with_any_namespace_flag_is_denied(name: str, bit: int) -> None:
    assert answer(shipped(name), "clone", 1 << bit | 17) == EPERM
    assert answer(shipped(name), "clone", 1 << bit | 17 | GARBAGE) == EPERM


@pytest.mark.parametrize("name", PROFILES)
def test_clone_for_threads_and_children_is_allowed(name: str) -> None:
    assert answer(shipped(name), "clone", 17) == ALLOW
    assert answer(shipped(name), "clone", 0x3D0F00) == ALLOW
    assert answer(shipped(name, "s390x"), "clone", 0x7000, 0x3D0F00, abi="s390x") == ALLOW
    assert answer(shipped(name, "s390x"), "clone", 0, 0x10000011, abi="s390x") == EPERM


@pytest.mark.parametrize("name", [*PROFILES, "docker-default"])
@pytest.mark.parametrize("architecture", ["x86_64", "aarch64", "riscv64", "s390x"])
def test_sc_05_clone3_does_not_exist(name: str, architecture: str) -> None:
    """CVE-2021-41133, moby #42680: any other errno breaks glibc's threads."""
    assert answer(shipped(name, architecture), "clone3", abi=architecture) == ENOSYS


def test_sc_05_clone3_does_not_exist_for_a_profile_older_than_it() -> None:
    assert answer(compiled(), "clone3") == ENOSYS


@pytest.mark.parametrize("name", PROFILES)
def test_sc_06_unshare_and_setns_are_denied(name: str) -> None:
    assert answer(shipped(name), "unshare", 0x10000000) == EPERM
    assert answer(shipped(name), "setns", 3, 0) == EPERM


@pytest.mark.parametrize("name", [*PROFILES, "docker-default"])
@pytest.mark.parametrize("number", [471, 600, 1023, 5000, 0x3FFFFFFF])
def test_sc_07_numbers_that_no_table_knows_do_not_exist(name: str, number: int) -> None:
    assert simulate(shipped(name), "x86_64", number).action == ENOSYS


def test_sc_07_an_unknown_number_does_not_exist_even_if_the_default_allows() -> None:
    program = compiled(defaultAction="SCMP_ACT_ALLOW")
    assert simulate(program, "x86_64", 5000).action == ENOSYS
    assert answer(program, "getpid") == ALLOW


def test_an_unknown_number_never_gets_a_weaker_answer_than_the_default() -> None:
    program = compiled(defaultAction="SCMP_ACT_KILL_PROCESS")
    assert simulate(program, "x86_64", 5000).action == actions.KILL_PROCESS


def test_a_known_call_that_is_not_listed_fails_with_the_default_errno() -> None:
    assert answer(compiled(), "mseal") == EPERM
    assert answer(compiled(defaultErrnoRet=38), "mseal") == ENOSYS


@pytest.mark.parametrize("name", ["statmount", "mseal", "setxattrat", "open_tree_attr", "listns"])
def test_sc_07_names_that_libseccomp_does_not_know_are_in_the_filter(name: str) -> None:
    assert answer(compiled(allow(name)), name) == ALLOW


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("architecture", ["x86_64", "aarch64", "s390x"])
def test_sc_09_socket_families_are_an_allow_list(name: str, architecture: str) -> None:
    wanted = {"judge": {AF_UNIX}}.get(name, {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK})
    for high in (0, GARBAGE):
        opened = {
            family
            for family in range(64)
            if answer(shipped(name, architecture), "socket", family | high, 1, 0, abi=architecture)
            == ALLOW
        }
        assert opened == wanted


def test_sc_09_two_inequalities_in_one_rule_must_both_hold() -> None:
    program = compiled(allow("socket", args=[compare(0, "NE", AF_ALG), compare(0, "NE", AF_VSOCK)]))
    assert answer(program, "socket", AF_ALG) == EPERM
    assert answer(program, "socket", AF_VSOCK) == EPERM
    assert answer(program, "socket", AF_INET) == ALLOW


def test_equalities_on_one_argument_in_one_rule_are_alternatives_as_in_runc() -> None:
    program = compiled(allow("personality", args=[compare(0, "EQ", 0), compare(0, "EQ", 8)]))
    assert answer(program, "personality", 0) == ALLOW
    assert answer(program, "personality", 8) == ALLOW
    assert answer(program, "personality", 9) == EPERM


@pytest.mark.parametrize("abi", ["i386", "s390x"])
def test_sc_10_socketcall_is_no_way_round_the_families(abi: str) -> None:
    families = allow("socket", args=[compare(0, "EQ", AF_UNIX)])
    program = compiled(families, allow("socketcall"), architecture=abi)
    assert answer(program, "socketcall", 1, 0x1000, abi=abi) == ENOSYS
    docker = shipped("docker-default", "x86_64" if abi == "i386" else abi)
    number = tables.numbers(abi)["socketcall"]
    audit = tables.ABIS[abi].audit
    native = "x86_64" if abi == "i386" else abi
    assert simulate(docker, native, number, (1,), audit=audit).action == ENOSYS


def test_sc_10_socketcall_is_allowed_where_nothing_about_sockets_is_restricted() -> None:
    everything = compiled(architecture="i386", defaultAction="SCMP_ACT_ALLOW")
    assert answer(everything, "socketcall", abi="i386") == ALLOW


@pytest.mark.parametrize("name", PROFILES)
def test_sc_11_and_12_vsock_packet_raw_and_xdp_sockets_are_denied(name: str) -> None:
    program = shipped(name)
    for family in (AF_VSOCK, AF_PACKET, AF_XDP, AF_ALG):
        assert answer(program, "socket", family, 1, 0) == EPERM
    for kind in (3, 3 | 0o2000000, 10):  # SOCK_RAW, with SOCK_CLOEXEC, SOCK_PACKET
        assert answer(program, "socket", AF_INET, kind, 1) == EPERM
        assert answer(program, "socket", AF_INET6, kind, 58) == EPERM


def test_sockets_of_untrusted_speak_only_the_protocols_that_programs_need() -> None:
    program = shipped("untrusted")
    assert answer(program, "socket", AF_INET, 1 | 0o2000000 | 0o4000, 6) == ALLOW
    assert answer(program, "socket", AF_INET, 2, 17) == ALLOW
    assert answer(program, "socket", AF_NETLINK, 3, 0) == ALLOW
    for kind, protocol in ((1, 132), (5, 132), (6, 33), (2, 136), (2, 115)):  # SCTP, DCCP …
        assert answer(program, "socket", AF_INET, kind, protocol) == EPERM
    assert answer(program, "socket", AF_NETLINK, 3, 9) == EPERM  # NETLINK_AUDIT


@pytest.mark.parametrize("name", PROFILES)
def test_sc_13_io_uring_does_not_exist(name: str) -> None:
    for call in ("io_uring_setup", "io_uring_enter", "io_uring_register"):
        assert answer(shipped(name), call) == ENOSYS


DANGEROUS = (
    "bpf", "perf_event_open", "userfaultfd", "kexec_load", "kexec_file_load", "init_module",
    "finit_module", "delete_module", "open_by_handle_at", "name_to_handle_at", "fanotify_init",
    "lookup_dcookie", "quotactl", "quotactl_fd", "acct", "swapon", "swapoff", "reboot",
    "settimeofday", "clock_settime", "nfsservctl", "uselib", "iopl", "ioperm", "add_key",
    "request_key", "keyctl", "syslog", "move_pages", "mbind", "set_mempolicy", "migrate_pages",
    "mount", "umount2", "pivot_root", "chroot", "open_tree", "open_tree_attr", "move_mount",
    "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "unshare", "setns", "kcmp",
    "pidfd_getfd", "process_madvise", "sethostname", "vhangup", "modify_ldt",
)  # fmt: skip


@pytest.mark.parametrize("name", PROFILES)
def test_sc_14_to_18_what_no_sandbox_needs_is_denied(name: str) -> None:
    denied = {call: answer(shipped(name), call) for call in DANGEROUS}
    assert set(denied.values()) == {EPERM}


@pytest.mark.parametrize("name", ["judge", "untrusted"])
def test_sc_15_debugging_others_is_denied_to_untrusted_programs(name: str) -> None:
    for call in ("ptrace", "process_vm_readv", "process_vm_writev"):
        assert answer(shipped(name), call) == EPERM


@pytest.mark.parametrize("name", ["judge", "untrusted"])
def test_sc_17_only_the_ordinary_personality_and_the_query_are_allowed(name: str) -> None:
    program = shipped(name)
    assert answer(program, "personality", 0) == ALLOW
    assert answer(program, "personality", 0xFFFFFFFF) == ALLOW
    assert answer(program, "personality", 0xFFFFFFFFFFFFFFFF) == ALLOW
    for value in (0x0040000, 0x0400000, 8):  # ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, PER_LINUX32
        assert answer(program, "personality", value) == EPERM


def test_sc_24_a_filter_of_its_own_is_allowed_but_no_listener() -> None:
    assert answer(shipped("untrusted"), "seccomp", 1, 0) == ALLOW
    assert answer(shipped("untrusted"), "seccomp", 1, 8) == EPERM
    assert answer(shipped("untrusted"), "seccomp", 1, 8 | GARBAGE) == EPERM


@pytest.mark.parametrize("name", PROFILES)
def test_devices_cannot_be_made(name: str) -> None:
    for kind, expected in ((0o10644, ALLOW), (0o100644, ALLOW), (0o20666, EPERM), (0o60666, EPERM)):
        assert answer(shipped(name), "mknodat", 0, 0, kind) == expected
        assert answer(shipped(name), "mknod", 0, kind | 0xABC0000) == expected  # umode_t: 16 bits


@pytest.mark.parametrize("name", ["judge", "untrusted"])
def test_set_id_files_cannot_be_made(name: str) -> None:
    program = shipped(name)
    for bits in (0o4000, 0o2000, 0o6000):
        assert answer(program, "chmod", 0, 0o755 | bits) == EPERM
        assert answer(program, "fchmodat", 0, 0, 0o755 | bits | 1 << 16) == EPERM
        assert answer(program, "openat", 0, 0, 0o101, 0o755 | bits) == EPERM
        assert answer(program, "openat", 0, 0, 0o20200001, 0o755 | bits) == EPERM  # O_TMPFILE
        assert answer(program, "openat", 0, 0, 0, 0o755 | bits) == ALLOW  # the mode is not read
    assert answer(program, "chmod", 0, 0o1777) == ALLOW
    assert answer(program, "openat2") == ENOSYS


def test_of_a_rule_with_arguments_and_one_without_the_stricter_counts() -> None:
    """libseccomp silently ignores the first, in whichever order they stand."""
    deny = {"names": ["prctl"], "action": "SCMP_ACT_ERRNO", "args": [compare(0, "EQ", 35)]}
    for rules in ((allow("prctl"), deny), (deny, allow("prctl"))):
        assert answer(compiled(*rules), "prctl", 35) == EPERM
        assert answer(compiled(*rules), "prctl", 15) == ALLOW


def test_a_rule_that_denies_with_the_default_action_is_no_error() -> None:
    """libseccomp refuses such a rule with -EACCES (containers/common #1103)."""
    deny = {"names": ["bdflush", "read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
    assert answer(compiled(deny), "read") == EPERM


def test_conditions_on_capabilities_kernel_and_architecture_are_kept() -> None:
    docker = shipped("docker-default")
    assert answer(docker, "chroot") == EPERM
    assert answer(shipped("docker-default", "x86_64", "CAP_SYS_CHROOT"), "chroot") == ALLOW
    assert answer(shipped("docker-default", "x86_64", "CAP_SYS_ADMIN"), "clone3") == ALLOW
    new = compiled(allow("ptrace", includes={"minKernel": "4.8"}))
    old = compiled(allow("ptrace", includes={"minKernel": "4.8"}), kernel="4.4.0")
    assert (answer(new, "ptrace"), answer(old, "ptrace")) == (ALLOW, EPERM)
    arm = compiled(allow("acct", includes={"arches": ["arm64"]}))
    assert answer(arm, "acct") == EPERM


@pytest.mark.parametrize("missing", ["execve", "exit", "exit_group", "rt_sigreturn"])
def test_a_profile_without_what_every_program_needs_is_an_error(missing: str) -> None:
    """kubernetes #85191: without exit_group, libc ends in an endless loop."""
    names = [name for name in NEEDED["names"] if name != missing]
    document = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allow(*names)]}
    loaded = profile.parse(json.dumps(document), file="p.json", name="p")
    with pytest.raises(BadInput, match=rf"p.json: denies {missing}, which every program needs"):
        build([loaded], architecture="x86_64", capabilities=frozenset(), kernel_release="6.18")


def test_a_profile_whose_rules_deny_everything_is_an_error_whatever_their_number() -> None:
    """kguardian #1497: counting rules, a validator took such a profile for a working one."""
    deny = {"names": sorted(tables.known_names()), "action": "SCMP_ACT_ERRNO"}
    with pytest.raises(BadInput, match="denies execve"):
        compiled(deny, defaultAction="SCMP_ACT_ALLOW")


def test_of_two_errno_values_the_order_of_profiles_does_not_show() -> None:
    def with_errno(number: int) -> profile.Profile:
        rule = {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": number}
        document = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
        return profile.parse(json.dumps(document), file="p.json", name=str(number))

    several = [with_errno(n) for n in (errno.EACCES, errno.EPERM, errno.EINVAL)]
    programs = {
        build(order, architecture="x86_64", capabilities=frozenset(), kernel_release="6.18")
        for order in (several, several[::-1])
    }
    (program,) = programs
    assert answer(program, "mount") == EPERM
