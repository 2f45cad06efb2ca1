"""Many sandboxes at once, with kills, time-outs and full disks; then nothing may be left of them.

    python -m tests.escape.load --seconds 300
    python -m tests.escape.load --seconds 20 --alive 50 --full /a/small/file/system

Threads start sandboxes through the API and keep so many of them alive; somebody kills processes of
theirs at random. Compared before and after, with as many starts before the first look as there are
sandboxes alive at once: resident memory of this process (with an allowance, for the allocator keeps
some), its descriptors and threads; mounts, groups, files, free ids, processes of the caller and its
subordinate ids, and the namespaces that those are in. The kernel's own memory is not: other users
of the machine change it meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hardrun import api
from hardrun.errors import ExecutorError
from tests.escape import remains

ALLOWANCE = 8 << 20  # bytes of resident memory
KILLS = 3.0  # a second
_FILL = 'head -c 64M /dev/zero >"$1/filled" 2>/dev/null && exit 9; rm -f "$1/filled"; exit 3'


class Kind(NamedTuple):
    """A sort of sandbox: how it is run, and how it may end unless somebody kills it."""

    prepared: api.Prepared
    outcome: str
    status: int
    patience: Callable[[], float] | None = None  # seconds until its task is cancelled


@dataclass
class Tally:
    """What came of the starts; ``wrong`` are the ends that nothing explains."""

    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    alive: int = 0
    peak: int = 0
    killed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def began(self) -> None:
        """One more."""
        with self.lock:
            self.alive += 1
            self.peak = max(self.peak, self.alive)

    def ended(self, how: str, wrong: str = "") -> None:
        """One less."""
        with self.lock:
            self.alive -= 1
            self.ends[how] += 1
            if wrong:
                self.wrong.append(wrong)


def kinds(full: Path | None) -> dict[str, Kind]:
    """Every sort of sandbox; ``full`` is a directory on a small file system."""
    def prepare(*argv: str, **options: object) -> api.Prepared:
        return api.prepare(argv, policy="untrusted", **options)  # type: ignore[arg-type]

    made = {
        "ends": Kind(prepare("true"), "exited", 0),
        "sleeps": Kind(prepare("sleep", "6"), "exited", 0),
        "ids of its own": Kind(prepare("sleep", "1", userns="auto"), "exited", 0),
        "time-out": Kind(prepare("sleep", "60", timeout=2), "timeout", 124),
        "cancelled": Kind(prepare("sleep", "60"), "never", 0, lambda: random.uniform(0, 9)),
        "full inside": Kind(prepare("sh", "-c", _FILL, "sh", "/srv", tmpfs=["/srv:256K"]),
                            "exited", 3),
        "talks": Kind(prepare("sh", "-c", "head -c 1M /dev/zero; sleep 3"), "exited", 0),
    }
    if full is not None:
        made["full outside"] = Kind(prepare("sh", "-c", _FILL, "sh", str(full), rw=[full]),
                                    "exited", 3)
    return made


async def _one(name: str, kind: Kind, tally: Tally) -> None:
    tally.began()
    task = asyncio.ensure_future(kind.prepared.run_async(capture_output=True))
    try:
        if kind.patience:
            await asyncio.wait([task], timeout=kind.patience())
            task.cancel()
        result = await task
    except asyncio.CancelledError:
        tally.ended("cancelled")
    except ExecutorError as error:
        killed = "killed" in f"{error.message} {error.hint}"
        tally.ended("killed", "" if killed else f"{name}: {error.message}")
    else:
        expected = (result.outcome, result.returncode) == (kind.outcome, kind.status)
        killed = result.returncode == 128 + signal.SIGKILL
        how = name if expected else "killed" if killed else "wrong"
        tally.ended(how, f"{name}: {result.outcome} {result.returncode} {result.stderr!r}"
                    if how == "wrong" else "")


async def _keep(alive: int, names: Sequence[str], made: dict[str, Kind], tally: Tally,
                until: float) -> None:
    """Keep so many alive; at the end wait for the last."""
    running: set[asyncio.Task[None]] = set()
    while time.monotonic() < until:
        while len(running) < alive:
            name = random.choice(names)
            running.add(asyncio.ensure_future(_one(name, made[name], tally)))
        _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED, timeout=1)
    if running:
        await asyncio.wait(running)


def _kill_some(tally: Tally, stop: threading.Event) -> None:
    """SIGKILL to whatever process of a sandbox comes up."""
    while not stop.wait(random.expovariate(KILLS)):
        below = {os.getpid()}
        found = []
        for process in sorted(remains.processes(), key=lambda p: p.started):
            if process.parent in below:
                below.add(process.pid)
                found.append(process.pid)
        try:
            os.kill(random.choice(found or [0]) or os.getpid() + (1 << 30), signal.SIGKILL)
        except (ProcessLookupError, PermissionError, OverflowError):
            continue  # it has ended, or has ids that are not ours
        with tally.lock:
            tally.killed += 1


def load(made: dict[str, Kind], seconds: float, alive: int, threads: int, *, kill: bool) -> Tally:
    """Put the load on for that long."""
    tally, stop = Tally(), threading.Event()
    until = time.monotonic() + seconds
    names = list(made)
    share = [alive // threads + (i < alive % threads) for i in range(threads)]
    workers = [threading.Thread(target=lambda n=n: asyncio.run(
        _keep(n, names, made, tally, until))) for n in share if n]
    killer = threading.Thread(target=_kill_some, args=(tally, stop))
    for worker in [*workers, *([killer] if kill else [])]:
        worker.start()
    for worker in workers:
        worker.join()
    stop.set()
    if kill:
        killer.join()
    return tally


def resident() -> int:
    """Bytes of this process in memory, without what the C library keeps for the next time."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def namespaces() -> frozenset[str]:
    """Every namespace that a process of the caller's is in, as far as the kernel shows them."""
    found = set()
    for process in remains.processes():
        for kind in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts"):
            try:
                found.add(os.readlink(f"/proc/{process.pid}/ns/{kind}"))
            except OSError:
                continue
    return frozenset(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--alive", type=int, default=200)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--full", type=Path)
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        made = kinds(given.full)
        load(made, min(10, given.seconds), given.alive, given.threads, kill=False)
        before, threads, memory, kernel = (remains.take(), threading.active_count(), resident(),
                                           namespaces())
        tally = load(made, given.seconds, given.alive, given.threads, kill=True)
        left = remains.left(before)
        left += [f"namespace {name}" for name in namespaces() - kernel]
        left += [f"{threading.active_count() - threads} threads"] * (
            threading.active_count() != threads)
        left += [] if remains.all_ids_are_freed() else ["ids that are held"]
        growth = resident() - memory
        os.chdir("/")
    print(f"{sum(tally.ends.values())} started, {tally.peak} alive at once, "
          f"{tally.killed} processes killed")
    print(", ".join(f"{name}: {count}" for name, count in sorted(tally.ends.items())))
    print(f"resident memory: {memory >> 10} KiB before, {growth / 1024:+.0f} KiB")
    if growth > ALLOWANCE:
        left.append(f"{growth} bytes of memory")
    for problem in [*tally.wrong[:20], *(f"left behind: {one}" for one in left[:20])]:
        print(problem, file=sys.stderr)
    return 1 if left or tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
