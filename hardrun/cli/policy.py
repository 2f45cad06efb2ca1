"""``hardrun policy``: list, show, check, test and compare policies; the schema of a document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hardrun.cli.render import error_lines, printable, table, write
from hardrun.errors import PolicyError
from hardrun.policy.check import Difference, diff, problems, run_tests
from hardrun.policy.load import Directories, Loaded, load_policies
from hardrun.policy.loaded import LoadedPolicy

FAILED = 1
PROBLEM = 125
_NAMES = click.argument("names", metavar="[NAME|FILE]...", nargs=-1)
_JSON = click.option("--json", "as_json", is_flag=True, help="The answer as a document.")


@click.group("policy")
def command() -> None:
    """List, show, check, test and compare policies."""


def _load(names: Sequence[str]) -> tuple[Loaded, tuple[LoadedPolicy, ...]]:
    """All policies, and those that were named (every one if none was)."""
    loaded = load_policies(names, complete=False)
    chosen = tuple(p for p in loaded.policies if p.chosen) if names else loaded.policies
    return loaded, chosen


def _document(body: dict[str, Any], kind: str) -> list[str]:
    return [json.dumps({"schema": f"hardrun.policy.{kind}", "schema_version": 1, **body},
                       indent=2)]


@command.command("list")
@_JSON
def list_policies(as_json: bool) -> None:
    """List every policy of every layer."""
    _, policies = _load(())
    if as_json:
        write(_document({"policies": [
            {"name": p.name, "layer": p.layer, "file": p.file, "description": p.description,
             "within": [name for name, _ in p.within], "match": p.match} for p in policies]},
            "list"))
        return
    write(table(("policy", "layer", "for"), [(p.name, p.layer, p.description) for p in policies]))


@command.command("show")
@click.argument("name", metavar="NAME|FILE")
@click.option("--effective", is_flag=True, help="The bounds with those of its parents, by line.")
def show(name: str, effective: bool) -> None:
    """Show a policy: its text, or what it comes to together with its parents."""
    _, policies = _load([name])
    if effective:
        differences = diff(policies, ())
        defaults = diff(policies, (), "defaults")
        write(table(("control", "at most", "unasked", "by"),
                    [(d.control, d.a, default.a, d.a_line)
                     for d, default in zip(differences, defaults, strict=True) if d.a_line]))
        return
    places = Directories.standard()
    for policy in policies:
        path = places.builtin / Path(policy.file).name if policy.layer == "built-in" \
            else Path(policy.file)
        text = path.read_text("utf-8")
        write([printable(line) for line in text.splitlines()])


@command.command("check")
@_NAMES
def check(names: tuple[str, ...]) -> None:
    """Check policies: form, parents, cycles, nothing looser than a parent, their tests."""
    loaded, policies = _load(names)
    found: list[PolicyError] = problems(loaded.catalogue, dict.fromkeys(p.name for p in policies))
    for error in found:
        write(error_lines(error), to_error=True)
    if found:
        raise SystemExit(FAILED)
    write([f"{len(policies)} policies: no problem found"])


@command.command("test")
@_NAMES
def test(names: tuple[str, ...]) -> None:
    """Run the tests that policies contain."""
    _, policies = _load(names)
    failed = 0
    for policy in policies:
        failures = run_tests(policy)
        failed += len(failures)
        write([printable(f"{policy.file}:{f.case.line}: {f.message}") for f in failures],
              to_error=True)
        passed = len(policy.tests) - len(failures)
        write([printable(f"{policy.name}: {passed} of {len(policy.tests)} tests pass")])
    if failed:
        raise SystemExit(FAILED)


@command.command("diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--defaults", is_flag=True, help="Compare what is granted unasked, not the bounds.")
@click.option("--all", "everything", is_flag=True, help="Show what is equal, too.")
@_JSON
def compare(a: str, b: str, defaults: bool, everything: bool,
            as_json: bool) -> None:
    """Say for each control whether A is stricter than B, looser, equal or incomparable."""
    _, left = _load([a])
    _, right = _load([b])
    differences = diff(left, right, "defaults" if defaults else "bounds")
    shown: list[Difference] = [d for d in differences if everything or d.relation != "equal"]
    if as_json:
        write(_document({"a": a, "b": b, "controls": [d._asdict() for d in shown]}, "diff"))
        return
    write(table(("control", f"{a} is", a, b),
                [(d.control, d.relation, d.a, d.b) for d in shown]))


@command.command("suggest")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@_JSON
def suggest(paths: tuple[str, ...], as_json: bool) -> int:
    """Say under which policy, the tightest, a workload still gets what it asks for.

    PATH is what `hardrun audit` reads. What each request costs stands below: the policies that
    refuse it, and the ways out that it opens.
    """
    from hardrun.audit.compare import suggest as suggested
    from hardrun.audit.walk import read_paths

    _, policies = _load(())
    batch = read_paths(paths)
    found = [suggested(subject, policies) for subject in batch.subjects]
    if as_json:
        write(_document({"workloads": [
            {"name": s.subject.name, "file": s.subject.place.file, "policies": s.policies,
             "requests": [cost._asdict() for cost in s.costs]} for s in found]}, "suggest"))
    for suggestion in () if as_json else found:
        names = " or ".join(suggestion.policies) or "none that ships allows all of it"
        write([printable(f"{suggestion.subject.name}: {names}")])
        if suggestion.costs:
            write(["  " + line for line in table(
                ("control", "asked", "refused by", "opens", "where"),
                [(c.control, c.value, ", ".join(c.refused_by), "; ".join(c.opens), c.place)
                 for c in suggestion.costs])])
    for problem in batch.problems:
        write([printable(f"{problem.place}  {problem.message}")], to_error=True)
    return PROBLEM if batch.problems else 0


@command.command("schema")
def schema() -> None:
    """Print the JSON schema of a policy document, for editors."""
    from hardrun.policy.reference import schema as document_schema

    write([json.dumps(document_schema(), indent=2)])
