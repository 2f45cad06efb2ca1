"""The report for people: the worst first, one line for each finding, colours on a terminal."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Sequence
from typing import IO

from hardrun.audit.model import SEVERITIES, Finding
from hardrun.audit.report import Report
from hardrun.audit.score import word
from hardrun.values import printable

_COLOURS = {"critical": "1;37;41", "high": "1;31", "medium": "33", "low": "36", "info": "2"}
_SHOWN_SUBJECTS = 2
_SHOWN_ALSO = 3
_WIDEST = 90
_NARROW = 30  # columns, below which nothing is gained by a cut
_SHOWN_SCORES = 20
_BAR = 10


def coloured(stream: IO[str]) -> bool:
    """Whether colours belong there: a terminal, and NO_COLOR (no-color.org) is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class _Paint:
    def __init__(self, *, on: bool) -> None:
        self.on = on

    def __call__(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.on else text


def lines(report: Report, *, colours: bool = False, suppressed: bool = False,
          quiet: bool = False, width: int = 0) -> Iterator[str]:
    """The report, line by line. ``suppressed``: what does not count is listed, too. ``width``: the
    columns of a terminal, at which findings are cut; 0 for none."""
    paint = _Paint(on=colours)
    shown = report.findings if suppressed else report.counting
    yield from _findings(shown, paint, width)
    problems = [p for p in report.problems if not p.warning]
    if problems:
        yield from (paint("not audited", "1"),
                    *(f"  {printable(f'{p.place}  {p.message}')}" for p in problems), "")
    warnings = [p for p in report.problems if p.warning]
    if warnings:
        yield from (paint("suppressions", "1"),
                    *(f"  {printable(f'{p.place}  {p.message}')}" for p in warnings), "")
    if not quiet:
        yield from _unknown(report, paint)
        yield from _scores(report, paint)
    yield from _summary(report, paint)


def _findings(found: Sequence[Finding], paint: _Paint, width: int) -> Iterator[str]:
    places = max((len(printable(str(f.place))) for f in found), default=0)
    places = min(places, 48)
    names = max((len(f.rule.id) for f in found), default=0)
    used = places + names + 6 if width else 0
    for severity in reversed(SEVERITIES):
        group = [f for f in found if f.severity == severity]
        if group:
            yield f"{paint(f' {severity} ', _COLOURS[severity])} {len(group)}"
        for finding in group:
            place = printable(str(finding.place)).ljust(places)
            rule = paint(finding.rule.id.ljust(names), "1")
            yield f"  {place}  {rule}  {_cut(printable(_sentence(finding)), width - used)}"
        if group:
            yield ""


def _cut(text: str, width: int) -> str:
    return text if width < _NARROW or len(text) <= width else text[:width - 1] + "…"


def _sentence(finding: Finding) -> str:
    first = list(finding.subjects[:_SHOWN_SUBJECTS])
    more = len(finding.subjects) - len(first)
    where = ", ".join(first) + (f" and {more} more" if more else "")
    others = finding.also[:_SHOWN_ALSO] + (
        (f"{len(finding.also) - _SHOWN_ALSO} more",) if len(finding.also) > _SHOWN_ALSO else ())
    also = f"; also {', '.join(others)}" if others else ""
    likely = " (likely)" if finding.rule.confidence != "certain" else ""
    held = ""
    if finding.suppressed:
        held = f"  suppressed: {finding.suppressed.reason} ({finding.suppressed.place})"
    elif finding.known:
        held = "  in the baseline"
    seen = textwrap.shorten(finding.seen, _WIDEST, placeholder=" …")
    return f"{where}: {finding.rule.title}{likely} · {seen}{also}{held}"


def _unknown(report: Report, paint: _Paint) -> Iterator[str]:
    """What no answer was found to: it is not fine, and not a finding."""
    together: dict[tuple[str, str], int] = {}
    for entry in report.unknown:
        key = entry.rule.id, entry.reason
        together[key] = together.get(key, 0) + 1
    if together:
        yield paint("not known", "1")
        width = max(len(name) for name, _ in together)
        for (name, reason), number in sorted(together.items()):
            yield f"  {name.ljust(width)}  {_number(number, 'workload')}: {printable(reason)}"
        yield ""


def _scores(report: Report, paint: _Paint) -> Iterator[str]:
    ranked = sorted(report.scores.items(), key=lambda item: (-item[1], item[0]))
    if not ranked:
        return
    yield paint("exposure", "1")
    width = min(max(len(printable(name)) for (_, name), _ in ranked[:_SHOWN_SCORES]), 44)
    for (file, name), value in ranked[:_SHOWN_SCORES]:
        filled = round(value)
        code = _COLOURS["high" if value >= 6 else "medium" if value >= 3 else "low"]
        bar = paint("█" * filled, code) + "░" * (_BAR - filled)
        yield (f"  {printable(name).ljust(width)}  {value:4.1f}  {bar}  {word(value).ljust(8)}"
               f"{printable(file)}").rstrip()
    if len(ranked) > _SHOWN_SCORES:
        yield f"  … and {len(ranked) - _SHOWN_SCORES} more"
    yield ""


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _summary(report: Report, paint: _Paint) -> Iterator[str]:
    counts = [f"{number} {name}" for name, number in report.count().items() if number]
    total = len(report.counting)
    head = _number(total, "finding") + (f" ({', '.join(counts)})" if counts else "")
    held = sum(f.suppressed is not None for f in report.findings)
    known = sum(f.known and f.suppressed is None for f in report.findings)
    parts = [paint(head, "1"), _number(len(report.subjects), "workload"),
             _number(report.files, "file")]
    parts += [f"{held} suppressed"] if held else []
    parts += [f"{known} in the baseline"] if known else []
    parts += [f"{len(report.unknown)} answers not known"] if report.unknown else []
    missed = sum(not p.warning for p in report.problems)
    parts += [f"{missed} not audited"] if missed else []
    yield ", ".join(parts)
    yield f"rules: {', '.join(report.asked)}; hardrun audit --explain RULE says why and what to do"
