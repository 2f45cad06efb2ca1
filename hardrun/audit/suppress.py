"""Suppressions: comments in the file, lists of ignored ids, and those of other tools.

    # hardrun:ignore RULE[,RULE]: reason (until 2027-01-31)
    # hardrun:ignore-file RULE: reason

A comment at the end of a line is about that line, one that stands alone about the next; either
holds for all that the line encloses. Of other tools' the ids are looked up in the catalogue:
``checkov:skip=ID:reason``, annotations ``checkov.io/skipN: ID=reason``, ``trivy:ignore:ID``.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from hardrun.audit.located import At
from hardrun.audit.model import Finding, Place, Problem, Suppression
from hardrun.audit.rules import Rule

_OWN = re.compile(
    r"#\s*hardrun:(ignore|ignore-file)\s+([a-z0-9-]+(?:\s*,\s*[a-z0-9-]+)*)\s*:?\s*(.*)")
_UNTIL = re.compile(r"\(\s*until\s+(\d{4}-\d\d-\d\d)\s*\)")
_CHECKOV = re.compile(r"#\s*checkov:skip=([A-Za-z0-9_]+)(?::(.*))?")
_TRIVY = re.compile(r"#\s*trivy:ignore:([A-Za-z0-9-]+)(?::exp:(\d{4}-\d\d-\d\d))?")
_ANNOTATION = re.compile(r"checkov\.io/skip\d+")
_TRIVY_FILE = re.compile(r"([A-Za-z0-9-]+)(?:\s+exp:(\d{4}-\d\d-\d\d))?\s*(?:#.*)?")
WHOLE_FILE = 0


@dataclass(frozen=True, slots=True)
class Note:
    """One suppression. ``target``: the line it is about, or the whole file. ``foreign``: its ids
    are another tool's. ``until``: the last day on which it holds."""

    file: str
    line: int
    target: int
    ids: frozenset[str]
    reason: str
    until: str = ""
    foreign: bool = False

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.file, self.line, 1, "", (self.line,))


def comments(text: str, file: str) -> list[Note]:
    """Every suppression in the comments of a text."""
    if "hardrun:ignore" not in text and "checkov:skip" not in text and "trivy:ignore" not in text:
        return []
    lines = text.split("\n")
    found: list[Note] = []
    for number, line in enumerate(lines, 1):
        found += _of_line(line, file, number, _target(lines, number))
    return found


def _target(lines: Sequence[str], number: int) -> int:
    """The line that a comment on line ``number`` is about."""
    if not lines[number - 1].lstrip().startswith("#"):
        return number
    for following in range(number, len(lines)):
        stripped = lines[following].strip()
        if stripped and not stripped.startswith("#") and stripped != "---":
            return following + 1
    return number


def _of_line(line: str, file: str, number: int, target: int) -> Iterator[Note]:
    if match := _OWN.search(line):
        until = _UNTIL.search(match[3])
        yield Note(file, number, WHOLE_FILE if match[1] == "ignore-file" else target,
                   frozenset(re.split(r"\s*,\s*", match[2])), _UNTIL.sub("", match[3]).strip(),
                   until[1] if until else "")
    for match in _CHECKOV.finditer(line):  # which means the whole resource
        yield Note(file, number, WHOLE_FILE, frozenset({match[1]}),
                   (match[2] or "").strip() or "no reason given", foreign=True)
    for match in _TRIVY.finditer(line):
        yield Note(file, number, target, frozenset({canonical(match[1])}), "trivy:ignore",
                   match[2] or "", foreign=True)


def of_annotations(document: At) -> Iterator[Note]:
    """checkov's annotations of one object of Kubernetes."""
    for key, value in document.get("metadata", "annotations").items():
        if _ANNOTATION.fullmatch(key):
            name, _, reason = value.text().partition("=")
            yield Note(document.file, value.place.line, document.place.line,
                       frozenset({name.strip()}), reason.strip() or "no reason given",
                       foreign=True)


def trivy_file(text: str, file: str) -> list[Note]:
    """The ids in a .trivyignore."""
    notes = []
    for number, line in enumerate(text.split("\n"), 1):
        match = _TRIVY_FILE.fullmatch(line.strip())
        if match:
            notes.append(Note(file, number, WHOLE_FILE, frozenset({canonical(match[1])}),
                              file, match[2] or "", foreign=True))
    return notes


def canonical(name: str) -> str:
    """KSV012, AVD-KSV-0012 and KSV-0012 are one id."""
    match = re.fullmatch(r"(?:AVD-)?([A-Z]+)-?0*(\d+)", name.upper())
    return f"{match[1]}-{int(match[2]):04d}" if match else name


def apply(findings: Sequence[Finding], notes: Iterable[Note], everywhere: Iterable[Note],
          rules: Sequence[Rule], today: datetime.date,
          whole: Container[str] = ()) -> tuple[list[Finding], list[Problem]]:
    """Findings with what suppresses them, and what is wrong with suppressions.

    One without a reason does not count, nor one that has expired; one of ours that suppresses
    nothing is told. ``everywhere`` hold for every file; what is audited is all that those in a file
    of ``whole`` are for.
    """
    problems: list[Problem] = []
    by_file: dict[str, list[Note]] = {}
    common: list[Note] = []
    known = {rule.id for rule in rules}
    for note, holds_for_all in [*((n, False) for n in notes), *((n, True) for n in everywhere)]:
        wrong = _wrong(note, known, today)
        if wrong:
            problems.append(Problem(note.place, wrong, warning=True))
        elif holds_for_all:
            common.append(note)
        else:
            by_file.setdefault(note.file, []).append(note)
    used: set[Note] = set()
    result = []
    for finding in findings:
        by = next((n for n in [*by_file.get(finding.place.file, ()), *common]
                   if _concerns(n, finding)), None)
        if by is None:
            result.append(finding)
            continue
        used.add(by)
        result.append(replace(finding, suppressed=Suppression(
            "external" if by in common else "inSource", by.reason, f"{by.file}:{by.line}")))
    problems += [Problem(note.place, f"suppresses nothing: {', '.join(sorted(note.ids))}",
                         warning=True)
                 for notes_ in (*by_file.values(), [n for n in common if n.file in whole])
                 for note in notes_ if note not in used and not note.foreign]
    return result, problems


def _wrong(note: Note, known: set[str], today: datetime.date) -> str:
    if note.until:
        try:
            if datetime.date.fromisoformat(note.until) < today:
                return f"the suppression of {', '.join(sorted(note.ids))} expired on {note.until}"
        except ValueError:
            return f"{note.until} is no date"
    if note.foreign:
        return ""
    if unknown := sorted(note.ids - known):
        return f"a suppression of {unknown[0]}, which is no rule"
    return "" if note.reason else f"a suppression of {', '.join(sorted(note.ids))} without a reason"


def _concerns(note: Note, finding: Finding) -> bool:
    names = finding.rule.foreign if note.foreign else {finding.rule.id}
    return bool(note.ids & names) and \
        (note.target == WHOLE_FILE or note.target in finding.place.chain)
