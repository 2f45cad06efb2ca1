"""Each policy that ships ends with what it gives up of the properties, and that is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hardrun.errors import PolicyError
from tests.escape.properties import read
from tests.escape.registry import ATTACKS
from tests.escape.sandbox import POLICIES, Sandbox
from tests.house.tree import ROOT

NOTHING = "# It gives up nothing of docs/security.md"
BEGIN = "# What it gives up of docs/security.md, and why:\n"
OTHERS = ("docker-default", "pss-baseline", "pss-restricted")
OF_THE_MACHINE = {"SC-01"}  # 32-bit calls: not every kernel and processor has them


def given_up(policy: str) -> dict[str, str]:
    """Property → reason, as the policy's file has it; wrapped lines are put together."""
    text = (ROOT / "policies" / f"{policy}.yaml").read_text(encoding="utf-8")
    if BEGIN not in text:
        assert NOTHING in text, "a policy says what it gives up, or that it is nothing"
        return {}
    joined = re.sub(r"\n# {10}(?=\S)", " ", text.split(BEGIN)[1])
    return dict(re.findall(r"^# {3}([A-Z]{2}-\d\d)  (.+)$", joined, re.MULTILINE))


def test_no_policy_is_left_out() -> None:
    assert {path.stem for path in (ROOT / "policies").glob("*.yaml")} == {*POLICIES, *OTHERS}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_says_what_the_table_says_of_it(policy: str) -> None:
    """For each the attacks of the property succeed (test_attacks.py)."""
    table = {found.id: found.given_up[policy] for found in read() if policy in found.given_up}
    assert given_up(policy) == table


@pytest.mark.sandbox
def test_dockers_defaults_give_up_what_is_said_and_no_more(probe: Path, tmp_path: Path) -> None:
    succeeded, known = set(), set[str]()
    for attack in ATTACKS:
        if attack.id in known:
            continue
        alike = [other for other in ATTACKS if attack.shares_a_sandbox_with(other)]
        known |= {other.id for other in alike}
        made = Sandbox(probe, tmp_path, "docker-default", **attack.options)
        answers = made.attack(*(other.steps for other in alike))
        succeeded |= {other.property for other, answer in zip(alike, answers, strict=True)
                      if other.succeeded(answer)}
    said = set(given_up("docker-default"))
    assert succeeded <= said
    assert said - succeeded <= OF_THE_MACHINE


@pytest.mark.parametrize("policy", ["pss-baseline", "pss-restricted"])
def test_a_standard_alone_grants_no_run(probe: Path, tmp_path: Path, policy: str) -> None:
    assert given_up(policy) == {}
    with pytest.raises(PolicyError, match="nothing bounds"):
        Sandbox(probe, tmp_path, policy)
