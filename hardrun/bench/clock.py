"""Start one process, and say what it took or that it failed.

posix_spawn(3) rather than fork: the harness is large, and copying its page tables would be in every
number. A process that does not exit with 0 has no time, whatever the clock says.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from hardrun.errors import HardrunError

PATIENCE = 30.0
"""Seconds after which a start counts as failed."""
_ERRORS_KEPT = 300


class Sample(NamedTuple):
    """What one start took, in seconds. CPU time is that of all processes that were waited for."""

    wall: float
    cpu: float = 0.0


class Failure(NamedTuple):
    """Why there is no time."""

    reason: str


class Result(NamedTuple):
    """One finished process. ``first`` is the time to its first byte of output, if there was one."""

    wall: float
    cpu: float
    first: float
    output: bytes


class Start(NamedTuple):
    """A command line with the descriptors that it is given: number → path, read-only."""

    argv: list[str]
    environment: Mapping[str, str]
    files: Mapping[int, str] = {}


def _spawn(start: Start, output: int, errors: int) -> int:
    actions: list[tuple[object, ...]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, errors, 2)]
    actions += [(os.POSIX_SPAWN_OPEN, number, path, os.O_RDONLY, 0)
                for number, path in start.files.items()]
    return os.posix_spawnp(start.argv[0], start.argv, start.environment, file_actions=actions,
                           setsigdef=[signal.SIGINT, signal.SIGPIPE])


def run(start: Start, *, capture: bool = False) -> Result | Failure:
    """Start it and wait for its end; with ``capture`` its output is read and timed.

    Raises nothing for what the process does: a Failure has its last words.
    """
    errors = os.memfd_create("errors")
    reading, writing = os.pipe() if capture else (-1, os.open("/dev/null", os.O_WRONLY))
    try:
        begin = time.perf_counter()
        try:
            pid = _spawn(start, writing, errors)
        except OSError as error:
            return Failure(f"{start.argv[0]}: {error.strerror}")
        os.close(writing)
        writing = -1
        first, output = _read(reading, begin, pid) if capture else (0.0, b"")
        status, usage = _wait(pid, begin)
        wall = time.perf_counter() - begin
        if status:
            return Failure(_reason(status, errors))
        return Result(wall, usage, first, output)
    finally:
        for descriptor in (errors, reading, writing):
            if descriptor >= 0:
                os.close(descriptor)


def _read(reading: int, begin: float, pid: int) -> tuple[float, bytes]:
    first, found = 0.0, b""
    while True:
        left = begin + PATIENCE - time.perf_counter()
        if left <= 0 or not select.select([reading], [], [], left)[0]:
            os.kill(pid, signal.SIGKILL)
            return first, found
        piece = os.read(reading, 65536)
        if not piece:
            return first, found
        first = first or time.perf_counter() - begin
        found += piece


def _wait(pid: int, begin: float) -> tuple[int, float]:
    """Status and CPU seconds; what has not ended after ``PATIENCE`` is killed."""
    descriptor = os.pidfd_open(pid)
    try:
        if not select.select([descriptor], [], [], max(0.0, begin + PATIENCE
                                                       - time.perf_counter()))[0]:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(descriptor)
    _, status, usage = os.wait4(pid, 0)
    return status, usage.ru_utime + usage.ru_stime


def _reason(status: int, errors: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    how = f"exit status {code}" if code >= 0 else f"signal {-code}"
    size = os.fstat(errors).st_size
    said = os.pread(errors, _ERRORS_KEPT, max(0, size - _ERRORS_KEPT)).decode(errors="replace")
    return f"{how}: {' '.join(said.split())}" if said.strip() else how


def sequence(starts: Sequence[Start]) -> Sample | Failure:
    """The time of several processes one after the other (create, start, delete)."""
    wall = cpu = 0.0
    for start in starts:
        found = run(start)
        if isinstance(found, Failure):
            return found
        wall, cpu = wall + found.wall, cpu + found.cpu
    return Sample(wall, cpu)


def call(function: Callable[[], object]) -> Sample | Failure:
    """The time of a function of this process; an exception of hardrun's or the system's fails."""
    begin = time.perf_counter()
    try:
        function()
    except (HardrunError, OSError) as error:
        return Failure(str(error))
    return Sample(time.perf_counter() - begin)
