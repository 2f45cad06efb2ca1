"""The rules of several profiles about one call, as one decision tree.

Rules of one profile are independent and the strictest that matches counts; several profiles give
the strictest of their answers. Turned into a tree of tests, one walk from the root gives the final
action: no order of rules, no rule shadowed by another, and one program however many profiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hardrun.errors import BadInput
from hardrun.kernel.seccomp import actions
from hardrun.kernel.seccomp.rules import Comparison, Rule

# Real profiles need a few dozen tests for a call; what reaches this is not a policy. The walks over
# a tree are recursive, and this keeps them shallow.
MAXIMUM_NODES = 700


class Atom(NamedTuple):
    """A test ``(argument & mask) operator value`` with ``==``, ``>`` or ``>=``."""

    argument: int
    mask: int
    operator: str
    value: int


class Leaf(NamedTuple):
    """The answer: a SECCOMP_RET_* value."""

    action: int


@dataclass(frozen=True, eq=False)
class Test:
    """Where to go on, by the truth of an atom. Made once by a Forest, so equal is identical."""

    atom: Atom
    yes: Node
    no: Node


Node = Leaf | Test


class Literal(NamedTuple):
    """An atom and the truth of it that a rule wants."""

    atom: Atom
    wanted: bool


class Pending(NamedTuple):
    """A rule some of whose comparisons are still open."""

    literals: tuple[Literal, ...]
    action: int


class State(NamedTuple):
    """What is known of one profile's answer on the way down.

    ``answer`` is that of the rules that match so far, or the default action while none does.
    """

    answer: int
    matched: bool
    pending: tuple[Pending, ...]

    @property
    def possible(self) -> tuple[int, ...]:
        """Every answer this profile can still give."""
        return (self.answer, *(rule.action for rule in self.pending))


Settle = Callable[[tuple[State, ...]], Leaf | None]

_NEGATED = {"!=": "==", "<": ">=", "<=": ">"}


def literal(comparison: Comparison) -> Literal:
    """A comparison in terms of the three tests that a tree has."""
    index, mask, operator, value = comparison
    positive = _NEGATED.get(operator)
    return Literal(Atom(index, mask, positive or operator, value), positive is None)


def state(rules: Iterable[Rule], default: int) -> State:
    """The start of one profile."""
    pending = []
    for rule in rules:
        literals = {literal(c) for c in rule.comparisons}
        truths = {item: _constant(item.atom) for item in literals}
        if all(truth in (None, item.wanted) for item, truth in truths.items()):
            left = sorted(item for item, truth in truths.items() if truth is None)
            pending.append(Pending(tuple(left), rule.action))
    return _absorb(default, matched=False, rules=pending, known=None)


class Forest:
    """Decision trees that share their equal parts: what is shared is compiled once."""

    def __init__(self) -> None:
        self._tests: dict[tuple[Atom, Node, Node], Test] = {}

    def tree(self, states: Sequence[State], settle: Settle | None = None) -> Node:
        """The decision tree of several profiles about one call.

        ``settle`` ends a branch early; without one the leaves are what the profiles together
        answer. BadInput if the rules are too entangled to be a tree of reasonable size.
        """
        known: dict[tuple[State, ...], Node] = {}
        end = settle or strictest_of

        def grow(now: tuple[State, ...]) -> Node:
            if (done := known.get(now)) is not None:
                return done
            if len(known) > MAXIMUM_NODES:
                raise BadInput("seccomp: the rules for one call compare too much to combine")
            node: Node | None = end(now)
            if node is None:
                atom = min(i.atom for s in now for rule in s.pending for i in rule.literals)
                yes = grow(tuple(assume(s, atom, truth=True) for s in now))
                no = grow(tuple(assume(s, atom, truth=False) for s in now))
                node = yes if yes == no else self._test(atom, yes, no)
            known[now] = node
            return node

        return grow(tuple(states))

    def _test(self, atom: Atom, yes: Node, no: Node) -> Test:
        return self._tests.setdefault((atom, yes, no), Test(atom, yes, no))


def strictest_of(now: tuple[State, ...]) -> Leaf | None:
    """The final action, once no open rule can change it."""
    certain = actions.strictest(s.answer if s.matched else actions.loosest(s.possible) for s in now)
    open_answers = (answer for s in now for answer in s.possible)
    if any(actions.strictest((certain, answer)) != certain for answer in open_answers):
        return None
    return Leaf(certain)


def assume(before: State, atom: Atom, *, truth: bool) -> State:
    """One profile, once the outcome of a test is known."""
    return _absorb(before.answer, before.matched, before.pending, Literal(atom, truth))


def _absorb(answer: int, matched: bool, rules: Iterable[Pending], known: Literal | None) -> State:
    open_rules: set[Pending] = set()
    for rule in rules:
        left = rule.literals if known is None else _remaining(rule.literals, known)
        if left is None:
            continue
        if left:
            open_rules.add(Pending(left, rule.action))
        else:
            answer = actions.strictest((answer, rule.action)) if matched else rule.action
            matched = True
    if matched:
        # A rule that could only repeat or loosen the answer no longer matters.
        open_rules = {r for r in open_rules if actions.strictest((answer, r.action)) != answer}
    return State(answer, matched, tuple(sorted(open_rules)))


def _remaining(literals: tuple[Literal, ...], known: Literal) -> tuple[Literal, ...] | None:
    """The literals still open; None if one is false."""
    left = []
    for item in literals:
        truth = _implied(item.atom, known)
        if truth is None:
            left.append(item)
        elif truth is not item.wanted:
            return None
    return tuple(left)


def _constant(atom: Atom) -> bool | None:
    """The truth of an atom that is the same for every argument."""
    _, mask, operator, value = atom
    if value == 0:
        if operator == ">=":
            return True
        if mask == 0:
            return operator == "=="
    elif operator == "==" and value & ~mask:
        return False
    if operator == ">" and value >= mask:
        return False
    return False if operator == ">=" and value > mask else None


def _implied(atom: Atom, known: Literal) -> bool | None:
    """The truth of an atom that follows from one known outcome, if any does."""
    if atom.argument != known.atom.argument:
        return None
    if known.wanted and known.atom.operator == "==" and atom.mask & ~known.atom.mask == 0:
        return _holds(known.atom.value & atom.mask, atom)
    if atom == known.atom:
        return known.wanted
    if _excludes(known, atom):
        return False
    if atom.mask != known.atom.mask:
        return None
    low, high = _range(known)
    if low > high:
        return None
    if atom.operator == "==":
        return False if not low <= atom.value <= high else None
    if _holds(low, atom):
        return True
    return False if not _holds(high, atom) else None


def _excludes(known: Literal, atom: Atom) -> bool:
    """Whether fewer bits, already compared, rule out an equality over more of them."""
    (_, mask, operator, value), wanted = known
    if operator != "==" or atom.operator != "==" or mask & ~atom.mask:
        return False
    return (atom.value & mask == value) is not wanted


def _range(known: Literal) -> tuple[int, int]:
    """The values that a masked argument can have after an ordering test."""
    (_, mask, operator, value), wanted = known
    if operator == "==":
        return (value, value) if wanted else (0, mask)
    if operator == ">":
        return (value + 1, mask) if wanted else (0, value)
    return (value, mask) if wanted else (0, value - 1)


def _holds(left: int, atom: Atom) -> bool:
    if atom.operator == "==":
        return left == atom.value
    return left > atom.value if atom.operator == ">" else left >= atom.value
