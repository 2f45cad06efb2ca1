"""Whether a process may have its filter and its limits before its command comes."""

from __future__ import annotations

import os

import pytest

from hardrun.kernel.seccomp.simulate import always_allowed, decode
from hardrun.kernel.seccomp.tables import ABIS, architecture_of, numbers
from hardrun.plan.ahead import LEFT, is_possible
from hardrun.plan.schema import Operation
from hardrun.plan.uapi import Resource

ABI = ABIS[architecture_of(os.uname().machine)]
KNOWN = [name for name in LEFT if name in numbers(ABI.name)]


def instruction(code: int, yes: int, no: int, k: int) -> bytes:
    return code.to_bytes(2, "little") + bytes((yes, no)) + k.to_bytes(4, "little")


def refusing(name: str, action: int = 0x50001) -> bytes:
    """A filter that allows all but one call."""
    return b"".join((
        instruction(0x20, 0, 0, 0), instruction(0x15, 0, 1, numbers(ABI.name)[name]),
        instruction(0x06, 0, 0, action), instruction(0x06, 0, 0, 0x7FFF0000)))


def looking(name: str) -> bytes:
    """A filter that decides one call by its first argument, and allows it for 0."""
    return b"".join((
        instruction(0x20, 0, 0, 0), instruction(0x15, 0, 3, numbers(ABI.name)[name]),
        instruction(0x20, 0, 0, 16), instruction(0x15, 1, 0, 0),
        instruction(0x06, 0, 0, 0x50001), instruction(0x06, 0, 0, 0x7FFF0000)))


def load(program: bytes) -> Operation:
    return Operation("load_seccomp", (program, 0))


def limit(resource: Resource, value: int) -> Operation:
    return Operation("set_limit", (int(resource), value, value))


def test_a_filter_that_refuses_nothing_that_is_left_comes_ahead() -> None:
    assert is_possible([])
    assert is_possible([load(refusing("getpid")), limit(Resource.RLIMIT_NOFILE, 16)])


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("program", [
    refusing, looking, lambda name: refusing(name, 0x7FFC0000), lambda name: refusing(name, 0)],
    ids=["fails", "by argument", "logged", "killed"])
def test_one_that_does_comes_last(name: str, program: object) -> None:
    assert not is_possible([load(refusing("getpid")), load(program(name))])  # type: ignore[operator]


def test_few_descriptors_come_last() -> None:
    assert not is_possible([limit(Resource.RLIMIT_NOFILE, 15)])
    assert is_possible([limit(Resource.RLIMIT_CORE, 1)])


def test_a_call_is_followed_as_the_kernel_does() -> None:
    code, known = decode(refusing("getpid")), numbers(ABI.name)
    assert not always_allowed(code, ABI.audit, known["getpid"])
    assert always_allowed(code, ABI.audit, known["read"])
