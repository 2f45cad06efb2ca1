"""The table of properties is whole: each is shown by tests that exist, or says why it is not."""

from __future__ import annotations

import ast

from tests.escape.properties import TABLE_TESTS, read
from tests.escape.registry import ATTACKS
from tests.house.tree import ROOT

# hardening properties by section: how many there are
SECTIONS = {"FS": 23, "FD": 11, "PR": 12, "DV": 8, "SC": 24, "CP": 7, "US": 10, "NS": 12, "RS": 9,
            "LM": 6, "JN": 6, "PL": 8, "IM": 15, "AU": 4}


def _functions(file: str) -> set[str]:
    """The tests of a file, as their ids begin."""
    found = set()
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{inner.name}" for inner in node.body
                      if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return found


def test_every_property_is_listed_once() -> None:
    wanted = [f"{section}-{number:02}" for section, count in SECTIONS.items()
              for number in range(1, count + 1)]
    assert [p.id for p in read()] == wanted


def test_every_property_has_tests_or_a_reason() -> None:
    bare = [p.id for p in read() if bool(p.tests) == bool(p.pending)]
    assert not bare, "each needs either tests or, with a reason, 'pending'"


def test_every_test_that_is_named_exists() -> None:
    missing = []
    for found in read():
        for test in found.tests:
            if test == "attacks":
                missing += [] if found.attacks else [f"{found.id}: no attack"]
                continue
            file, _, name = test.partition("::")
            begins = name.split("[")[0]  # of one test or of several
            if not (ROOT / file).is_file() or not any(
                    known.startswith(begins) for known in _functions(file)):
                missing.append(f"{found.id}: {test}")
    assert not missing


def test_every_attack_belongs_to_a_property_that_says_so() -> None:
    known = {p.id: p for p in read()}
    stray = [a.id for a in ATTACKS if "attacks" not in known[a.property].tests]
    assert not stray


def test_attacks_have_names_of_their_own() -> None:
    names = [a.id for a in ATTACKS]
    assert len(set(names)) == len(names)
    assert (ROOT / TABLE_TESTS).is_file()


def test_who_gives_a_property_up_says_so_in_the_table() -> None:
    known = {p.id: p for p in read()}
    silent = [a.id for a in ATTACKS if set(a.given_up) - set(known[a.property].given_up)]
    assert not silent
