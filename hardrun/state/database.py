"""The state database: one SQLite file for each user."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hardrun.errors import HostUnsupported
from hardrun.kernel import mounts, procfs
from hardrun.state.places import directory

__all__ = ["LOCKS", "NAME", "directory", "journal_mode", "transaction"]

NAME = "state.db"
LOCKS = "state.lock"
PATIENCE = 30.0
"""Seconds to wait for others who write; each of them is done within milliseconds."""
_LOCAL = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "tmpfs",
                    "xfs", "zfs"})
_SCHEMA = ("""
CREATE TABLE IF NOT EXISTS id_ranges (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    pid INTEGER NOT NULL,
    first_uid INTEGER NOT NULL,
    first_gid INTEGER NOT NULL,
    size INTEGER NOT NULL
)
""", """
CREATE TABLE IF NOT EXISTS containers (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    request TEXT NOT NULL,
    created INTEGER NOT NULL,
    removed_at_end INTEGER NOT NULL,
    started INTEGER,
    pid INTEGER,
    start_time INTEGER,
    decision TEXT,
    report_file TEXT,
    report BLOB
)
""")


def journal_mode(file_system: str) -> str:
    """How SQLite keeps its journal on a type of file system; an unknown one may be a server's.

    Write-ahead logging needs shared memory between all who open the file: no network file system.
    """
    return "WAL" if file_system in _LOCAL else "DELETE"


@contextmanager
def transaction(path: str, file_system: str | None = None) -> Iterator[sqlite3.Connection]:
    """The database in ``path``, a directory, for one change that all see or none.

    ``file_system`` is the type of the one that it lies on; None: as the mounts say. Raises
    HostUnsupported in one line when it is damaged, locked or can't be written.
    """
    file = os.path.join(path, NAME)
    _make_private(file)
    try:
        connection = sqlite3.connect(file, timeout=PATIENCE, isolation_level=None)
        try:
            journal = journal_mode(_file_system(path) if file_system is None else file_system)
            _patiently(connection, f"PRAGMA journal_mode={journal}")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                connection.execute(statement)
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()  # what is not committed never was
    except sqlite3.Error as error:
        raise HostUnsupported(f"the state database {file} can't be used: {error}", fact="state",
                              hint=_hint(error, file)) from None


def _patiently(connection: sqlite3.Connection, statement: str) -> None:
    """Where many are the first at once, SQLite itself waits for no change of the journal mode."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xff != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.005)
        else:
            return


def _make_private(file: str) -> None:
    """Requests of containers have values of variables in them, which are for nobody else to read.

    The file is never opened when it is there: to close it would let go of SQLite's own locks.
    """
    try:
        if os.stat(file).st_mode & 0o077:
            os.chmod(file, 0o600)
    except FileNotFoundError:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with suppress(OSError):  # another made it meanwhile, or SQLite says why it can't be
            os.close(os.open(file, flags, 0o600))
    except OSError:
        return


def _hint(error: sqlite3.Error, file: str) -> str:
    if error.sqlite_errorcode & 0xff in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"end containers and sandboxes of --userns auto, then rm {file}*: names are lost"
    if error.sqlite_errorcode & 0xff in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "another program keeps it locked: fuser says which"
    return f"make {os.path.dirname(file)} and the files in it writable, on a disk that is not full"


def _file_system(path: str) -> str:
    device = os.stat(path).st_dev
    number = (os.major(device), os.minor(device))
    types = [m.type for m in mounts.parse(procfs.mountinfo()) if m.device == number]
    return types[-1] if types else ""
