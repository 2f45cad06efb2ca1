"""One run of the harness: what the suites share, and what each is given."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hardrun.bench.clock import Failure
from hardrun.bench.contender import Contender
from hardrun.bench.document import SECONDS, Peer, Series
from hardrun.bench.law import FEWEST
from hardrun.bench.rounds import QUICK, Rounds, cost
from hardrun.bench.scene import Scene

_DIGITS = 9  # nanoseconds: what the clock tells


def _ignore(share: float) -> None:
    del share


@dataclass(frozen=True)
class Bench:
    """Who takes part, how often, how long at most, and whom to tell.

    ``once`` are the seconds that a trial start took of those that succeeded; ``failed`` why others
    did not. ``seconds`` is what a suite may take, at ``deadline`` (time.monotonic)
    all is to be over, ``prepare`` is a shell command run before each
    counted start.
    """

    scene: Scene
    contenders: Sequence[Contender]
    once: dict[str, float]
    failed: dict[str, Failure]
    peers: Sequence[Peer] = ()
    runs: int = 60
    warm_up: int = 2
    quick: bool = False
    seconds: float = 600.0
    deadline: float = math.inf
    prepare: str = ""
    tick: Callable[[float], None] = field(default=_ignore)

    def able(self, suite: str) -> list[Contender]:
        """Who takes part in a suite and starts at all."""
        return [c for c in self.contenders if suite in c.rows and c.name in self.once]

    def failures(self, suite: str, quantity: str, unit: str = SECONDS, at: int | None = None
                 ) -> Iterator[Series]:
        """A series without samples for each that failed its trial."""
        for contender in self.contenders:
            if suite in contender.rows and contender.name in self.failed:
                yield series(suite, contender, quantity, unit, self.failed[contender.name], at)

    def rounds(self, contenders: Iterable[Contender], share: float = 1.0) -> Rounds:
        """As many rounds as were asked for and the time allows, but enough for an interval."""
        return self.rounds_of([self.once.get(c.name, 0.005) for c in contenders], share)

    def rounds_of(self, once_each: Sequence[float], share: float = 1.0) -> Rounds:
        """As :meth:`rounds`, for starts that take that many seconds."""
        seconds = self.seconds * share
        fit = int(seconds / max(cost(once_each), 0.001)) - self.warm_up
        return Rounds(max(FEWEST, min(self.runs, fit)), self.warm_up if fit > 10 else 1, seconds,
                      self.deadline, lambda part: self.tick(part * share))

    def is_quick(self, name: str) -> bool:
        """Whether it is started once uncounted before each counted start."""
        return self.once.get(name, 0.0) < QUICK

    def before(self) -> None:
        """Run what ``--prepare`` names, in a shell, as hyperfine does."""
        if self.prepare:
            subprocess.run(["/bin/sh", "-c", self.prepare], check=False, capture_output=True)


def series(suite: str, contender: Contender, quantity: str, unit: str,
           found: Sequence[float] | Failure, at: int | None = None) -> Series:
    """The series of one contender; a failure has a reason and no samples."""
    samples, failure = ((), found.reason) if isinstance(found, Failure) else (
        tuple(round(sample, _DIGITS) for sample in found), "")
    return Series(suite, contender.name, quantity, unit, samples, at, contender.level,
                  contender.note, failure)
