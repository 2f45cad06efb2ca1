"""One writer for each format; all of them write the same ``Report``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hardrun.audit.judge import Unknown
from hardrun.audit.model import SEVERITIES, Finding, Problem, Severity, Subject, worst
from hardrun.audit.rules import Rule


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an audit comes to. ``rules``: those that were asked for; ``findings``: one for each
    cause, the worst first, those that don't count included; ``scores`` by file and subject."""

    rules: tuple[Rule, ...]
    asked: tuple[str, ...]
    subjects: tuple[Subject, ...]
    findings: tuple[Finding, ...]
    unknown: tuple[Unknown, ...]
    problems: tuple[Problem, ...]
    scores: Mapping[tuple[str, str], float]
    files: int
    absent: tuple[str, ...] = ()  # fingerprints of the baseline that are gone
    baseline: bool = False

    @property
    def counting(self) -> tuple[Finding, ...]:
        """Findings that are neither suppressed nor in the baseline."""
        return tuple(f for f in self.findings if f.counts)

    def count(self) -> dict[Severity, int]:
        """How many findings count, by severity, the worst first."""
        return {name: sum(f.severity == name for f in self.counting)
                for name in reversed(SEVERITIES)}

    def fails(self, least: Severity | None) -> bool:
        """Whether something that counts is as bad as ``least``."""
        return least is not None and any(
            worst(f.severity) >= worst(least) for f in self.counting)
