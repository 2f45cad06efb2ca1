"""What hardrun must reach, and whether it does: ratios of medians of one interleaved run.

Where the kernel is the limit, a start-up row also holds within ``NEAR`` of the floor: what a C
program that makes the necessary system calls alone takes, measured in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hardrun.bench import disk, law, memory, ours, scale, startup, syscall, warm
from hardrun.bench.document import Document, Series
from hardrun.bench.law import Interval

NEAR = 1.15
_MEMORY, _SERVED = 150e3, 0.015  # bytes, seconds
_EDGE = 100
"""How many of the first and last starts are compared."""
HOLDS, FAILS, NOISY, NOT_BUILT, NOT_MEASURED = (
    "holds", "does not hold", "too noisy", "not built yet", "not measured here")


class Must(NamedTuple):
    """One row of the table. ``measure`` finds the ratio in the results; None: not measured.

    ``built`` says whether this hardrun has what the row is about; ``floored`` whether the kernel
    may be the limit; ``at_least`` that more is better.
    """

    what: str
    against: str
    must: float
    aim: float
    measure: Callable[[Document], Interval | None]
    built: Callable[[Document], bool] = lambda _: True
    floored: Callable[[Document], Interval | None] = lambda _: None
    at_least: bool = False


class Row(NamedTuple):
    """A must, what was measured and what that means."""

    must: Must
    ratio: Interval | None
    state: str
    note: str = ""


def _quotient(ours: Series | None, theirs: Series | None) -> Interval | None:
    if ours is None or theirs is None:
        return None
    return law.ratio(ours.samples, theirs.samples, paired=True)


def _startup(name: str, other: str, quantities: Sequence[str] = (startup.EXIT,)
             ) -> Callable[[Document], Interval | None]:
    """The first of the quantities in which both were measured."""
    def find(document: Document) -> Interval | None:
        for quantity in quantities:
            found = _quotient(document.find("startup", name, quantity),
                              document.find("startup", other, quantity))
            if found:
                return found
        return None
    return find


def _greatest(document: Document, suite: str, name: str, quantity: str) -> Series | None:
    """The series at the greatest count."""
    found = [s for s in document.of(suite, quantity) if s.contender.startswith(name) and s.samples]
    return max(found, key=lambda s: s.at or 0, default=None)


def _share(series: Series | None, of: float) -> Interval | None:
    if series is None:
        return None
    value = series.median / of
    return Interval(value, value, value)


def _disk(kinds: Sequence[str], *states: str) -> Callable[[Document], Interval | None]:
    """The worst of all kinds and states, of each the greatest count."""
    def find(document: Document) -> Interval | None:
        found = [_share(_greatest(document, "disk", kind, f"{state}, {disk.ONE_MORE}")
                        or _greatest(document, "disk", kind, state), disk.REFERENCE)
                 for kind in kinds for state in states]
        return max((one for one in found if one), default=None)
    return find


def _memory(document: Document) -> Interval | None:
    return _share(_greatest(document, "memory", ours.COMPILED, memory.PROPORTIONAL), _MEMORY)


def _memory_of_podman(document: Document) -> Interval | None:
    """At the greatest count that both were measured at: what is shared weighs less the more."""
    found = [s for s in document.of("memory", memory.PROPORTIONAL)
             if s.contender.startswith("podman") and s.samples]
    for podman in sorted(found, key=lambda s: -(s.at or 0)):
        own = document.find("memory", ours.COMPILED, memory.PROPORTIONAL, podman.at)
        if own is not None:
            return _share(own, podman.median)
    return None


def _flat(document: Document) -> Interval | None:
    """The last starts of a sequence against the first."""
    found = _greatest(document, "scale", ours.COMPILED, scale.IN_SEQUENCE)
    if found is None:
        return None
    edge = min(_EDGE, len(found.samples) // 4)
    return law.ratio(found.samples[-edge:], found.samples[:edge])


def _throughput(document: Document) -> Interval | None:
    return _quotient(document.find("scale", ours.COMPILED, scale.THROUGHPUT, 2),
                     document.find("scale", "bwrap L1", scale.THROUGHPUT, 2))


def _has(suite: str, name: str) -> Callable[[Document], bool]:
    return lambda document: any(s.contender.startswith(name) for s in document.of(suite))


def _native(document: Document) -> bool:
    """Whether ``hardrun`` is a native program, that needs no interpreter for a cached plan."""
    del document
    with Path(ours.program()[0]).open("rb") as file:
        return file.read(4) == b"\x7fELF"


_KINDS = ("hardrun create, ephemeral", "hardrun create, persistent")
_BOTH = (startup.EXIT, startup.UNIFIED)
_WHOLE = "compiled plan, policy untrusted, start to exit"
MUSTS = (
    Must(_WHOLE, "runc run with a network namespace", 0.12, 0.09,
         _startup(ours.COMPILED, "runc L1"), floored=_startup(ours.COMPILED, ours.FLOOR)),
    Must(_WHOLE, "crun run with a network namespace", 0.30, 0.22,
         _startup(ours.COMPILED, "crun L1", _BOTH), floored=_startup(ours.COMPILED, ours.FLOOR)),
    Must(_WHOLE, "bwrap, same namespaces, no filter", 0.67, 0.55,
         _startup(ours.COMPILED, "bwrap L1"), floored=_startup(ours.COMPILED, ours.FLOOR)),
    Must(f"{_WHOLE}, 200 more mounts", "bwrap, the same", 0.30, 0.25,
         _startup(ours.COMPILED, "bwrap L1", (startup.CROWDED,)),
         floored=_startup(ours.COMPILED, ours.FLOOR, (startup.CROWDED,))),
    Must("hardrun run, request seen before", "bwrap, the same", 0.75, 0.60,
         _startup(ours.CACHED, "bwrap L1"), built=_native,
         floored=_startup(ours.CACHED, ours.FLOOR)),
    Must("hardrun run, new, decided by the service", "15 ms", 1.0, 1.0,
         lambda d: _share(d.find("startup", ours.SERVED, startup.EXIT), _SERVED),
         built=_has("startup", ours.SERVED)),
    Must("warm pool, request to reaped", "fork + exec, both from C", 2.0, 1.5,
         _startup(warm.POOL, warm.PLAIN), built=_has("startup", ours.POOL),
         floored=_startup(warm.POOL, warm.FLOOR)),
    Must("one more container, created or stopped", "12 kB", 0.2, 0.1,
         _disk(_KINDS, "created", "stopped"), built=_has("disk", "hardrun create")),
    Must("one more container, running, persistent", "12 kB", 1.1, 1.1,
         _disk(_KINDS[1:], "running"), built=_has("disk", "hardrun create")),
    Must("one more container, running, ephemeral", "12 kB", 0.0, 0.0,
         _disk(_KINDS[:1], "running"), built=_has("disk", "hardrun create")),
    Must("memory that stays for one that sleeps", "150 kB", 1.0, 0.67, _memory),
    Must("memory that stays for one that sleeps", "podman (conmon)", 0.2, 0.1, _memory_of_podman),
    Must("getpid under untrusted", "a filter that allows all", 1.05, 1.0, lambda d: _quotient(
        d.find("syscall", ours.COMPILED, "getpid"),
        d.find("syscall", syscall.ALLOWS_ALL, "getpid"))),
    Must("starts in sequence, the last 100", "the first 100", 1.1, 1.0, _flat),
    Must("throughput, 2 at a time", "bwrap, the same", 1.4, 2.0, _throughput, at_least=True),
)
SUITES = ("startup", "disk", "memory", "syscall", "scale")
PEERS = ("runc", "crun", "bwrap", "podman")


def judge(must: Must, document: Document) -> Row:
    """Whether one row holds: the median does, and its interval is narrow enough to tell."""
    ratio = must.measure(document)
    if not must.built(document):
        return Row(must, ratio, NOT_BUILT)
    if ratio is None:
        return Row(must, ratio, NOT_MEASURED)
    value, worst, best = (-ratio.value, -ratio.low, -ratio.high) if must.at_least else (
        ratio.value, ratio.high, ratio.low)
    limit = -must.must if must.at_least else must.must
    if worst <= limit or (value <= limit and not ratio.noisy):
        return Row(must, ratio, HOLDS)
    floor = must.floored(document)
    if floor is not None and floor.value <= NEAR and not floor.noisy:
        return Row(must, ratio, HOLDS, f"within {floor.value:.2f} of the kernel's floor")
    note = f"{floor.value:.2f} of the kernel's floor" if floor else ""
    return Row(must, ratio, NOISY if best <= limit and ratio.noisy else FAILS, note)


def rows(document: Document) -> list[Row]:
    """Every row of the table."""
    return [judge(must, document) for must in MUSTS]


def lines(found: Sequence[Row]) -> Iterator[str]:
    """The table in Markdown."""
    yield "| | against | measured | 95 % | must | aim | |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row in found:
        measured, between = ("", "") if row.ratio is None else (
            f"{row.ratio.value:.3f}", f"{row.ratio.low:.3f} to {row.ratio.high:.3f}")
        sign = "≥" if row.must.at_least else "≤"
        yield (f"| {row.must.what} | {row.must.against} | {measured} | {between} "
               f"| {sign} {row.must.must:g} | {row.must.aim:g} "
               f"| {row.state}{': ' if row.note else ''}{row.note} |")


def holds(found: Sequence[Row]) -> bool:
    """Whether every row was shown to hold."""
    return all(row.state == HOLDS for row in found)
