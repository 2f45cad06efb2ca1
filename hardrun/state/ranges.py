"""Ranges of subordinate ids: each sandbox has one that no other has while it runs.

The database says who took which range, a lock (locks.py) says whether it is still held. The
executor ends after the last process of its sandbox. One that was killed may leave them alive for a
moment, so a range is free only when no process has an id of it either.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hardrun.errors import HostUnsupported
from hardrun.state import locks

if TYPE_CHECKING:
    import sqlite3

Range = tuple[int, int]
"""First id and count."""
LARGEST = 65536
SHARES = 64
"""How many sandboxes a user's ids are for, unless their sizes are asked for."""


class Wish(NamedTuple):
    """What a range is taken from: the user's subordinate ids, and how many are wanted."""

    uids: tuple[Range, ...]
    gids: tuple[Range, ...]
    size: int


class Lease(NamedTuple):
    """``size`` uids and as many gids. It is held as long as any process has ``descriptor``."""

    first_uid: int
    first_gid: int
    size: int
    descriptor: int


def usual_size(uids: Iterable[Range], gids: Iterable[Range]) -> int:
    """A power of two: a 64th of what the user has, and at most what an image can ever need."""
    share = min(sum(count for _, count in uids), sum(count for _, count in gids)) // SHARES
    return min(LARGEST, 1 << max(share, 1).bit_length() - 1)


def take(wish: Wish, path: str | None = None) -> Lease:
    """Take a range that no sandbox of this user has; ``path`` is the directory of the database.

    The caller closes ``descriptor``. Raises HostUnsupported in one line when none is free or the
    database can't be used.
    """
    from hardrun.state import database  # sqlite3, for those who take a range

    path = database.directory() if path is None else path
    descriptor = locks.open_file(os.path.join(path, database.LOCKS))
    try:
        with database.transaction(path) as connection:
            held = _held(connection, descriptor)
            uids, gids = _ids_of_processes()
            last = connection.execute("SELECT first_uid, first_gid, size FROM id_ranges"
                                      " ORDER BY number DESC LIMIT 1").fetchone() or (0, 0, 0)
            # After the last one: ids rest before they are given away again.
            first_uid = place(wish.uids, [(u, n) for _, u, _, n in held] + _singles(uids),
                              wish.size, last[0] + last[2])
            first_gid = place(wish.gids, [(g, n) for _, _, g, n in held] + _singles(gids),
                              wish.size, last[1] + last[2])
            if first_uid is None or first_gid is None:
                raise _exhausted(wish, [pid for pid, *_ in held])
            number = connection.execute(
                "INSERT INTO id_ranges (pid, first_uid, first_gid, size) VALUES (?, ?, ?, ?)",
                (os.getpid(), first_uid, first_gid, wish.size)).lastrowid
            assert number is not None
            locks.take(descriptor, number)
    except BaseException:
        os.close(descriptor)
        raise
    return Lease(first_uid, first_gid, wish.size, descriptor)


def place(ranges: Iterable[Range], busy: Iterable[Range], size: int, after: int = 0) -> int | None:
    """Where ``size`` ids in a row are free: the first such place from ``after`` on, else the first.

    None when there is none.
    """
    taken = sorted(busy)
    windows = []
    for start, count in sorted(ranges):
        at, end = start, start + count
        for first, number in [*(t for t in taken if t[0] < end), (end, 0)]:
            if first - at >= size:
                windows.append((at, first - size))
            at = max(at, first + number)
    later = [max(low, after) for low, high in windows if high >= after]
    return min(later, default=min(windows, default=(None, 0))[0])


def _held(connection: sqlite3.Connection, descriptor: int) -> list[tuple[int, int, int, int]]:
    """pid, first uid, first gid and size of every range that is held; the others are forgotten.

    The last of all stays: it says where to go on.
    """
    rows = connection.execute(
        "SELECT number, pid, first_uid, first_gid, size FROM id_ranges ORDER BY number").fetchall()
    free = {row[0] for row in rows if locks.is_free(descriptor, row[0])}
    connection.executemany("DELETE FROM id_ranges WHERE number = ?",
                           [(row[0],) for row in rows[:-1] if row[0] in free])
    return [tuple(row[1:]) for row in rows if row[0] not in free]


def _ids_of_processes() -> tuple[set[int], set[int]]:
    """The uids and gids of all processes: a container of another engine has ids of ours, too."""
    uids, gids = set(), set()
    with os.scandir("/proc") as entries:
        for entry in entries:
            if not entry.name.isdecimal():
                continue
            try:
                status = entry.stat()
            except OSError:  # it has ended
                continue
            uids.add(status.st_uid)
            gids.add(status.st_gid)
    return uids, gids


def _singles(ids: Iterable[int]) -> list[Range]:
    return [(number, 1) for number in ids]


def _exhausted(wish: Wish, pids: Sequence[int]) -> HostUnsupported:
    total = min(sum(n for _, n in wish.uids), sum(n for _, n in wish.gids))
    holders = ", ".join(map(str, sorted(set(pids))[:8])) + (", …" if len(set(pids)) > 8 else "")
    return HostUnsupported(
        f"ids.range: no {wish.size} ids in a row are free of {total} subordinate ones"
        + (f"; {len(pids)} sandboxes hold some (started by {holders})" if pids else ""),
        fact="subordinate_uids",
        hint="end one, ask for fewer (--userns auto:size=N), or as root: usermod --add-subuids "
        "FIRST-LAST --add-subgids FIRST-LAST USER, with ids that nobody else has")
