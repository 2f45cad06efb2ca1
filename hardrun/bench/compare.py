"""Two results, of two versions or machines: what became slower, as far as samples show it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hardrun.bench import law
from hardrun.bench.document import Document, Series
from hardrun.bench.law import Interval, Verdict

TOLERANCE = 1.03
"""A ratio as near to 1 as this counts as equal."""
_MORE_IS_BETTER = ("/s", "share")
_COUNTED = ("B", "inodes", "share")
COUNTED_TOLERANCE = 1.1
"""The same for what is counted once, of which there is no interval."""


class Row(NamedTuple):
    """One series that both have. ``ratio`` is the new cost through the old: below 1 is better."""

    old: Series
    new: Series
    ratio: Interval
    verdict: Verdict

    @property
    def regression(self) -> bool:
        """Whether all of the interval lies on the worse side."""
        return self.verdict == "more"


def rows(old: Document, new: Document) -> Iterator[Row]:
    """Every series that both have samples of. What failed in the new one alone is a regression of
    its own: see :func:`lost`."""
    for one in old.series:
        other = new.find(one.suite, one.contender, one.quantity, one.at)
        if not one.samples or other is None:
            continue
        above, below = (one, other) if one.unit in _MORE_IS_BETTER else (other, one)
        ratio = law.ratio(above.samples, below.samples)
        tolerance = TOLERANCE
        if one.unit in _COUNTED:
            ratio, tolerance = Interval(*[ratio.value] * 3), COUNTED_TOLERANCE
        yield Row(one, other, ratio, law.verdict(ratio, tolerance))


def lost(old: Document, new: Document) -> list[Series]:
    """What the old one has samples of and the new one failed at: never to be taken for fast."""
    succeeded = {(s.suite, s.contender, s.quantity, s.at) for s in old.series if s.samples}
    return [s for s in new.series if s.failure and any(
        (s.suite, s.contender) == key[:2] for key in succeeded)]


def lines(old: Document, new: Document) -> list[str]:
    """The table, and what the machines differ in."""
    words = {"less": "less", "more": "MORE", "same": "no difference shown", "noise": "too noisy"}
    found = ["| suite | what | quantity | old | new | ratio | 95 % | |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows(old, new):
        one = row.old
        at = "" if one.at is None else f", {one.at}"
        found.append(
            f"| {one.suite} | {one.contender} | {one.quantity}{at} | {shown(one)} "
            f"| {shown(row.new)} | {row.ratio.value:.3f} | {row.ratio.low:.3f} to "
            f"{row.ratio.high:.3f} | {words[row.verdict]} |")
    found += [f"failed: {one.contender}: {one.failure}" for one in lost(old, new)]
    differing = [f"{name}: {old.machine.get(name, '?')} / {new.machine.get(name, '?')}"
                 for name in sorted({*old.machine, *new.machine})
                 if old.machine.get(name) != new.machine.get(name)
                 and name not in ("date", "load at the start")]
    return found + ([""] if differing else []) + differing


def shown(series: Series) -> str:
    """The median with its unit, as people read it; an upper bound is told as such."""
    if not series.samples:
        return "failed"
    value, unit = series.median, series.unit
    text = f"{value * 1e3:.2f} ms" if unit == "s" else f"{value:.0f} ns" if unit == "ns" else \
        f"{value / 1024:.1f} KiB" if unit == "B" else f"{value:.2f} {unit}"
    return f"at most {text}" if series.limit else text


def regressed(old: Document, new: Document) -> bool:
    """Whether anything is worse beyond its interval, or fails that did not."""
    return any(row.regression for row in rows(old, new)) or bool(lost(old, new))
