"""What sandboxes could leave behind: processes, mounts, descriptors, files, ids, groups."""

from __future__ import annotations

import contextlib
import os
import pwd
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hardrun.errors import HostUnsupported
from hardrun.kernel import idmap
from hardrun.state import ranges

PATIENCE = 10.0
"""Seconds until what should be gone counts as left behind; on an idle machine it is gone in one."""


class Process(NamedTuple):
    """One process of the caller's: its number and when it started make it what it is."""

    pid: int
    started: int
    name: str
    parent: int


class Remains(NamedTuple):
    """All there is of the caller's and of its subordinate ids."""

    processes: frozenset[Process]
    mounts: frozenset[str]
    descriptors: frozenset[str]
    files: frozenset[str]
    groups: frozenset[str]

    def beyond(self, before: Remains) -> list[str]:
        """What was not there before."""
        return [f"{kind[:-1]} {one}" for kind, now, then
                in zip(self._fields, self, before, strict=True) for one in now - then]


def processes() -> Iterator[Process]:
    """The living processes of the caller and of its subordinate ids, all of them."""
    owners = [range(os.getuid(), os.getuid() + 1),
              *(range(first, first + count) for first, count in subordinate("uid"))]
    for number in filter(str.isdecimal, os.listdir("/proc")):
        place = Path("/proc", number)
        try:
            if not any(place.stat().st_uid in owner for owner in owners):
                continue
            text = (place / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has ended
        name, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()
        if fields[0] not in "ZX":
            yield Process(int(number), int(fields[19]), name, int(fields[1]))


def subordinate(kind: str) -> tuple[tuple[int, int], ...]:
    """The ranges of the caller's subordinate ids; ``kind`` is uid or gid."""
    known = idmap.parse_subordinate(Path(f"/etc/sub{kind}").read_text(encoding="utf-8"))
    return idmap.usable(known, pwd.getpwuid(os.getuid()).pw_name, os.getuid())


def take(*directories: Path) -> Remains:
    """Take stock; ``directories`` are where files could be left, besides /tmp."""
    files = {str(p) for d in directories for p in d.iterdir()}
    files |= private_directories()
    links = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            links.add(f"{name}: {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:
            continue  # that of this listing
    return Remains(frozenset(processes()),
                   frozenset(Path("/proc/self/mountinfo").read_text().splitlines()),
                   frozenset(links), frozenset(files), frozenset(_groups()))


def private_directories() -> set[str]:
    """Those of the landlock tier that are the caller's; one may go while this looks."""
    found = set()
    for path in Path("/tmp").glob("hardrun-*"):
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_uid == os.getuid():
                found.add(str(path))
    return found


def _groups() -> Iterator[str]:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kind, path = line.split(":", 2)
        place = Path("/sys/fs/cgroup", kind or "unified", path.strip("/"))
        if place.is_dir():
            yield from (str(p) for p in place.glob("hardrun-[0-9]*"))


def left(before: Remains, *directories: Path) -> list[str]:
    """What is left of a sandbox that ended a moment ago; waits until it is nothing."""
    deadline = time.monotonic() + PATIENCE
    while found := take(*directories).beyond(before):
        if time.monotonic() > deadline:
            return found
        time.sleep(0.005)
    return []


def living(before: Remains) -> list[Process]:
    """The processes that are left of it."""
    deadline = time.monotonic() + PATIENCE
    while found := sorted(set(processes()) - before.processes):
        if time.monotonic() > deadline:
            return found
        time.sleep(0.005)
    return []


def all_ids_are_freed() -> bool:
    """Whether that becomes so: a lock goes with the last descriptor, an id with who reaps."""
    deadline = time.monotonic() + PATIENCE
    while not (free := all_ids_are_free()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return free


def all_ids_are_free() -> bool:
    """Whether no sandbox, and no process, has any of the caller's subordinate ids."""
    uids, gids = subordinate("uid"), subordinate("gid")
    whole = min(max(count for _, count in uids), max(count for _, count in gids))
    try:
        lease = ranges.take(ranges.Wish(uids, gids, whole))
    except HostUnsupported:
        return False
    os.close(lease.descriptor)
    return True
