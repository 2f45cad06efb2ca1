"""Labels of security modules."""

from __future__ import annotations

import pytest

from hardrun.kernel import lsm


@pytest.mark.parametrize("label,profile,mode", [
    ("docker-default (enforce)", "docker-default", "enforce"),
    ("unconfined", "unconfined", ""),
    ("unconfined_foo (complain)", "unconfined_foo", "complain"),
    ("a b (enforce)", "a b", "enforce"),
    ("odd (name", "odd (name", ""),
])
def test_a_label_is_a_profile_and_a_mode(label: str, profile: str, mode: str) -> None:
    assert lsm.profile_of(label) == (profile, mode)


def test_a_file_that_is_not_there_reads_as_nothing() -> None:
    assert lsm.read_line("/proc/self/no-such-file") is None


def test_a_line_comes_without_its_end() -> None:
    assert lsm.read_line("/proc/self/comm") not in (None, "")
    assert "\n" not in (lsm.read_line("/proc/self/comm") or "")
