"""Rules and subjects to findings: one for each cause, the worst first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from hardrun.audit.model import Finding, Place, Seen, Severity, Subject, worst
from hardrun.audit.rules import Rule, Test

Answer = Literal["fails", "passes", "unknown", "absent"]


class Unknown(NamedTuple):
    """A rule that a source gives no answer to, and why."""

    rule: Rule
    subject: Subject
    reason: str


class Verdict(NamedTuple):
    """What one rule comes to for one subject. ``absent``: it does not occur there."""

    answer: Answer
    findings: tuple[Finding, ...] = ()
    reason: str = ""


def verdict(rule: Rule, subject: Subject) -> Verdict:
    """Judge one subject by one rule."""
    if subject.source not in rule.occurs:
        return Verdict("absent")
    if rule.unless and all(_holds(test, subject) for test in rule.unless):
        return Verdict("passes")
    answer: Answer = "absent"
    reason = ""
    found: list[Finding] = []
    for test in rule.tests:
        name = test.control.place
        seen = subject.values.get(name)
        if seen is not None:
            failed = list(_failures(rule, test, seen, subject))
            found += failed
            answer = "fails" if found else "passes" if answer != "unknown" else answer
        elif name in subject.unknown:
            reason = subject.unknown[name]
            answer = "fails" if found else "unknown"
    return Verdict(answer, tuple(found), reason)


def _holds(test: Test, subject: Subject) -> bool:
    seen = subject.values.get(test.control.place)
    return seen is not None and not test.fails(seen.value)


def _failures(rule: Rule, test: Test, seen: Seen, subject: Subject) -> Iterator[Finding]:
    if not test.fails(seen.value):
        return
    by_place: dict[tuple[Place, bool], list[Any]] = {}
    for element in test.culprits(seen.value):
        place = seen.elements.get(element, seen.place)
        by_place.setdefault((place, seen.said or element in seen.elements), []).append(element)
    title = test.control.title
    if not by_place:
        yield _finding(rule, subject, f"{title}: {test.control.show(seen.value)}", seen.place,
                       said=seen.said)
    for (place, said), elements in by_place.items():
        shown = test.control.show(frozenset(elements))
        yield _finding(rule, subject, f"{title}: {shown}", place, said=said)


def _finding(rule: Rule, subject: Subject, seen: str, place: Place, *, said: bool) -> Finding:
    return Finding(rule, rule.severity if said else rule.absent, place, seen, said, subject.source,
                   subject.group, (subject.name,), (subject.place.file,))


class Judged(NamedTuple):
    """Every rule that fails for every subject, and what could not be known."""

    findings: tuple[Finding, ...]
    unknown: tuple[Unknown, ...]


def judge(subjects: Iterable[Subject], rules: Sequence[Rule]) -> Judged:
    """Judge subjects by rules."""
    found: list[Finding] = []
    unknown: list[Unknown] = []
    for subject in subjects:
        for rule in rules:
            outcome = verdict(rule, subject)
            found += outcome.findings
            if outcome.answer == "unknown":
                unknown.append(Unknown(rule, subject, outcome.reason))
    return Judged(tuple(found), tuple(unknown))


def causes(found: Sequence[Finding],
           severities: Mapping[str, Severity] | None = None) -> tuple[Finding, ...]:
    """One finding for each cause, the worst first; ``severities`` are somebody's own, by the id of
    the rule that is told."""
    single = _by_cause(_together(found))
    if severities:
        single = [replace(f, severity=severities.get(f.rule.id, f.severity)) for f in single]
    return tuple(sorted(single, key=_order))


def _order(finding: Finding) -> tuple[Any, ...]:
    place = finding.place
    return (-worst(finding.severity), finding.rule.confidence != "certain", place.file, place.line,
            place.column, finding.rule.rank, place.field)


def _together(found: Sequence[Finding]) -> list[Finding]:
    """The same rule broken by the same cause, or by the same default of one pod, is one finding."""
    merged: dict[tuple[Any, ...], Finding] = {}
    for finding in found:
        key: tuple[Any, ...] = (finding.rule.id, finding.place, finding.seen) if finding.said else \
            (finding.rule.id, finding.place.file, finding.group, finding.seen)
        first = merged.get(key)
        if first is None:
            merged[key] = finding
        elif finding.workloads[0] not in first.workloads:
            merged[key] = replace(first, subjects=first.subjects + finding.subjects,
                                  homes=first.homes + finding.homes)
    return list(merged.values())


def _by_cause(found: Sequence[Finding]) -> list[Finding]:
    """Of what one field says, or leaves out, the worst finding and the other rules that it breaks.

    ``privileged: true`` breaks a dozen rules; what has to be mended is one line.
    """
    groups: dict[tuple[Place, bool], list[Finding]] = {}
    for finding in found:
        key = finding.place, finding.said
        groups.setdefault(key, []).append(finding)
    result = []
    for group in groups.values():
        first, *others = sorted(group, key=_order)
        also = tuple(dict.fromkeys(f.rule.id for f in others if f.rule.id != first.rule.id))
        result.append(replace(first, also=also))
    return result
