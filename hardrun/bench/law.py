"""Numbers from samples: pure functions, the same answer every time for the same samples.

Medians, since a disturbed start is only ever slower; intervals by the bootstrap (Efron, 1979),
since start times follow no law that one could assume.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

RESAMPLED = 2000
CONFIDENCE = 0.95
NOISE = 1.25
"""An interval of a ratio that is wider than this, high against low, shows nothing."""

FEWEST = 5
"""Fewer samples show nothing: their interval is everything."""

Verdict = Literal["less", "more", "same", "noise"]


class Interval(NamedTuple):
    """A value and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float

    @property
    def noisy(self) -> bool:
        """Whether it is too wide for a conclusion."""
        return not self.low > 0 or self.high / self.low > NOISE


def median(samples: Sequence[float]) -> float:
    """The median of at least one sample, in the samples' unit."""
    return percentile(samples, 50)


def percentile(samples: Sequence[float], percent: float) -> float:
    """Linear between the two nearest samples, as numpy's default. Raises ValueError for none."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _bootstrap(statistic: Callable[[random.Random], float], value: float, count: int) -> Interval:
    if count < FEWEST:
        return Interval(value, 0.0, math.inf)
    generator = random.Random(len("hardrun"))  # nosec B311 - resampling, and the same every time
    found = sorted(statistic(generator) for _ in range(RESAMPLED))
    cut = (1 - CONFIDENCE) / 2 * 100
    return Interval(value, percentile(found, cut), percentile(found, 100 - cut))


def median_interval(samples: Sequence[float]) -> Interval:
    """The median and its interval."""
    return _bootstrap(lambda g: median(g.choices(samples, k=len(samples))), median(samples),
                      len(samples))


def _quotient(above: float, below: float) -> float:
    return above / below if below else math.inf if above else 1.0


def ratio(ours: Sequence[float], theirs: Sequence[float], *, paired: bool = False) -> Interval:
    """The ratio of the medians, ours through theirs.

    ``paired``: sample N of both is from round N, so whole rounds are resampled; what disturbed a
    round disturbed both.
    """
    value = _quotient(median(ours), median(theirs))
    if paired and len(ours) == len(theirs):
        rounds = list(zip(ours, theirs, strict=True))

        def of_rounds(generator: random.Random) -> float:
            ours, theirs = zip(*generator.choices(rounds, k=len(rounds)), strict=True)
            return _quotient(median(ours), median(theirs))
        return _bootstrap(of_rounds, value, len(rounds))
    return _bootstrap(lambda g: _quotient(median(g.choices(ours, k=len(ours))),
                                          median(g.choices(theirs, k=len(theirs)))), value,
                      min(len(ours), len(theirs)))


def verdict(interval: Interval, tolerance: float = 1.0) -> Verdict:
    """What the interval of a ratio shows: ``less`` or ``more`` only where all of it does.

    ``tolerance`` is how far from 1 counts as equal, such as 1.03.
    """
    if interval.low > tolerance:
        return "more"
    if interval.high < 1 / tolerance:
        return "less"
    return "noise" if interval.noisy else "same"
