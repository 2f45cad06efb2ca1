"""The caller's places: a home on a network file system, a cache that can't be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardrun.host import places
from hardrun.kernel.mounts import parse

TABLE = """\
20 1 8:1 / / rw - ext4 /dev/sda1 rw
21 20 0:50 / /home rw,nosuid - {kind} server:/home rw,vers=4.2
22 20 8:2 / /home/anna/local rw - xfs /dev/sdb1 rw
"""


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "fuse.sshfs", "cifs"])
def test_a_home_on_a_network_file_system_is_told(kind: str) -> None:
    found = places.home("/home/anna", parse(TABLE.format(kind=kind)))
    assert (found.available, found.cause) == (False, "home-in-network")
    assert kind in found.detail


def test_a_local_directory_below_one_is_local() -> None:
    found = places.home("/home/anna/local", parse(TABLE.format(kind="nfs4")))
    assert found.cause == "no-home"  # not here, but not for its file system


def test_this_home_is_told_with_its_file_system(tmp_path: Path) -> None:
    assert " on " in places.home(str(tmp_path)).detail


def test_plans_are_stored_on_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert places.stored_plans().available
    assert list((tmp_path / "hardrun/plans").iterdir()) == []
    (tmp_path / "hardrun/plans").chmod(0o777)
    assert places.stored_plans().cause == "no-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert "/proc/nowhere" in places.stored_plans().detail
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "")
    assert places.stored_plans().cause == "no-cache"
