"""Memory of everything that stays while a container sleeps: PID 1, monitor, supervisor.

Proportional set sizes (proc(5), smaps_rollup): a page that N processes share counts a Nth in each.
The sleeping program itself is left out. Where the kernel refuses (a process that is not dumpable,
and no namespace of our own to ask from) the resident size is taken, an upper bound.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from hardrun.bench import rounds, worker
from hardrun.bench.bench import Bench, series
from hardrun.bench.clock import Failure
from hardrun.bench.contender import Ask, Contender
from hardrun.bench.document import Series
from hardrun.bench.scene import PROBE

COUNTS, QUICK_COUNTS = (1, 10, 100, 500), (1, 10)
PROPORTIONAL = "proportional set size"
MOST_BYTES = 1 << 30
"""No contender is asked for a count that would take more than this."""
PATIENCE = 30.0
"""Seconds until all that were started sleep."""


class Held(NamedTuple):
    """Bytes of what stays, whether that is an upper bound, and processes."""

    size: int
    limit: bool
    processes: int


def run(bench: Bench) -> Iterator[Series]:
    """Every series: bytes for each container, at each count."""
    counts = QUICK_COUNTS if bench.quick else COUNTS
    names = [c.name for c in bench.contenders if "memory" in c.rows]
    task = {"counts": counts, "seconds": bench.seconds / 2}
    alone: list[Series] = []
    if worker.possible():
        # An engine needs ids that are not mapped there.
        alone = worker.ask(bench.scene, "memory", {
            **task, "names": [name for name in names if not name.startswith("podman")],
            "unified": os.path.isdir(worker.UNIFIED)}, peers=bench.peers)
    yield from (one for one in alone if one.samples)
    bench.tick(0.5)
    left = [name for name in names
            if not any(one.samples and one.contender == name for one in alone)]
    if left:
        yield from worker.ask(bench.scene, "memory", {**task, "names": left}, peers=bench.peers,
                              alone=False)
    bench.tick(0.5)


def within(bench: Bench, counts: Sequence[int]) -> Iterator[Series]:
    """What the worker does: one contender after the other, as memory knows no interleaving."""
    yield from bench.failures("memory", PROPORTIONAL, "B", counts[0])
    share = bench.seconds / max(1, len(bench.once))
    for contender in bench.able("memory"):
        begun, each = time.monotonic(), 0.0
        for count in counts:
            late = time.monotonic() - begun + 3 * count * bench.once[contender.name] > share
            if each and (late or each * count > MOST_BYTES):
                break
            found = hold(contender, count)
            if isinstance(found, Failure):
                yield series("memory", contender, PROPORTIONAL, "B", found, count)
                break
            each = found.size / count
            yield replace(series("memory", contender, PROPORTIONAL, "B", [each], count),
                          limit=found.limit)


def hold(contender: Contender, count: int) -> Held | Failure:
    """Start that many that sleep, add up what they keep, end them."""
    before = set(descendants(os.getpid()))
    asks = [rounds.fresh((PROBE, "hold")) for _ in range(count)]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for ask in asks:
            failure = _start(contender, ask, started)
            if failure:
                return failure
        family = _asleep(before, count, hidden=contender.hidden)
        if family is None:
            return Failure(f"not {count} asleep after {PATIENCE:.0f} s")
        return _size([pid for pid in family if not _is_workload(pid)])
    finally:
        _end(contender, asks, started, before)


def _start(contender: Contender, ask: Ask, started: list[subprocess.Popen[bytes]]
           ) -> Failure | None:
    """Start one; what stays in the foreground is remembered, what goes away is waited for."""
    for argv in (contender.stay or contender.commands)(ask):
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, env=dict(contender.environment))
        if contender.stay is None:
            started.append(process)
        elif process.wait(PATIENCE):
            return Failure(f"exit status {process.returncode}")
    return None  # whether it sleeps or has failed is seen by its processes


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(word) for task in tasks for word in (task / "children").read_text().split()]
    except OSError:
        return []  # it ended meanwhile


def descendants(pid: int) -> list[int]:
    """The processes below one, in no order that means something."""
    children = _children(pid)
    return children + [one for child in children for one in descendants(child)]


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _is_workload(pid: int) -> bool:
    """The kernel names a process by the file that it executed; PID 1 of a sandbox has its own."""
    return _comm(pid) == os.path.basename(PROBE) and not _children(pid)


def workloads(family: Iterable[int]) -> int:
    """How many of the processes are the program that was told to sleep."""
    return sum(_is_workload(pid) for pid in family)


def _asleep(before: set[int], count: int, *, hidden: bool) -> list[int] | None:
    """The processes, once that many programs sleep and nobody else has something to do.

    Where programs are no processes of the host (gVisor) it has to be enough that, for a second,
    the same processes are there and sleep.
    """
    end = time.monotonic() + PATIENCE
    last: list[int] = []
    same = 0
    while time.monotonic() < end:
        family = sorted(set(descendants(os.getpid())) - before)
        ready = hidden or workloads(family) >= count
        quiet = family == last and len(family) >= count and all(
            _state(pid) in "SZt" for pid in family)
        same = same + 1 if ready and quiet else 0
        if same > (5 if hidden else 0):
            return family
        last = family
        time.sleep(0.2)
    return None


def _size(pids: Sequence[int]) -> Held:
    total, limit = 0, False
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += sum(int(line.split()[1]) << 10 for line in rollup.splitlines()
                         if line.startswith("Pss:"))
        except ProcessLookupError:
            continue  # a process that has ended and not been reaped keeps no memory
        except OSError:
            total, limit = total + _resident(pid), True
    return Held(total, limit, len(pids))


def _resident(pid: int) -> int:
    """proc(5), statm: readable even of a process that is not dumpable."""
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return resident * os.sysconf("SC_PAGE_SIZE")


def _end(contender: Contender, asks: Sequence[Ask],
         started: Sequence[subprocess.Popen[bytes]], before: set[int]) -> None:
    for process in started:
        process.terminate()
    for ask in asks:
        for argv in contender.end(ask):
            subprocess.run(argv, capture_output=True, check=False,
                           env=dict(contender.environment))
    end = time.monotonic() + 10
    while (left := set(descendants(os.getpid())) - before) and time.monotonic() < end:
        for pid in left:
            if _is_workload(pid):
                _kill(pid)
        _reap()
        time.sleep(0.02)
    for pid in left:
        _kill(pid)
    for process in started:
        process.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _reap() -> None:
    """What was left to this process (it is their subreaper in the worker) is waited for."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
