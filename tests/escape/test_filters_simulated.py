"""Every shipped filter on every architecture, simulated against tests/escape/refusals.py.

The numbers are all from 0 to 1023, those of x32, and some beyond; arguments have each value that
decides something, and what lies above the bits that the kernel reads. This shows what no one
machine can: calls of ABIs that its kernel was built without, and of processors that it is not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from hardrun.kernel.seccomp import actions, profile, tables
from hardrun.kernel.seccomp.compile import build
from hardrun.kernel.seccomp.simulate import Outcome, decode, run
from hardrun.kernel.seccomp.tables import ABIS
from tests.escape import refusals

SHIPPED = Path(__file__).parents[2] / "profiles" / "seccomp"
NUMBERS = range(1024)
BEYOND = (1024, 5000, 0xF0005, 0x900000, 0x3FFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
X32 = range(0x40000000, 0x40000000 + 1024)
GARBAGE = 0x1234567800000000
VECTORS = (
    (0,) * 6, (1,) * 6, (0xFFFFFFFF,) * 6, (2, 1, 0, 0, 0, 0), (1, 0x5412, 0, 0, 0, 0),
    (0, 0o60644, 0o60644, 0, 0, 0), (0x10000011,) * 6, (40, 8, 9, 8, 8, 8),
    (0x40, 0x100, 0o4755, 0o4755, 0, 0),
)
"""Arguments that rules are about: families, requests, device modes, new namespaces, a listener."""

both = pytest.mark.parametrize("architecture", ABIS)
every = pytest.mark.parametrize("name", refusals.PROFILES)


class Filter:
    """A program of an architecture's."""

    def __init__(self, program: bytes, architecture: str) -> None:
        self.abi = ABIS[architecture]
        self.code = decode(program, big_endian=self.abi.big_endian)

    def outcome(self, number: int, arguments: Sequence[int] = VECTORS[0],
                audit: int | None = None) -> Outcome:
        """What it returns for a call, as the kernel would lay it out."""
        words = [number, self.abi.audit if audit is None else audit, 0, 0]
        for argument in arguments:
            halves = (argument & 0xFFFFFFFF, argument >> 32 if self.abi.bits == 64 else 0)
            words += reversed(halves) if self.abi.big_endian else halves
        return run(self.code, words)

    def answer(self, number: int, arguments: Sequence[int] = VECTORS[0],
               audit: int | None = None) -> int:
        """The action alone."""
        return self.outcome(number, arguments, audit).action

    def calls(self, *names: str) -> Iterator[tuple[str, int]]:
        """The numbers of these calls, as far as the architecture has them."""
        numbers = tables.numbers(self.abi.name)
        return ((name, numbers[name]) for name in names if name in numbers)


@cache
def shipped(name: str, architecture: str) -> Filter:
    program = build([profile.load(SHIPPED / f"{name}.json")], architecture=architecture,
                    capabilities=frozenset(), kernel_release="6.18.0")
    return Filter(program, architecture)


@cache
def outcomes(name: str, architecture: str) -> list[list[Outcome]]:
    """For each number what it comes to with each of the vectors."""
    filtered = shipped(name, architecture)
    return [[filtered.outcome(number, vector) for vector in VECTORS] for number in NUMBERS]


@cache
def permissive(architecture: str) -> Filter:
    """The control: a filter of the same compiler that allows what it knows."""
    loaded = profile.parse('{"defaultAction": "SCMP_ACT_ALLOW"}', file="p.json", name="p")
    return Filter(build([loaded], architecture=architecture, capabilities=frozenset(),
                        kernel_release="6.18.0"), architecture)


# -- through which ABI ----------------------------------------------------------------------------


@both
@pytest.mark.parametrize("name", [*refusals.PROFILES, "docker-default"])
def test_sc_01_a_call_of_another_architecture_kills_the_process(
        name: str, architecture: str) -> None:
    """Not the thread: the others of its process would go on without it."""
    opened = tables.COMPATIBLE.get(architecture, ()) if name == "docker-default" else ()
    foreign = [abi.audit for abi in ABIS.values() if abi.name not in (architecture, *opened)]
    for audit in (*foreign, 0, 0xFFFFFFFF, ABIS[architecture].audit ^ 0x80000000):
        for number in NUMBERS:
            found = shipped(name, architecture).outcome(number, audit=audit)
            assert found.action == actions.KILL_PROCESS, (hex(audit), number)
            assert found.instructions <= 4


@pytest.mark.parametrize("name", [*refusals.PROFILES, "docker-default"])
def test_sc_02_every_x32_call_kills_the_process(name: str) -> None:
    found = {shipped(name, "x86_64").answer(number) for number in X32}
    assert found == {actions.KILL_PROCESS}


# -- which calls ----------------------------------------------------------------------------------


@both
@every
def test_sc_07_every_number_is_allowed_denied_or_unknown(name: str, architecture: str) -> None:
    """EPERM for what is known, ENOSYS for what is not, and no action that only logs or traces."""
    known, absent = tables.names(architecture), refusals.ABSENT | {"openat2", "socketcall"}
    for number in BEYOND:
        if architecture != "x86_64" or not 0x40000000 <= number < 0xFFFFFFFF:  # not x32's
            found = {shipped(name, architecture).answer(number)}
            assert found == {actions.ENOSYS} or number in known, number
    for number, tried in enumerate(outcomes(name, architecture)):
        found = {outcome.action for outcome in tried}
        if number not in known:
            assert found == {actions.ENOSYS}, number
        elif absent.isdisjoint(known[number]):
            assert found <= {actions.ALLOW, actions.EPERM}, known[number]
        else:
            assert found <= {actions.ENOSYS, actions.ALLOW}, known[number]


@both
@every
def test_sc_14_to_18_what_is_never_allowed_is_refused_whatever_its_arguments(
        name: str, architecture: str) -> None:
    filtered = shipped(name, architecture)
    for call, number in filtered.calls(*refusals.refused_by(name)):
        absent = call in refusals.ABSENT or call == "openat2"
        expected = actions.ENOSYS if absent else actions.EPERM
        for vector in VECTORS:
            assert filtered.answer(number, vector) == expected, call


@both
def test_the_landlock_tier_refuses_no_less(architecture: str) -> None:
    """There one program carries a profile and what stands in for namespaces."""
    files = [SHIPPED / "build.json", *(SHIPPED / "landlock-tier").glob("*.json")]
    filtered = Filter(build([profile.load(file) for file in files], architecture=architecture,
                            capabilities=frozenset(), kernel_release="6.18.0"), architecture)
    for call, number in filtered.calls(*refusals.refused_by("build")):
        for vector in VECTORS:
            assert not actions.permits(filtered.answer(number, vector)), call
    ((_, socket),) = filtered.calls("socket")
    assert not any(actions.permits(filtered.answer(socket, (family, 1, 0, 0, 0, 0)))
                   for family in range(64))


@both
def test_the_same_calls_pass_a_filter_that_allows_them(architecture: str) -> None:
    """The negative control of everything that is refused above."""
    filtered = permissive(architecture)
    for call, number in filtered.calls(*refusals.refused_by("judge"), "socket", "ptrace"):
        expected = actions.ALLOW
        assert filtered.answer(number) == expected, call


# -- with which arguments -------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [a.name for a in ABIS.values() if a.bits == 64])
@every
def test_sc_03_what_the_kernel_does_not_read_changes_no_answer(
        name: str, architecture: str) -> None:
    """CVE-2019-10063; of 64 bits is the pointer of prlimit64 alone, which no vector here asks for.
    """
    filtered = shipped(name, architecture)
    for number, tried in enumerate(outcomes(name, architecture)):
        for low, outcome in zip(VECTORS, tried, strict=True):
            high = (GARBAGE,) * 6 if number % 2 else (GARBAGE, 0, GARBAGE << 1, 0, 0, GARBAGE)
            above = tuple(a | b for a, b in zip(low, high, strict=True))
            assert filtered.answer(number, above) == outcome.action, (number, above)


@both
@every
def test_sc_04_clone_makes_no_namespace(name: str, architecture: str) -> None:
    filtered = shipped(name, architecture)
    ((_, number),) = filtered.calls("clone")
    place = 1 if architecture == "s390x" else 0  # CLONE_BACKWARDS2
    for bit in range(32):
        for others in (17, 0x3D0F00, 0x4111):
            arguments = [0xFFFFFFFF ^ refusals.NEW_NAMESPACE] * 6
            arguments[place] = 1 << bit | others
            expected = actions.EPERM if 1 << bit & refusals.NEW_NAMESPACE else actions.ALLOW
            assert filtered.answer(number, arguments) == expected, hex(arguments[place])


@both
@every
def test_sc_09_11_12_only_these_families_types_and_protocols_are_open(
        name: str, architecture: str) -> None:
    filtered = shipped(name, architecture)
    ((_, number), (_, pair)) = filtered.calls("socket", "socketpair")
    opened, raw, netlink = set(), set(), set()
    for family in (*range(64), 0xFFFFFFFF):
        for kind in range(16):
            for protocol in (0, 1, 4, 6, 9, 12, 15, 16, 17, 58, 132, 136, 262):
                flags = 0o2004000 if protocol else 0  # SOCK_CLOEXEC | SOCK_NONBLOCK
                arguments = (family, kind | flags, protocol, 0, 0, 0)
                if filtered.answer(number, arguments) != actions.ALLOW:
                    continue
                opened.add(family)
                if family == 16:
                    netlink.add(protocol)
                elif kind in (3, 10):  # SOCK_RAW, SOCK_PACKET: of AF_UNIX there is neither
                    raw.add(family)
        assert (filtered.answer(pair, (family, 1, 0, 0, 0, 0)) == actions.ALLOW) == (family == 1)
    assert opened == refusals.FAMILIES[name]
    assert netlink == refusals.NETLINK[name]
    assert raw <= {1}


@both
@every
def test_sc_10_no_multiplexer_leads_round_the_families(name: str, architecture: str) -> None:
    filtered = shipped(name, architecture)
    for _, number in filtered.calls("socketcall"):
        for call in range(32):
            assert filtered.answer(number, (call, 0x1000, 0, 0, 0, 0)) == actions.ENOSYS


@both
@every
def test_sc_17_personalities_are_a_list(name: str, architecture: str) -> None:
    filtered = shipped(name, architecture)
    ((_, number),) = filtered.calls("personality")
    tried = {0xFFFFFFFF, 0, 0x20008, *(1 << bit for bit in range(32)),
             *(8 | 1 << bit for bit in range(32))}
    opened = {value for value in tried if filtered.answer(number, (value,) * 6) == actions.ALLOW}
    assert opened == refusals.PERSONALITIES[name]


@both
@every
def test_sc_24_no_listener_decides_for_others(name: str, architecture: str) -> None:
    filtered = shipped(name, architecture)
    ((_, number),) = filtered.calls("seccomp")
    for flags in range(256):
        answer = filtered.answer(number, (1, flags, 0, 0, 0, 0))
        assert answer == (actions.ALLOW if name != "judge" and not flags & 8 else actions.EPERM)


@both
@every
def test_rs_06_the_limit_of_cores_is_asked_for_and_never_set(name: str, architecture: str) -> None:
    """An address whose lower half is 0 is one, too; other limits are the program's own affair."""
    filtered, core, done = shipped(name, architecture), 4, actions.ERRNO
    above = GARBAGE if filtered.abi.bits == 64 else 0
    address = above or 0x7F0000
    for _, number in filtered.calls("setrlimit"):
        assert filtered.answer(number, (core, address, 0, 0, 0, 0)) == done
        assert filtered.answer(number, (above | core, address, 0, 0, 0, 0)) == done
        assert filtered.answer(number, (7, address, 0, 0, 0, 0)) == actions.ALLOW
    ((_, number),) = filtered.calls("prlimit64")
    assert filtered.answer(number, (0, core, address, 0, 0, 0)) == done
    assert filtered.answer(number, (1, above | core, address, address, 0, 0)) == done
    assert filtered.answer(number, (0, core, 0, address, 0, 0)) == actions.ALLOW
    assert filtered.answer(number, (0, 7, address, 0, 0, 0)) == actions.ALLOW


# -- how long it takes ----------------------------------------------------------------------------


@both
@pytest.mark.parametrize("name", [*refusals.PROFILES, "docker-default"])
def test_sc_23_no_way_through_a_filter_is_long(name: str, architecture: str) -> None:
    filtered = shipped(name, architecture)
    longest = max(outcome.instructions for tried in outcomes(name, architecture)
                  for outcome in tried)
    assert len(filtered.code) < 300  # the kernel takes 4096 (BPF_MAXINSNS)
    assert longest <= 40
    plain = {filtered.outcome(n).instructions
             for _, n in filtered.calls("read", "write", "close", "futex", "mmap")}
    assert max(plain) <= 13


# -- the known mistakes, made on purpose ----------------------------------------------------------
# Each program below is what a compiler, or a person, writes who does not know of the pitfall.

LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, FIRST_LOW, FIRST_HIGH, SECOND_LOW, SECOND_HIGH = 0, 16, 20, 24, 28
ALLOW, DENY = actions.ALLOW, actions.EPERM


def written(*instructions: tuple[int, ...]) -> Filter:
    code = [(code, *jumps, k) for code, k, *jumps in
            ((c, k, *(j or (0, 0))) for c, k, *j in instructions)]
    return Filter(b"".join(struct.pack("<HBBI", *i) for i in code), "x86_64")


def number_of(call: str, abi: str = "x86_64") -> int:
    return tables.numbers(abi)[call]


def test_sc_01_a_filter_that_looks_at_numbers_alone_allows_a_mount_through_int_0x80() -> None:
    """Where the architecture is not compared, i386's mount is x86_64's access."""
    naive = written((LOAD, NUMBER), (EQUAL, number_of("access"), 0, 1), (RETURN, ALLOW),
                    (RETURN, DENY))
    mount, i386 = number_of("mount", "i386"), ABIS["i386"].audit
    assert naive.answer(mount, audit=i386) == ALLOW
    assert shipped("contained", "x86_64").answer(mount, audit=i386) == actions.KILL_PROCESS


def test_sc_02_a_list_of_what_is_denied_lets_x32_pass() -> None:
    naive = written((LOAD, NUMBER), (EQUAL, number_of("mount"), 0, 1), (RETURN, DENY),
                    (RETURN, ALLOW))
    assert naive.answer(number_of("mount")) == DENY
    assert naive.answer(0x40000000 | number_of("mount")) == ALLOW


def test_sc_03_an_equality_over_64_bits_lets_an_upper_bit_pass() -> None:
    """What libseccomp makes of SCMP_CMP_EQ."""
    naive = written((LOAD, NUMBER), (EQUAL, number_of("ioctl"), 0, 5), (LOAD, SECOND_HIGH),
                    (EQUAL, 0, 0, 3), (LOAD, SECOND_LOW), (EQUAL, 0x5412, 0, 1), (RETURN, DENY),
                    (RETURN, ALLOW))
    ioctl = number_of("ioctl")
    assert naive.answer(ioctl, (0, 0x5412, 0, 0, 0, 0)) == DENY
    assert naive.answer(ioctl, (0, 0x5412 | 1 << 32, 0, 0, 0, 0)) == ALLOW
    assert shipped("contained", "x86_64").answer(ioctl, (0, 0x5412 | 1 << 32, 0, 0, 0, 0)) == DENY


def test_sc_07_a_list_of_what_is_denied_lets_a_call_pass_that_it_does_not_know() -> None:
    """What libseccomp 2.5.4 makes of a name that is newer: it has no number for it."""
    naive = written((LOAD, NUMBER), (EQUAL, number_of("mount"), 0, 1), (RETURN, DENY),
                    (RETURN, ALLOW))
    for number in (number_of("open_tree_attr"), number_of("statmount"), 5000):
        assert naive.answer(number) == ALLOW
        assert shipped("contained", "x86_64").answer(number) in (actions.EPERM, actions.ENOSYS)


def test_sc_09_two_rules_of_not_this_family_allow_both() -> None:
    """libseccomp: of two rules for one call each is sufficient."""
    naive = written((LOAD, NUMBER), (EQUAL, number_of("socket"), 0, 3), (LOAD, FIRST_LOW),
                    (EQUAL, 38, 0, 1), (EQUAL, 40, 0, 0), (RETURN, ALLOW))
    for family in (38, 40):
        assert naive.answer(number_of("socket"), (family, 1, 0, 0, 0, 0)) == ALLOW
        found = shipped("contained", "x86_64").answer(number_of("socket"), (family, 1, 0, 0, 0, 0))
        assert found == DENY


def test_sc_10_a_rule_for_socket_alone_leaves_socketcall() -> None:
    """What libseccomp adds by itself on architectures that have both."""
    socket, socketcall = number_of("socket", "i386"), number_of("socketcall", "i386")
    naive = written((LOAD, NUMBER), (EQUAL, socketcall, 4, 0), (EQUAL, socket, 0, 2),
                    (LOAD, FIRST_LOW), (EQUAL, 1, 1, 0), (RETURN, DENY), (RETURN, ALLOW))
    assert naive.answer(socket, (40, 1, 0, 0, 0, 0)) == DENY
    assert naive.answer(socketcall, (1, 0x1000, 0, 0, 0, 0)) == ALLOW
