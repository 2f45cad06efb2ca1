"""Which suites run, with whom, and how long that takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from hardrun.bench import disk, io, machine, memory, ours, peers, rounds, scale, startup, syscall
from hardrun.bench.bench import Bench
from hardrun.bench.contender import Contender
from hardrun.bench.document import Document, Peer, Series
from hardrun.bench.scene import Scene

Tell = Callable[[str], None]
Progress = Callable[[str, float], None]


class Suite(NamedTuple):
    """What it is called and how long it takes: at most ``quick`` or ``whole`` seconds."""

    run: Callable[[Bench], Iterator[Series]]
    quick: float
    whole: float


SUITES: Mapping[str, Suite] = {
    "startup": Suite(startup.run, 12, 180),
    "disk": Suite(disk.run, 8, 120),
    "memory": Suite(memory.run, 7, 90),
    "syscall": Suite(syscall.run, 6, 45),
    "scale": Suite(scale.run, 6, 180),
    "io": Suite(io.run, 4, 30),
}
QUICK_LIMIT = 60.0
"""Seconds that ``--quick`` takes at most, all suites and all that goes before them."""
_OVERRUN = 1.5
"""How much longer than planned a suite may take with ``--quick``, so that something is left."""
_PREPARING = 8.0
"""Seconds for compilers, plans and trial starts."""


class Choice(NamedTuple):
    """What is asked for."""

    suites: Sequence[str]
    runs: int = 60
    warm_up: int = 2
    quick: bool = False
    prepare: str = ""


def estimate(choice: Choice) -> float:
    """Seconds that it takes at most, where no single start hangs."""
    return _PREPARING + sum(_seconds(choice, name) for name in choice.suites)


def _seconds(choice: Choice, name: str) -> float:
    suite = SUITES[name]
    if choice.quick:
        return suite.quick
    return suite.whole * max(1.0, choice.runs / 60)


def run(scene: Scene, choice: Choice, looked: Sequence[Peer], *, tell: Tell,
        progress: Progress) -> Document:
    """Measure. ``tell`` gets lines for people, ``progress`` a suite and the share of it done.

    Raises HardrunError where hardrun itself can't start the command.
    """
    deadline = time.monotonic() + QUICK_LIMIT - _PREPARING if choice.quick else math.inf
    facts = machine.facts(scene.directory)
    contenders: list[Contender] = []
    try:
        found, unprepared = peers.contenders(scene, looked)
        contenders += [*ours.contenders(scene), *found]
        once, failed = rounds.once(contenders, scene.command)
        for name, reason in [*unprepared.items(), *((n, f.reason) for n, f in failed.items())]:
            tell(f"{name}: failed: {reason}")
        bench = Bench(scene, contenders, once, failed, looked, choice.runs, choice.warm_up,
                      choice.quick, prepare=choice.prepare, deadline=deadline)
        series: list[Series] = [Series("startup", name, startup.EXIT, "s", failure=reason)
                                for name, reason in unprepared.items()]
        for name in choice.suites:
            begun = time.monotonic()
            series += _one(bench, name, _seconds(choice, name), progress)
            tell(f"{name}: took {time.monotonic() - begun:.0f} s")
    finally:
        for contender in contenders:
            contender.close()
        peers.close(scene)
    options = {"suites": " ".join(choice.suites), "runs": str(choice.runs),
               "quick": str(choice.quick), "policies": " ".join(scene.policies),
               "command": " ".join(scene.command)}
    return Document(facts, tuple(series), tuple(looked), options)


def _one(bench: Bench, name: str, seconds: float, progress: Progress) -> list[Series]:
    from dataclasses import replace

    done = 0.0

    def tick(share: float) -> None:
        nonlocal done
        done = min(1.0, done + share)
        progress(name, done)
    now = time.monotonic()
    seconds = max(1.0, min(seconds, bench.deadline - now))
    deadline = min(bench.deadline, now + _OVERRUN * seconds) if bench.quick else math.inf
    found = list(SUITES[name].run(replace(bench, seconds=seconds, deadline=deadline, tick=tick)))
    progress(name, 1.0)
    return found
