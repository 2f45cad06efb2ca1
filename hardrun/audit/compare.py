"""What changed in posture between two versions, control by control, by the controls' own order;
and the tightest policy under which a workload still gets what it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hardrun.audit.facts import BOUNDABLE
from hardrun.audit.model import Seen, Subject
from hardrun.audit.rules import of_policy
from hardrun.posture import ways_out
from hardrun.posture.control import Relation
from hardrun.posture.registry import BY_ID

if TYPE_CHECKING:
    from hardrun.policy.loaded import LoadedPolicy

# What other values say already, in the words that people write.
_DERIVED = frozenset({"seccomp", "network", "filesystem.proc"})


_NOT_KNOWN = "not known"


class Change(NamedTuple):
    """One control of one workload. ``relation``: how the new value stands to the old one; a value
    that is only known on one side is ``not known``, a workload on one side ``added``, ``removed``.
    """

    subject: str
    control: str
    relation: Relation | str
    old: str
    new: str
    place: str

    @property
    def loosens(self) -> bool:
        """Whether the new version may be looser: what can't be known any more may be."""
        return self.relation in ("looser", "incomparable") or (
            self.relation == "not known" and self.new == _NOT_KNOWN)


def changes(old: Sequence[Subject], new: Sequence[Subject]) -> Iterator[Change]:
    """Every control that differs between two versions, workload by workload."""
    before, after = _by_name(old), _by_name(new)
    for name in dict.fromkeys((*before, *after)):
        if name not in after:
            yield Change(name, "", "removed", "", "", str(before[name].place))
        elif name not in before:
            yield Change(name, "", "added", "", "", str(after[name].place))
        else:
            yield from _of_one(before[name], after[name])


def _by_name(subjects: Sequence[Subject]) -> dict[str, Subject]:
    """Subjects by a name that is the same in both versions; of several of a name by its number."""
    found: dict[str, Subject] = {}
    for subject in subjects:
        name, number = subject.name, 2
        while name in found:
            name, number = f"{subject.name} ({number})", number + 1
        found[name] = subject
    return found


def _of_one(old: Subject, new: Subject) -> Iterator[Change]:
    for name, control in BOUNDABLE.items():
        a, b = old.values.get(name), new.values.get(name)
        if name in _DERIVED or (a is None and b is None):
            continue
        if a is None or b is None:
            yield Change(new.name, name, "not known", _shown(name, a), _shown(name, b),
                         str(b.place if b else new.place))
            continue
        relation = control.compare(b.value, a.value)
        if relation != "equal":
            yield Change(new.name, name, relation, _shown(name, a), _shown(name, b), str(b.place))


def _shown(name: str, seen: Seen | None) -> str:
    return _NOT_KNOWN if seen is None else BOUNDABLE[name].show(seen.value)


class Cost(NamedTuple):
    """One request and what it costs: the policies that refuse it, and what it opens."""

    control: str
    value: str
    place: str
    refused_by: tuple[str, ...]
    opens: tuple[str, ...]


class Suggestion(NamedTuple):
    """The tightest policies that allow what a workload asks for (several where none is tighter than
    another, none where no policy allows it), and what its requests cost."""

    subject: Subject
    policies: tuple[str, ...]
    costs: tuple[Cost, ...]


def suggest(subject: Subject, policies: Sequence[LoadedPolicy]) -> Suggestion:
    """Compare what a workload says with the bounds of policies.

    What nobody said is no request: the policy decides it. Neither are limits that are lacking.
    """
    asked = {name: seen for name, seen in subject.values.items()
             if name in _CONTROLS and (seen.said or seen.elements)}
    refusing: dict[str, list[str]] = {name: [] for name in asked}
    allowed = []
    for policy in policies:
        fails = [place for rule in of_policy(policy)
                 if (place := rule.tests[0].control.place) in asked
                 and any(test.fails(_requested(asked[place])) for test in rule.tests)]
        for name in fails:
            refusing[name].append(policy.name)
        if not fails:
            allowed.append(policy)
    tightest = [p.name for p in allowed
                if not any(_tighter(other, p) for other in allowed if other is not p)]
    costs = tuple(Cost(name, BOUNDABLE[name].show(_requested(seen)), str(_place(seen)),
                       tuple(refusing[name]), tuple(_opened(name, _requested(seen))))
                  for name, seen in asked.items()
                  if refusing[name] or any(_opened(name, _requested(seen))))
    return Suggestion(subject, tuple(tightest), costs)


_CONTROLS = frozenset(control.place for control in BY_ID.values())


def _requested(seen: Seen) -> Any:
    """Of a set what was added; anything else as a whole."""
    return seen.value if seen.said else frozenset(seen.elements)


def _place(seen: Seen) -> object:
    return next(iter(seen.elements.values()), seen.place)


def _opened(name: str, value: Any) -> Iterator[str]:
    control = BOUNDABLE[name]
    yield from (way.opens for way in ways_out.opened(control.id, value))
    if control.id in ways_out.PATH_CONTROLS:
        for path in sorted(value):
            yield from (way.opens for way in ways_out.touched(control.id, path)[:2])


def _tighter(a: LoadedPolicy, b: LoadedPolicy) -> bool:
    """Whether ``a`` is no looser than ``b`` in all that both bound, bounds all that ``b`` does, and
    is stricter in something."""
    ours = {rule.tests[0].control.id: rule.tests[0] for rule in of_policy(a)}
    theirs = {rule.tests[0].control.id: rule.tests[0] for rule in of_policy(b)}
    if not theirs.keys() <= ours.keys():
        return False
    if any(ours[name].control.compare(ours[name].value, test.value) not in ("equal", "stricter")
           for name, test in theirs.items()):
        return False
    return len(ours) > len(theirs) or any(
        ours[name].control.compare(ours[name].value, test.value) == "stricter"
        for name, test in theirs.items())
