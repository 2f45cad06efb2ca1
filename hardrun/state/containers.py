"""Named containers: what was asked for under which name, whether it runs, how it ended.

A record holds a request and never a decision: each start decides anew. Whether a container runs is
said by a lock (locks.py) that its executor inherits. Whoever starts one takes the lock before
anything else and notes the process before the command's first instruction, so that a container
either runs with a process that is known, or is about to, or does not run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from hardrun.errors import BadInput
from hardrun.state import database, locks

if TYPE_CHECKING:
    import sqlite3

_FIRST_LOCK = 1 << 40
"""Bytes below are those of ranges of ids."""
LARGEST_REPORT = 1 << 20


class Record(NamedTuple):
    """One container; the fields are the columns of the table, in its order.

    ``request`` is JSON; ``created`` and ``started`` are seconds since 1970. ``pid`` with
    ``start_time`` (clock ticks since boot) is the executor of the last start, ``decision`` the
    digest of its Decision. ``report_file`` is where the executor writes at the end, ``report`` what
    it wrote, once that was collected.
    """

    number: int
    name: str
    request: str
    created: int
    removed_at_end: bool
    started: int | None
    pid: int | None
    start_time: int | None
    decision: str | None
    report_file: str | None
    report: bytes | None


    @property
    def socket(self) -> str | None:
        """Where commands for the last start are taken; beside the report, and as short-lived."""
        return None if self.report_file is None else socket_of(self.report_file)


def socket_of(report_file: str) -> str:
    """The socket that belongs to a report."""
    return f"{report_file.removesuffix('.report')}.socket"


class Seen(NamedTuple):
    """A container at one moment; ``held``: it runs, or is being started."""

    record: Record
    held: bool


class Store:
    """The containers of one user; ``path`` is the directory of the database.

    Every method raises HostUnsupported in one line when the database can't be used, and those that
    take a name raise BadInput when there is no container of that name.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = database.directory() if path is None else path

    @property
    def layers(self) -> str:
        """The directory of what containers changed of their roots: ``NUMBER.upper`` and ``.work``.
        """
        return os.path.join(self.path, "layers")

    def add(self, name: str, request: str, *, removed_at_end: bool = False) -> Record:
        """A new container. Raises BadInput when the name is taken."""
        with database.transaction(self.path) as connection:
            taken = connection.execute("SELECT 1 FROM containers WHERE name = ?", (name,))
            if taken.fetchone():
                raise BadInput(f"there is a container {name} already",
                               hint=f"another name, or hardrun rm {name}")
            last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'containers'"
                                      ).fetchone() or (0,)
            # A database that was lost leaves layers, and none may become another container's.
            number = max(last[0], *self._layer_numbers()) + 1
            connection.execute(
                "INSERT INTO containers (number, name, request, created, removed_at_end)"
                " VALUES (?, ?, ?, ?, ?)", (number, name, request, int(time.time()),
                                            removed_at_end))
            return _get(connection, name)

    def _layer_numbers(self) -> Iterator[int]:
        yield 0
        with suppress(FileNotFoundError):
            yield from (int(number) for entry in os.listdir(self.layers)
                        if (number := entry.split(".")[0]).isdecimal())

    def look(self, name: str | None = None) -> list[Seen]:
        """Every container, or that of a name, in the order in which they were made.

        Where a run has ended, how it did is taken into the record.
        """
        with self._locks() as descriptor, database.transaction(self.path) as connection:
            rows = connection.execute("SELECT * FROM containers ORDER BY number").fetchall() \
                if name is None else [_get(connection, name)]
            found = []
            for record in (Record(*row) for row in rows):
                held = not locks.is_free(descriptor, _FIRST_LOCK + record.number)
                found.append(Seen(record if held else _collect(connection, record), held))
            return found

    def begin(self, name: str, report_file: str) -> tuple[Record, int]:
        """Take the lock for a start: the record and the descriptor that the executor is to inherit.

        ``report_file`` is a format string with the number in it. Raises BadInput while it runs.
        """
        descriptor = self._open_locks()
        try:
            with database.transaction(self.path) as connection:
                record = _get(connection, name)
                if not locks.take(descriptor, _FIRST_LOCK + record.number):
                    raise BadInput(f"container {name} runs already",
                                   hint=f"hardrun stop {name} ends it")
                _collect(connection, record)
                connection.execute("UPDATE containers SET report_file = ? WHERE number = ?",
                                   (report_file.format(record.number), record.number))
                return _get(connection, name), descriptor
        except BaseException:
            os.close(descriptor)
            raise

    def note_start(self, number: int, pid: int, start_time: int, decision: str) -> None:
        """Write down the executor of a start, under the lock that was taken for it."""
        with database.transaction(self.path) as connection:
            connection.execute("UPDATE containers SET started = ?, pid = ?, start_time = ?,"
                               " decision = ?, report = NULL WHERE number = ?",
                               (int(time.time()), pid, start_time, decision, number))

    def forget_start(self, record: Record) -> None:
        """A start that came to nothing, under the lock that was taken for it: it never was."""
        with database.transaction(self.path) as connection:
            connection.execute("UPDATE containers SET report_file = NULL, pid = NULL"
                               " WHERE number = ?", (record.number,))
        _unlink(record.report_file)

    @contextmanager
    def removing(self, name: str) -> Iterator[Record]:
        """Hold a container that does not run, and forget it afterwards unless an error came.

        What it left must be removed within: the number is then nobody's, and never given again.
        Raises BadInput while it runs.
        """
        descriptor = self._open_locks()
        try:
            with database.transaction(self.path) as connection:
                record = _get(connection, name)
                if not locks.take(descriptor, _FIRST_LOCK + record.number):
                    raise BadInput(f"container {name} runs",
                                   hint=f"hardrun stop {name}, or hardrun rm -f {name}")
            yield record
            with database.transaction(self.path) as connection:
                connection.execute("DELETE FROM containers WHERE number = ?", (record.number,))
            _unlink(record.report_file)
        finally:
            os.close(descriptor)

    def _open_locks(self) -> int:
        return locks.open_file(os.path.join(self.path, database.LOCKS))

    @contextmanager
    def _locks(self) -> Iterator[int]:
        descriptor = self._open_locks()
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _get(connection: sqlite3.Connection, name: str) -> Record:
    row = connection.execute("SELECT * FROM containers WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise BadInput(f"there is no container {name}", hint="hardrun ps -a lists them")
    return Record(*row)


def _collect(connection: sqlite3.Connection, record: Record) -> Record:
    """Take the report of a start that ended into the record. Nobody may be writing it any more."""
    if not record.report_file:
        return record
    # One that was not noted never ran: what the last start came to stays.
    report = record.report if record.pid is None else _read(record.report_file)
    connection.execute("UPDATE containers SET report = ?, report_file = NULL, pid = NULL,"
                       " start_time = NULL WHERE number = ?", (report, record.number))
    _unlink(record.report_file)
    return record._replace(report=report, report_file=None, pid=None, start_time=None)


def _read(path: str) -> bytes:
    """A report; empty when it is gone (after a reboot) or was never written."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    with open(descriptor, "rb") as file:
        if os.fstat(file.fileno()).st_uid != os.getuid():
            return b""
        return file.read(LARGEST_REPORT)


def _unlink(report_file: str | None) -> None:
    """Remove a report, and the socket of the run that it was for."""
    if report_file is None:
        return
    for path in (report_file, socket_of(report_file)):
        with suppress(OSError):  # it lies in memory, and a reboot or a logout may have taken it
            os.unlink(path)
