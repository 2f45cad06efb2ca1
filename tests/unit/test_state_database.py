"""The state database on any file system: how its journal is kept, and that a change is whole."""

from __future__ import annotations

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hardrun.errors import HostUnsupported
from hardrun.host.places import NETWORK
from hardrun.state import database

INSERT = "INSERT INTO id_ranges (pid, first_uid, first_gid, size) VALUES (1, ?, 2, 3)"
LOCAL = ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs")


def _take(path: Path, first: int, file_system: str) -> tuple[str, set[str]]:
    """Add a row; the journal's mode and the files that there are while it is written."""
    with database.transaction(str(path), file_system) as connection:
        connection.execute(INSERT, (first,))
        [(mode,)] = connection.execute("PRAGMA journal_mode").fetchall()
        return mode, set(os.listdir(path))


def _rows(path: Path) -> list[int]:
    connection = sqlite3.connect(path / database.NAME)
    try:
        return [row[0] for row in connection.execute("SELECT first_uid FROM id_ranges")]
    finally:
        connection.close()


@pytest.mark.parametrize("file_system", [*sorted(NETWORK), "fuse", "ramfs", ""])
def test_nothing_on_a_servers_file_system_needs_shared_memory(tmp_path: Path, file_system: str
                                                              ) -> None:
    mode, files = _take(tmp_path, 7, file_system)
    assert (mode, files) == ("delete", {database.NAME, f"{database.NAME}-journal"})
    assert os.listdir(tmp_path) == [database.NAME]
    assert _rows(tmp_path) == [7]


@pytest.mark.parametrize("file_system", LOCAL)
def test_a_local_one_has_a_log_that_is_written_ahead(tmp_path: Path, file_system: str) -> None:
    mode, files = _take(tmp_path, 7, file_system)
    assert (mode, f"{database.NAME}-shm" in files) == ("wal", True)
    assert _rows(tmp_path) == [7]


def test_no_file_system_is_both() -> None:
    assert {database.journal_mode(name) for name in NETWORK} == {"DELETE"}
    assert {database.journal_mode(name) for name in LOCAL} == {"WAL"}


@pytest.mark.parametrize("file_system", ["nfs4", "ext4"])
def test_a_change_that_fails_never_was(tmp_path: Path, file_system: str) -> None:
    _take(tmp_path, 7, file_system)

    def fail() -> None:
        with database.transaction(str(tmp_path), file_system) as connection:
            connection.execute(INSERT, (8,))
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail()
    assert _rows(tmp_path) == [7]


@pytest.mark.parametrize("file_system", ["nfs4", "ext4"])
def test_many_who_write_wait_for_each_other(tmp_path: Path, file_system: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda first: _take(tmp_path, first, file_system), range(40)))
    assert sorted(_rows(tmp_path)) == list(range(40))


def test_a_home_that_moved_to_a_server_takes_its_database_along(tmp_path: Path) -> None:
    assert _take(tmp_path, 7, "ext4")[0] == "wal"
    assert _take(tmp_path, 8, "nfs4")[0] == "delete"
    assert _rows(tmp_path) == [7, 8]
    assert os.listdir(tmp_path) == [database.NAME]


def test_what_the_mounts_say_is_the_type_where_nobody_gives_one(tmp_path: Path) -> None:
    with database.transaction(str(tmp_path)) as connection:
        [(mode,)] = connection.execute("PRAGMA journal_mode").fetchall()
    assert mode == database.journal_mode(database._file_system(str(tmp_path))).lower()


@pytest.mark.parametrize("file_system", ["nfs4", "ext4"])
def test_a_damaged_database_is_one_line_with_what_to_do(tmp_path: Path, file_system: str) -> None:
    (tmp_path / database.NAME).write_bytes(b"no database at all" * 100)
    with pytest.raises(HostUnsupported, match="can't be used") as caught:
        _take(tmp_path, 7, file_system)
    assert "rm " in str(caught.value.hint)
