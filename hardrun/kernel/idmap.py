"""Id maps of user namespaces, and the ranges of /etc/subuid and /etc/subgid (subuid(5))."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

HIGHEST_ID = 2**32 - 2
"""The highest id; 2**32-1 means "no id" to the kernel."""


class IdMapping(NamedTuple):
    """One line of a uid_map: ``size`` ids from ``inside`` on are those from ``outside`` on.

    ``outside`` is as seen from the user namespace of the process that reads the file.
    """

    inside: int
    outside: int
    size: int


class SubordinateRange(NamedTuple):
    """One line of /etc/subuid: ``size`` ids from ``start`` on belong to ``owner``, name or uid."""

    owner: str
    start: int
    size: int


def parse_map(text: str) -> tuple[IdMapping, ...]:
    """Read a uid_map or gid_map. Raises ValueError when a line is not three numbers."""
    mappings = []
    for line in text.splitlines():
        words = line.split()
        if len(words) != 3 or not all(word.isdecimal() for word in words):
            raise ValueError(f"not a line of an id map: {line!r}")
        mappings.append(IdMapping(*map(int, words)))
    return tuple(mappings)


def parse_subordinate(text: str) -> tuple[SubordinateRange, ...]:
    """Read /etc/subuid or /etc/subgid.

    Lines that newuidmap(1) could not use either (comments, a wrong number of fields, an empty
    range, ids that do not exist) grant nothing and are passed over.
    """
    ranges = []
    for line in text.splitlines():
        owner, *numbers = line.strip().split(":")
        if not owner or owner.startswith("#") or len(numbers) != 2:
            continue
        if not all(n.isascii() and n.isdecimal() and len(n) <= 10 for n in numbers):
            continue
        start, size = map(int, numbers)
        if size > 0 and start + size - 1 <= HIGHEST_ID:
            ranges.append(SubordinateRange(owner, start, size))
    return tuple(ranges)


def _split(
    ranges: Iterable[SubordinateRange], name: str, uid: int
) -> tuple[list[SubordinateRange], list[SubordinateRange]]:
    owners = {name, str(uid)}
    own: list[SubordinateRange] = []
    others: list[SubordinateRange] = []
    for entry in ranges:
        (own if entry.owner in owners else others).append(entry)
    return own, others


def overlap(a: SubordinateRange, b: SubordinateRange) -> bool:
    """Whether two ranges share an id."""
    return a.start < b.start + b.size and b.start < a.start + a.size


def conflicting(
    ranges: Iterable[SubordinateRange], name: str, uid: int
) -> tuple[SubordinateRange, ...]:
    """This user's ranges that hold another user's ids, or those of the host's root.

    Two users with one range own each other's files and processes inside their sandboxes (US-01).
    """
    own, others = _split(ranges, name, uid)
    return tuple(o for o in own if o.start == 0 or any(overlap(o, other) for other in others))


def usable(ranges: Iterable[SubordinateRange], name: str, uid: int) -> tuple[tuple[int, int], ...]:
    """(start, size) of the ranges that belong to this user alone.

    The user stands in the file by name or by uid; /etc/subgid names users too.
    """
    entries = tuple(ranges)
    own, _ = _split(entries, name, uid)
    bad = conflicting(entries, name, uid)
    return tuple((o.start, o.size) for o in own if o not in bad)
