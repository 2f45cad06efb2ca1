"""Every rule: an example that fails and one that passes in every source where it can occur."""

from __future__ import annotations

from typing import cast

import pytest

from hardrun.audit import judge
from hardrun.audit.model import SOURCES, Source
from hardrun.audit.rules import catalogue
from tests.audit import examples

RULES = {rule.id: rule for rule in catalogue()}
FILES = tuple(source for source in SOURCES if source != "process")
PAIRS = [(source, name) for source in FILES for name in examples.failing(source)]


@pytest.mark.parametrize("source", FILES)
def test_there_is_a_failing_example_for_each_rule_that_can_occur(source: Source) -> None:
    assert set(examples.failing(source)) == {
        rule.id for rule in RULES.values() if source in rule.occurs}


@pytest.mark.parametrize("source", FILES)
def test_a_hardened_configuration_passes_every_rule(source: Source) -> None:
    (subject,) = examples.read(source)
    answers = {rule.id: judge.verdict(rule, subject).answer for rule in RULES.values()
               if source in rule.occurs}
    assert {name: answer for name, answer in answers.items() if answer != "passes"} == {}


@pytest.mark.parametrize("source, name", PAIRS)
def test_a_rule_fails_where_it_should_and_says_where(source: str, name: str) -> None:
    source = cast("Source", source)
    patch = examples.failing(source)[name]
    content = examples.text(source, patch)
    (subject,) = examples.read(source, patch)
    outcome = judge.verdict(RULES[name], subject)
    assert outcome.answer == "fails"
    for finding in outcome.findings:
        lines = content.split("\n")
        assert 1 <= finding.place.line <= len(lines)
        assert 1 <= finding.place.column <= len(lines[finding.place.line - 1]) + 1
        assert finding.place.file == examples.NAMES[source]




def test_ids_of_other_tools_mean_something() -> None:
    assert len([rule for rule in RULES.values() if rule.foreign]) >= 35


def test_what_nobody_said_is_never_high() -> None:
    assert not [r.id for r in RULES.values() if r.absent not in ("info", "low", "medium")]
