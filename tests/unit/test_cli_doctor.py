"""What hardrun doctor says, from facts made by hand."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import get_type_hints

from hardrun.cli import doctor
from hardrun.host.facts import Fact, HostFacts
from tests.planning import NO, YES, facts


def test_every_fact_is_told() -> None:
    told = {name for _, entries in doctor._GROUPS for name, _ in entries}
    assert told == {name for name, kind in get_type_hints(HostFacts).items() if kind is Fact}


def test_what_is_missing_comes_with_layer_and_fix() -> None:
    missing = Fact(available=False, detail="clone: EPERM", layer="AppArmor", fix="a profile")
    lines = doctor.lines_of(facts(user_namespaces=missing), {})
    assert "  FAIL  user namespace            clone: EPERM" in lines
    assert any(line.strip() == "layer: AppArmor" for line in lines)
    assert any(line.strip() == "fix: a profile" for line in lines)


def test_what_the_full_tier_does_not_need_is_no_failure() -> None:
    lines = doctor.lines_of(facts(), {})
    assert lines[0] == "tier full: namespaces, mounts, seccomp and Landlock"
    assert not any("FAIL" in line for line in lines)


def test_groups_that_stay_in_force_are_told() -> None:
    text = "\n".join(doctor.lines_of(facts(supplementary_groups=(27, 100), id_ranges=NO), {}))
    assert "supplementary groups 27, 100: can't be dropped" in text
    text = "\n".join(doctor.lines_of(facts(supplementary_groups=(27, 100), id_ranges=YES), {}))
    assert "supplementary groups 27, 100: can be dropped" in text


def test_nothing_that_steers_a_terminal_is_printed() -> None:
    evil = facts(user_name="a\x1b[2Jb", apparmor=Fact(available=False, detail="\u202ex"))
    assert not any("\x1b" in line or "\u202e" in line for line in doctor.lines_of(evil, {}))


def test_the_document_has_a_version_and_every_field() -> None:
    document = json.loads(json.dumps(doctor.document_of(facts(), {"home": YES})))
    assert document["schema_version"] == doctor.SCHEMA_VERSION
    assert {field.name for field in fields(HostFacts)} <= set(document)


def test_one_fix_is_told_once_however_much_it_would_repair() -> None:
    missing = Fact(available=False, detail="clone: EPERM", layer="AppArmor", fix="a profile",
                   cause="apparmor-restricts-userns")
    lines = doctor.lines_of(facts(user_namespaces=missing, pid_namespace=missing), {"home": YES})
    assert sum("fix: a profile" in line for line in lines) == 1
    assert sum("as above: user namespace" in line for line in lines) == 1
    assert sum("cause: apparmor-restricts-userns" in line for line in lines) == 1
    assert "files" in lines
