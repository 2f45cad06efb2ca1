"""Results for people: Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hardrun.bench import disk, io, ladder, law, memory, musts, ours, scale, startup, syscall
from hardrun.bench.compare import shown
from hardrun.bench.contender import LEVELS
from hardrun.bench.document import Document, Series

_SAID = 100  # characters of a failure in the terminal; the page has all of it
_AGAINST = ("bwrap L1", "runc L1")


def markdown(document: Document) -> str:
    """The whole page."""
    parts = [_head(document), _levels(), _startup(document), _layers(document),
             _disk(document),
             _table(document, "memory", "Memory that stays for one that sleeps",
                    memory.PROPORTIONAL),
             _table(document, "syscall", "One system call", "medians"),
             _scale(document), _table(document, "io", "Files", "one operation"),
             _musts(document), _missing(document)]
    return "\n".join(line for part in parts for line in part)


def _cell(text: str) -> str:
    """What a runtime said, in a cell of a table."""
    return " ".join(text.replace("|", "/").split())


def _head(document: Document) -> Iterator[str]:
    yield from ("# What isolation costs", "")
    yield ("Medians; where 95 % of a ratio lies is from 2,000 bootstrap samples. Written by "
           "`hardrun bench`; docs/bench.md says how it measures.")
    yield ""
    yield from ("| machine | |", "| --- | --- |")
    yield from (f"| {name} | {value} |" for name, value in document.machine.items())
    yield ""


def _levels() -> Iterator[str]:
    yield from ("| level | isolation |", "| --- | --- |")
    yield from (f"| {level or 'none'} | {meaning} |" for level, meaning in LEVELS.items())
    yield ""


def _percentiles(series: Series) -> str:
    return f"{law.percentile(series.samples, 95) * 1e3:.2f} ms"


def _against(series: Series, other: Series | None) -> str:
    if other is None or not series.samples:
        return ""
    ratio = law.ratio(series.samples, other.samples, paired=True)
    noisy = " (too noisy)" if ratio.noisy else ""
    return f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f}){noisy}"


def _startup(document: Document) -> Iterator[str]:
    for quantity in dict.fromkeys(s.quantity for s in document.of("startup")):
        series = document.of("startup", quantity)
        yield from (f"## Startup: {quantity}", "")
        yield from (f"| started by | level | median | 95th percentile | {' | '.join(_AGAINST)} | |",
                    "| --- | --- | --- | --- | --- | --- | --- |")
        others = [document.find("startup", name, quantity) for name in _AGAINST]
        for one in sorted(series, key=lambda s: s.median if s.samples else float("inf")):
            if not one.samples:
                yield f"| {one.contender} | {one.level} | failed | | | | {_cell(one.failure)} |"
                continue
            ratios = " | ".join(_against(one, other) for other in others)
            yield (f"| {one.contender} | {one.level} | {shown(one)} | {_percentiles(one)} "
                   f"| {ratios} | {one.note} |")
        yield ""


def _layers(document: Document) -> Iterator[str]:
    found = [s for s in document.of("layers") if s.samples]
    if not found:
        return
    yield from ("## Layer after layer", "", "| with | median | adds |", "| --- | --- | --- |")
    before = 0.0
    for one in found:
        name = one.contender.removeprefix(ladder.STEP)
        base = document.find("layers", f"{ladder.VARIANT}none of these", startup.LAYERS)
        if one.contender.startswith(ladder.VARIANT) and base is not None:
            before = base.median if one is not base else one.median
        elif one.contender == ours.PLAIN:
            before = 0.0
        yield f"| {name} | {shown(one)} | {(one.median - before) * 1e3:+.2f} ms |"
        before = one.median
    yield ""


def _table(document: Document, suite: str, title: str, what: str) -> Iterator[str]:
    series = document.of(suite)
    if not series:
        return
    columns = list(dict.fromkeys((s.quantity, s.at) for s in series))
    heads = [q if at is None else f"{q}, {at}" for q, at in columns]
    yield from (f"## {title}", "", f"{what[:1].upper()}{what[1:]}.", "")
    yield f"| | level | {' | '.join(heads)} | |"
    yield "| --- " * (len(columns) + 3) + "|"
    for name in dict.fromkeys(s.contender for s in series):
        own = [s for s in series if s.contender == name]
        cells = [next((shown(s) for s in own if (s.quantity, s.at) == c), "") for c in columns]
        failure = next((s.failure for s in own if s.failure), "")
        yield f"| {name} | {own[0].level} | {' | '.join(cells)} | {_cell(failure or own[0].note)} |"
    yield ""


def _disk(document: Document) -> Iterator[str]:
    series = document.of("disk")
    if not series:
        return
    yield from ("## One more container on disk", "", "Allocated bytes and inodes of each of so "
                "many; the reference point is the 12 KiB that a new Docker container takes.", "",
                f"| | level | how many | {' | '.join(disk.STATES)} | |",
                "| --- " * (len(disk.STATES) + 4) + "|")
    for name, at in dict.fromkeys((s.contender, s.at) for s in series):
        own = {s.quantity: s for s in series if (s.contender, s.at) == (name, at)}
        cells = []
        for state in disk.STATES:
            size, inodes = own.get(state), own.get(f"{state}, inodes")
            cells.append("" if size is None else shown(size) if inodes is None else
                         f"{shown(size)}, {inodes.median:.1f} inodes")
        one = next(iter(own.values()))
        yield (f"| {name} | {one.level} | {at} | {' | '.join(cells)} "
               f"| {_cell(next((s.failure for s in own.values() if s.failure), one.note))} |")
    yield ""


def _scale(document: Document) -> Iterator[str]:
    sequences = [s for s in document.of("scale", scale.IN_SEQUENCE) if s.samples]
    if not sequences:
        return
    yield from ("## Many starts", "", "| in sequence | count | median | first tenth | last tenth "
                "| last through first |", "| --- | --- | --- | --- | --- | --- |")
    for one in sequences:
        edge = max(1, len(one.samples) // 10)
        first, last = one.samples[:edge], one.samples[-edge:]
        ratio = law.ratio(last, first)
        yield (f"| {one.contender} | {one.at} | {shown(one)} | {law.median(first) * 1e3:.2f} ms "
               f"| {law.median(last) * 1e3:.2f} ms | {ratio.value:.2f} ({ratio.low:.2f} to "
               f"{ratio.high:.2f}) |")
    rates = [s for s in document.of("scale", scale.THROUGHPUT) if s.samples]
    counts = sorted({s.at or 0 for s in rates})
    if not rates:
        return
    yield from ("", f"| starts a second | {' | '.join(f'{n} at once' for n in counts)} "
                f"| 50, 95, 99 % at {counts[-1]} |", "| --- " * (len(counts) + 2) + "|")
    for name in dict.fromkeys(s.contender for s in rates):
        own = [document.find("scale", name, scale.THROUGHPUT, n) for n in counts]
        late = document.find("scale", name, scale.LATENCY, counts[-1])
        spread = "" if late is None else ", ".join(
            f"{law.percentile(late.samples, p) * 1e3:.1f} ms" for p in (50, 95, 99))
        cells = " | ".join(f"{r.median:.0f}" if r else "failed" for r in own)
        yield f"| {name} | {cells} | {spread} |"
    yield ""


def _musts(document: Document) -> Iterator[str]:
    if {s.suite for s in document.series} >= set(musts.SUITES):
        yield from ("## What must hold", "", *musts.lines(musts.rows(document)), "")


def _missing(document: Document) -> Iterator[str]:
    absent = [peer for peer in document.peers if not peer.version]
    present = [f"{peer.name} {peer.version}" for peer in document.peers if peer.version]
    yield from ("## Runtimes", "", f"Measured: {', '.join(present) or 'none'}.", "")
    yield from (f"* not installed: {peer.name} ({peer.install})" for peer in absent)
    yield ""


def summary(document: Document) -> Sequence[str]:
    """A few lines for the terminal: the medians of what was measured first."""
    found = []
    bwrap = document.find("startup", "bwrap L1", startup.EXIT)
    for one in document.of("startup", startup.EXIT):
        text = f"failed: {one.failure[:_SAID]}" if one.failure else shown(one)
        ratio = _against(one, bwrap)
        found.append(f"{one.contender:32} {one.level:7} {text:>10}"
                     f"{f'   {ratio} of bwrap' if ratio else ''}")
    for one in document.of("layers"):
        if one.samples:
            found.append(f"{one.contender.removeprefix(ladder.STEP):52} layers {shown(one):>10}")
    for suite in (disk.__name__, memory.__name__, syscall.__name__, io.__name__):
        name = suite.rpartition(".")[2]
        for one in document.of(name):
            wanted = one.contender.startswith(("hardrun", ours.PLAIN))
            if one.samples and wanted and ", " not in one.quantity:
                at = "" if one.at is None else f" at {one.at}"
                found.append(f"{one.contender:32} {name:7} {shown(one):>10}   {one.quantity}{at}")
    for one in document.of("scale", scale.THROUGHPUT):
        if one.samples:
            found.append(f"{one.contender:32} scale   {one.median:>8.0f}/s   {one.at} at once")
    return found
