"""How exposed a workload is, from 0 to 10.

Each finding leaves (1 - weight) of what is still held: with the weights below, one way out that is
certain is 9.0 and ten small things are not. That is other than a sum: one setting that switches
everything off can't be outweighed by many that are fine. Every rule counts, whatever was asked
for, so that scores can be compared; what is suppressed or in a baseline counts as well, since the
exposure is there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from hardrun.audit.model import Finding, Severity, Subject

WEIGHTS: Mapping[Severity, float] = {
    "critical": 0.9, "high": 0.6, "medium": 0.2, "low": 0.05, "info": 0.01}
LIKELY = 0.5
"""What a finding that is likely and not certain counts."""
_WORDS = ((9.0, "open"), (6.0, "exposed"), (3.0, "medium"), (1.0, "low"), (0.0, "held"))


def score(findings: Iterable[Finding]) -> float:
    """The exposure that findings of one workload come to, with one decimal, rounded up."""
    held = 1.0
    for finding in findings:
        weight = WEIGHTS[finding.severity]
        held *= 1 - (weight if finding.rule.confidence == "certain" else weight * LIKELY)
    return math.ceil(round((1 - held) * 100, 6)) / 10


def scores(subjects: Sequence[Subject],
           findings: Sequence[Finding]) -> dict[tuple[str, str], float]:
    """The score of each subject by its file and name; ``findings`` one for each cause."""
    of: dict[tuple[str, str], list[Finding]] = {
        (s.place.file, s.name): [] for s in subjects}
    for finding in findings:
        for workload in finding.workloads:
            of.setdefault(workload, []).append(finding)
    return {key: score(found) for key, found in of.items()}


def word(value: float) -> str:
    """A score in a word."""
    return next(text for least, text in _WORDS if value >= least)
