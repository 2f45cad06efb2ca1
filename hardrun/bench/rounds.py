"""Everybody in random order, round after round: what disturbs the machine meets all alike."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hardrun.bench.clock import Failure, Sample
from hardrun.bench.contender import Ask, Contender
from hardrun.bench.law import FEWEST
from hardrun.bench.scene import PROBE

QUICK = 0.1
"""Seconds: what is quicker is started once uncounted before each counted start, so that nobody pays
for the processor's caches that the contender before has emptied."""

def fresh(command: tuple[str, ...], *, writable: bool = False) -> Ask:
    """A start with a number that no other of this process has: the clock's."""
    return Ask(command, time.monotonic_ns(), writable)


@dataclass(frozen=True)
class Rounds:
    """How often, and for how long; after ``deadline`` (time.monotonic) no further round begins,
    however few there were. ``tick`` is called after each round with its share."""

    runs: int
    warm_up: int = 2
    seconds: float = 600.0
    deadline: float = math.inf
    tick: Callable[[float], None] = field(default=lambda _: None)


def once(contenders: Sequence[Contender], command: tuple[str, ...]
         ) -> tuple[dict[str, float], dict[str, Failure]]:
    """A trial of each: the seconds that its second start takes, and who failed.

    Where the command is our probe it has to print its byte as well: a runtime that ends well and
    has run nothing would be the fastest of all.
    """
    taken, failed = {}, {}
    for contender in contenders:
        for _ in range(2):
            contender.prepare()
            found = contender.measure(fresh(command))
            if isinstance(found, Failure):
                failed[contender.name] = found
                break
        else:
            assert isinstance(found, Sample)
            silent = _did_not_run(contender) if command == (PROBE,) else None
            if silent:
                failed[contender.name] = silent
                continue
            taken[contender.name] = found.wall
    return taken, failed


def _did_not_run(contender: Contender) -> Failure | None:
    if contender.is_called or len(contender.commands(fresh((PROBE,)))) > 1:
        return None
    output = contender.output(fresh((PROBE, "byte")))
    if isinstance(output, Failure):
        return output
    return None if output == "1" else Failure("it ended well, and did not run the command")


def cost(once_each: Sequence[float]) -> float:
    """Seconds that one round takes."""
    return sum(taken * (2 if taken < QUICK else 1) for taken in once_each) + 0.002 * len(once_each)


def interleave(names: Sequence[str], measure: Callable[[str], float | Sample | Failure],
               rounds: Rounds) -> tuple[dict[str, list[float]], dict[str, Failure]]:
    """Seconds of each by name, equally many, and who failed on the way: those have none."""
    times: dict[str, list[float]] = {name: [] for name in names}
    failed: dict[str, Failure] = {}
    order = random.Random()  # nosec B311 - an order, no secret
    begun = time.monotonic()
    for turn in range(rounds.warm_up + rounds.runs):
        counted = turn - rounds.warm_up
        now = time.monotonic()
        if (counted >= FEWEST and now - begun > rounds.seconds) or (
                counted > 0 and now > rounds.deadline):
            break
        for name in order.sample(list(times), len(times)):
            found = measure(name)
            if isinstance(found, Failure):
                failed[name] = found
                del times[name]
            elif counted >= 0:
                times[name].append(found.wall if isinstance(found, Sample) else found)
        rounds.tick(1 / (rounds.warm_up + rounds.runs))
    return times, failed


def starts(contenders: Sequence[Contender], command: tuple[str, ...], rounds: Rounds, *,
           quick: Callable[[str], bool] = lambda _: True,
           before: Callable[[], None] = lambda: None,
           first_byte: bool = False) -> tuple[dict[str, list[float]], dict[str, Failure]]:
    """Times from the start to the exit, or to the first byte of output, in seconds.

    ``before`` is called before each counted start (``--prepare``).
    """
    by_name = {contender.name: contender for contender in contenders}

    def measure(name: str) -> float | Sample | Failure:
        contender = by_name[name]
        if quick(name):
            warm = contender.measure(fresh(command))
            if isinstance(warm, Failure):
                return warm
        before()
        contender.prepare()
        ask = fresh(command)
        return contender.first_byte(ask) if first_byte else contender.measure(ask)
    return interleave(list(by_name), measure, rounds)
