"""Landlock: which version of the interface has which right (landlock(7))."""

from __future__ import annotations

import pytest

from hardrun.kernel import landlock
from hardrun.kernel.landlock import FilesystemAccess as A
from hardrun.kernel.landlock import NetworkAccess, Scope


@pytest.mark.parametrize("abi,number", [
    (0, 0), (1, 0x1FFF), (2, 0x3FFF), (3, 0x7FFF), (4, 0x7FFF), (5, 0xFFFF), (6, 0xFFFF),
    (7, 0xFFFF), (8, 0xFFFF), (9, 0x1FFFF), (10, 0x1FFFF)])
def test_an_abi_knows_these_rights_over_files(abi: int, number: int) -> None:
    assert landlock.filesystem_access(abi) == number


@pytest.mark.parametrize("abi", range(11))
def test_network_and_scopes_come_with_their_abi(abi: int) -> None:
    assert bool(landlock.network_access(abi)) == (abi >= 4)
    assert bool(landlock.scopes(abi)) == (abi >= 6)


@pytest.mark.parametrize("abi", range(11))
def test_no_rule_asks_for_a_right_that_the_abi_lacks(abi: int) -> None:
    known = landlock.filesystem_access(abi)
    rules = (landlock.read_only(abi), landlock.read_write(abi), landlock.execute(abi),
             landlock.device(abi, ioctl=True))
    assert all(rule & ~known == 0 for rule in rules)


def test_reading_changes_nothing() -> None:
    assert landlock.read_only(9) == A.READ_FILE | A.READ_DIR


def test_writing_neither_executes_nor_makes_devices() -> None:
    assert not landlock.read_write(9) & (A.EXECUTE | A.MAKE_CHAR | A.MAKE_BLOCK | A.IOCTL_DEV)
    assert landlock.read_write(9) & A.TRUNCATE


def test_a_device_takes_ioctl_only_where_asked() -> None:
    assert not landlock.device(9) & A.IOCTL_DEV
    assert landlock.device(9, ioctl=True) & A.IOCTL_DEV


def test_numbers_are_those_of_the_kernels_header() -> None:
    assert A.REFER == 1 << 13
    assert A.IOCTL_DEV == 1 << 15
    assert NetworkAccess.CONNECT_TCP == 2
    assert Scope.SIGNAL == 2


def test_the_version_is_asked_of_the_kernel() -> None:
    assert landlock.abi_version() >= 0
