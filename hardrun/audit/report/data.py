"""The reports for programs: JSON of our own, SARIF 2.1.0 and JUnit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape  # its five entities are those of XML
from typing import Any

import hardrun
from hardrun.audit.judge import verdict
from hardrun.audit.model import Finding, Place, Problem
from hardrun.audit.report import Report
from hardrun.audit.rules import Rule
from hardrun.values import printable

SCHEMA_VERSION = 1
# What code scanning takes of one run, and shows of it (GitHub's SARIF support).
MAXIMUM_RESULTS = 25_000
SHOWN_RESULTS = 5_000
_LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "note", "info": "note"}
_SECURITY = {"critical": "9.5", "high": "8.0", "medium": "5.5", "low": "3.0", "info": "0.5"}
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def _document(fields: Mapping[str, Any]) -> str:
    """JSON with a line for each element of a list: indentation costs as much as the audit."""
    parts = []
    for name, value in fields.items():
        text = json.dumps(value) if not isinstance(value, list) or not value else \
            "[\n{}]".format(",\n".join(map(json.dumps, value)))
        parts.append(f"{json.dumps(name)}: {text}")
    return "{" + ",\n".join(parts) + "}"


def as_json(report: Report) -> str:
    """The report as one document of a versioned schema."""
    return _document({
        "schema": "hardrun.audit", "schema_version": SCHEMA_VERSION, "rules": list(report.asked),
        "summary": {"files": report.files, "workloads": len(report.subjects),
                    "findings": report.count(),
                    "suppressed": sum(f.suppressed is not None for f in report.findings),
                    "baseline": sum(f.known for f in report.findings)},
        "findings": [_finding(f) for f in report.findings],
        "workloads": [{"name": s.name, "source": s.source, "file": s.place.file,
                       "line": s.place.line,
                       "exposure": report.scores.get((s.place.file, s.name), 0.0),
                       "unknown": dict(s.unknown)} for s in report.subjects],
        "unknown": [{"rule": u.rule.id, "workload": u.subject.name,
                     "file": u.subject.place.file, "reason": u.reason} for u in report.unknown],
        "problems": [{"file": p.place.file, "line": p.place.line, "column": p.place.column,
                      "message": p.message, "template": p.template, "warning": p.warning}
                     for p in report.problems],
        "absent": list(report.absent),
    })


def _finding(finding: Finding) -> dict[str, Any]:
    place, rule, held = finding.place, finding.rule, finding.suppressed
    return {
        "rule": rule.id, "title": rule.title, "severity": finding.severity,
        "confidence": rule.confidence, "seen": finding.seen, "said": finding.said,
        "source": finding.source, "file": place.file, "line": place.line, "column": place.column,
        "field": place.field, "workloads": list(finding.subjects), "also": list(finding.also),
        "why": rule.why, "fix": rule.fix, "standards": {k: list(v) for k, v in
                                                        rule.standards.items()},
        "fingerprint": finding.fingerprint, "baseline": finding.known,
        "suppressed": {"kind": held.kind, "reason": held.reason, "place": held.place}
        if held else None}


def as_sarif(report: Report) -> str:
    """SARIF 2.1.0 as code scanning reads it: every rule declared, so that alerts close."""
    rules = sorted({f.rule.id: f.rule for f in report.findings}.items() |
                   {rule.id: rule for rule in report.rules}.items())
    index = {name: number for number, (name, _) in enumerate(rules)}
    # The worst first, and what does not count last: it must not take the place of what does.
    told = sorted(report.findings, key=lambda f: not f.counts)[:MAXIMUM_RESULTS]
    notes = [_notification(p) for p in report.problems]
    if cut := truncation(report):
        notes.append({"level": "warning", "message": {"text": cut}})
    run: dict[str, Any] = {
        "tool": {"driver": {
            "name": "hardrun", "semanticVersion": hardrun.__version__,
            "rules": [_rule(rule) for _, rule in rules]}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(f, index, baseline=report.baseline) for f in told],
        "invocations": [{"executionSuccessful": not any(not p.warning and not p.template
                                                        for p in report.problems),
                         "toolExecutionNotifications": notes}],
    }
    head = json.dumps({"$schema": _SCHEMA, "version": "2.1.0"})
    return f'{head[:-1]}, "runs": [\n{_document(run)}\n]}}'


def truncation(report: Report) -> str:
    """What of the findings SARIF does not tell, or code scanning will not show; else nothing."""
    number = len(report.findings)
    if number > MAXIMUM_RESULTS:
        return f"{number} findings, the worst {MAXIMUM_RESULTS} are told; code scanning shows" \
               f" {SHOWN_RESULTS} of them"
    return f"{number} findings; code scanning shows the worst {SHOWN_RESULTS} of them" \
        if number > SHOWN_RESULTS else ""


def _rule(rule: Rule) -> dict[str, Any]:
    tags = ["security", *(f"{name}: {entry}" for name, entries in rule.standards.items()
                          for entry in entries)]
    return {
        "id": rule.id, "name": rule.id, "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why}, "help": {"text": f"{rule.why} {rule.fix}"},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"tags": tags, "security-severity": _SECURITY[rule.severity],
                       "precision": "very-high" if rule.confidence == "certain" else "medium"}}


def _result(finding: Finding, index: dict[str, int], *, baseline: bool) -> dict[str, Any]:
    place = finding.place
    result: dict[str, Any] = {
        "ruleId": finding.rule.id, "ruleIndex": index[finding.rule.id],
        "level": _LEVELS[finding.severity],
        "message": {"text": _literal(f"{finding.rule.title}: {finding.seen} ("
                                     f"{', '.join(finding.subjects[:4])}). {finding.rule.fix}")},
        "locations": [{
            "physicalLocation": _physical(place),
            "logicalLocations": [{"fullyQualifiedName": place.field or finding.group}]}],
        "partialFingerprints": {"primaryLocationLineHash": finding.fingerprint},
        "suppressions": [] if finding.suppressed is None else [
            {"kind": finding.suppressed.kind, "justification": finding.suppressed.reason}],
    }
    if baseline:
        result["baselineState"] = "unchanged" if finding.known else "new"
    return result


def _notification(problem: Problem) -> dict[str, Any]:
    return {"level": "note" if problem.template or problem.warning else "error",
            "message": {"text": _literal(problem.message)},
            "locations": [{"physicalLocation": _physical(problem.place)}]}


def _physical(place: Place) -> dict[str, Any]:
    """Where a finding stands; code scanning wants an end, too, which is that of the key."""
    line, column = max(1, place.line), max(1, place.column)
    key = re.search(r"[\w-]*$", place.field)
    return {"artifactLocation": {"uri": _uri(place.file)},
            "region": {"startLine": line, "startColumn": column, "endLine": line,
                       "endColumn": column + max(1, len(key[0]) if key else 0)}}


def _literal(text: str) -> str:
    """Text in which no name from a file becomes a link (SARIF 2.1.0, 3.11.6)."""
    return re.sub(r"([\\\[\]])", r"\\\1", text)


def _uri(path: str) -> str:
    from urllib.parse import quote

    return quote(path.encode("utf-8", "surrogateescape"), safe="/:._-~")


def as_junit(report: Report) -> str:
    """A test case for each workload and rule, so that what passes shows, too."""
    failing = {(*workload, rule): f for f in report.findings if f.counts
               for workload in f.workloads for rule in (f.rule.id, *f.also)}
    suites = []
    for subject in report.subjects:
        cases = []
        failures = skipped = 0
        for rule in report.rules:
            answer = verdict(rule, subject).answer
            if answer == "absent":
                continue
            head = f"    <testcase classname={_attribute(subject.name)} name={_attribute(rule.id)}"
            found = failing.get((subject.place.file, subject.name, rule.id))
            if answer == "fails" and found is not None:
                failures += 1
                text = f"{found.place}: {found.seen}\n{rule.why}\n{rule.fix}"
                cases.append(f"{head}><failure type={_attribute(found.severity)} message="
                             f"{_attribute(rule.title)}>{_escaped(text)}</failure></testcase>")
            elif answer in ("unknown", "fails"):
                skipped += 1
                why = "not known" if answer == "unknown" else "suppressed"
                cases.append(f"{head}><skipped message={_attribute(why)}/></testcase>")
            else:
                cases.append(f"{head}/>")
        suites += [f"  <testsuite name={_attribute(f'{subject.place.file} {subject.name}')}"
                   f" tests=\"{len(cases)}\" failures=\"{failures}\" skipped=\"{skipped}\">",
                   *cases, "  </testsuite>"]
    suites += _unread(report)
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', '<testsuites name="hardrun audit">',
                      *suites, "</testsuites>"])


def _unread(report: Report) -> list[str]:
    problems = [p for p in report.problems if not p.warning]
    if not problems:
        return []
    cases = [f"    <testcase classname=\"files\" name={_attribute(str(p.place))}>"
             + (f"<skipped message={_attribute(p.message)}/>" if p.template else
                f"<error message={_attribute(p.message)}/>") + "</testcase>" for p in problems]
    errors = sum(not p.template for p in problems)
    return [f"  <testsuite name=\"not audited\" tests=\"{len(cases)}\" errors=\"{errors}\">",
            *cases, "  </testsuite>"]


def _attribute(text: str) -> str:
    return f'"{escape(printable(text))}"'


def _escaped(text: str) -> str:
    return escape("\n".join(printable(line) for line in text.split("\n")))
