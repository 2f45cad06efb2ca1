"""Many starts: in sequence, whether the thousandth costs what the first did; several at a time."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from hardrun.bench import clock, rounds
from hardrun.bench.bench import Bench, series
from hardrun.bench.clock import Failure, Start
from hardrun.bench.contender import Contender
from hardrun.bench.document import SECONDS, Series
from hardrun.bench.law import FEWEST

IN_SEQUENCE, THROUGHPUT, LATENCY = "in sequence", "throughput", "latency"
COUNT, QUICK_COUNT, FEWEST_STARTS = 1000, 200, 20
AT_ONCE, QUICK_AT_ONCE = (1, 2, 4, 8), (1, 2, 4)
REPEATS = 24


def run(bench: Bench) -> Iterator[Series]:
    """Every series of the suite."""
    able = bench.able("scale")
    yield from bench.failures("scale", IN_SEQUENCE)
    share = bench.seconds / 2 / max(1, len(able))
    for contender in able:
        yield _in_sequence(bench, contender, share)
        bench.tick(0.5 / len(able))
    yield from _at_once(bench, [c for c in able if not c.is_called])


def _in_sequence(bench: Bench, contender: Contender, seconds: float) -> Series:
    """One after the other, in the order in which they were made, as many as the time allows."""
    most = QUICK_COUNT if bench.quick else COUNT
    count = max(FEWEST_STARTS, min(most, int(seconds / bench.once[contender.name])))
    times: list[float] = []
    for _ in range(count):
        found = contender.measure(rounds.fresh(bench.scene.command))
        if isinstance(found, Failure):
            return series("scale", contender, IN_SEQUENCE, SECONDS, found)
        times.append(found.wall)
    return series("scale", contender, IN_SEQUENCE, SECONDS, times, count)


def _at_once(bench: Bench, contenders: Sequence[Contender]) -> Iterator[Series]:
    """Rounds in random order: each is so many processes that each start one after the other."""
    rates: dict[tuple[str, int], list[float]] = {}
    latencies: dict[tuple[str, int], list[float]] = {}
    by_name = {contender.name: contender for contender in contenders}
    failed: dict[str, Failure] = {}
    repeats, counts = (FEWEST, QUICK_AT_ONCE) if bench.quick else (REPEATS, AT_ONCE)
    seconds = bench.seconds / 2 / repeats / len(counts) / max(1, len(by_name))
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_Worker()) for _ in range(max(counts))]
        for done in range(repeats):
            now = time.monotonic()
            if (done >= FEWEST and now - begun > bench.seconds / 2) or (
                    done and now > bench.deadline):
                break
            for name, at_once in itertools.product(by_name, counts):
                if name in failed:
                    continue
                count = max(2, min(100, int(seconds / bench.once[name])))
                tasks = [[by_name[name].starts(rounds.fresh(bench.scene.command))
                          for _ in range(count)] for _ in range(at_once)]
                found = _round(workers[:at_once], tasks)
                if isinstance(found, Failure):
                    failed[name] = found
                    continue
                rates.setdefault((name, at_once), []).append(found[0])
                latencies.setdefault((name, at_once), []).extend(found[1])
            bench.tick(0.5 / repeats)
    for (name, at_once), found_rates in rates.items():
        if name not in failed:
            yield series("scale", by_name[name], THROUGHPUT, "/s", found_rates, at_once)
            yield series("scale", by_name[name], LATENCY, SECONDS, latencies[name, at_once],
                         at_once)
    for name, failure in failed.items():
        yield series("scale", by_name[name], THROUGHPUT, "/s", failure)


def _round(workers: Sequence[_Worker], tasks: Sequence[Sequence[Sequence[Start]]]
           ) -> tuple[float, list[float]] | Failure:
    """Starts per second of all workers together, and what each start took."""
    for worker, task in zip(workers, tasks, strict=True):
        worker.take(task)
    begin = time.perf_counter()
    for worker in workers:
        worker.go()
    answers = [worker.answer() for worker in workers]
    taken = time.perf_counter() - begin
    times = [one for answer in answers for one in answer]
    wanted = sum(len(task) for task in tasks)
    if len(times) < wanted:
        return Failure(f"{wanted - len(times)} of {wanted} starts failed")
    return len(times) / taken, times


class _Worker:
    """A process that starts one after the other, task after task, until its input ends."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hardrun.bench.scale"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def take(self, starts: Sequence[Sequence[Start]]) -> None:
        """Hand over a task, and wait until it has been read."""
        self._write(json.dumps(starts))
        self._read()

    def go(self) -> None:
        """Let it begin."""
        self._write("go")

    def answer(self) -> list[float]:
        """Seconds of each start that succeeded."""
        times: list[float] = json.loads(self._read() or "[]")
        return times

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _perform(task: str) -> str:
    starts = [[Start(argv, environment, {int(k): v for k, v in files.items()})
               for argv, environment, files in one] for one in json.loads(task)]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    found = [clock.sequence(one) for one in starts]
    return json.dumps([f.wall for f in found if not isinstance(f, Failure)])


def main() -> int:
    """A worker: a line with a task, a line when to begin, a line with the times; and again."""
    while task := sys.stdin.readline():
        sys.stdout.write(_perform(task) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
