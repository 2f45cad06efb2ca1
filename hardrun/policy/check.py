"""What is wrong with a set of policies, whether their tests hold, and how two of them differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from hardrun.errors import PolicyError, PolicyRefused
from hardrun.policy.engine import Asked, Places, bound_of, grant, place, unasked
from hardrun.policy.loaded import Case, Catalogue, LoadedPolicy
from hardrun.posture.control import Control, Relation
from hardrun.posture.registry import BY_ID, CONTROLS

SYMBOLIC = Places("$workdir", "$HOME")
"""Paths of policies compared as they are written."""

EXAMPLE = Places("/home/user/project", "/home/user")
"""Where the tests of a policy take place."""


def check(policy: LoadedPolicy, catalogue: Catalogue) -> list[PolicyError]:
    """Everything that is wrong with one policy beyond its form: parents, cycles, tests."""
    try:
        chain = catalogue.chain(policy)
    except PolicyError as error:
        return [error]
    found = [error for parent in chain[1:] for error in _looser(policy, parent)]
    found += [PolicyError(failure.message, file=policy.file, line=failure.case.line, field="tests")
              for failure in run_tests(catalogue.resolve(policy, chosen=True))]
    return found


def _looser(policy: LoadedPolicy, parent: LoadedPolicy) -> Iterator[PolicyError]:
    for control_id, (said,) in policy.bounds.items():
        control = BY_ID[control_id]
        for theirs in parent.bounds.get(control_id, ()):
            relation = control.compare(said.value, theirs.value)
            if relation in ("looser", "incomparable"):
                how = "looser than" if relation == "looser" else "not within"
                within = control.spell(control.meet(said.value, theirs.value))
                yield PolicyError(
                    f"{control.show(said.value)} is {how} its parent's"
                    f" {control.show(theirs.value)} ({theirs.origin})",
                    file=policy.file, line=said.line, field=f"bounds.{control.place}",
                    hint=f"{control.place}: {within}")


class Failure(NamedTuple):
    """A test of a policy that does not hold, and what came out instead."""

    case: Case
    message: str


def run_tests(policy: LoadedPolicy) -> list[Failure]:
    """The tests of a policy (with its parents) that fail. No host is needed."""
    return [Failure(case, message) for case in policy.tests
            if (message := _try(policy, case)) is not None]


def _try(policy: LoadedPolicy, case: Case) -> str | None:
    asked = {c: Asked(place(v, c, EXAMPLE), "request") for c, v in case.request.items()}
    try:
        granted = {g.control.id: g for g in grant(asked, [policy], EXAMPLE)}
    except PolicyRefused as refused:
        names = {getattr(r, "control", "") for r in refused.refusals}
        if names == set(case.refused):
            return None
        wanted = f"only {', '.join(sorted(case.refused))} refused" if case.refused else "granted"
        return f"expected {wanted}, but {refused.message}"
    if case.refused:
        return f"expected {', '.join(case.refused)} refused, but the request is granted"
    for control_id, value in case.granted.items():
        control, got = BY_ID[control_id], granted[control_id].value
        wanted_value = place(value, control_id, EXAMPLE)
        if control.compare(got, wanted_value) != "equal":
            return (f"expected {control_id} {control.show(wanted_value)},"
                    f" got {control.show(got)} ({granted[control_id].decided_by})")
    return None


class Difference(NamedTuple):
    """How one control of policy A stands to the same control of policy B."""

    control: str
    relation: Relation
    a: str
    b: str
    a_line: str
    b_line: str


def _side(control: Control[Any], policies: Sequence[LoadedPolicy],
          which: str) -> tuple[Any, str]:
    bound, lines = bound_of(control, policies, SYMBOLIC)
    if which == "bounds":
        return bound, ", ".join(lines)
    value, origin, _ = unasked(control, policies, bound, SYMBOLIC)
    return value, origin or ", ".join(lines)


def diff(a: Sequence[LoadedPolicy], b: Sequence[LoadedPolicy],
         which: str = "bounds") -> tuple[Difference, ...]:
    """How each control of A stands to B's: ``stricter`` means that A is.

    ``which``: ``bounds`` compares what can be asked for at most, ``defaults`` what is granted
    unasked. Symbolic paths are compared as they are written.
    """
    differences = []
    for control in CONTROLS:
        (left, left_line), (right, right_line) = (_side(control, p, which) for p in (a, b))
        differences.append(Difference(control.id, control.compare(left, right),
                                      control.show(left), control.show(right),
                                      left_line, right_line))
    return tuple(differences)


def problems(catalogue: Catalogue, names: Iterable[str]) -> list[PolicyError]:
    """``check`` of every policy of these names."""
    return [error for name in names for policy in catalogue.own(name)
            for error in check(policy, catalogue)]
