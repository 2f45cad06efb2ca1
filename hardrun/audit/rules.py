"""The catalogue: rules are bounds over controls and facts, read from policies/audit/*.yaml.

A rule passes where every value is within its ``bounds``, holds none of what it ``forbids`` and
shares nothing with what it ``touches``; or where all that stands under ``unless`` holds. Order and
meet are the controls' own, those that decide what ``hardrun run`` grants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardrun.audit.facts import BOUNDABLE
from hardrun.audit.model import SOURCES, Confidence, Severity, Source, worst
from hardrun.data import data_directory
from hardrun.errors import PolicyError
from hardrun.posture import ways_out
from hardrun.posture.control import Control
from hardrun.posture.filesystem import below
from hardrun.posture.orders import Covering, Names, nearest
from hardrun.posture.registry import BY_ID

if TYPE_CHECKING:
    from hardrun.policy.loaded import LoadedPolicy

_MAXIMUM_SIZE = 1 << 20
Controls = dict[str, Any]
Standard = Literal["cis", "pss", "nsa", "oci"]


class Strict(BaseModel):
    """Base of the parts of a document: unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RuleItem(Strict):
    """One rule of a document."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{2,40}$")]
    title: str
    severity: Severity
    absent: Severity | None = None
    confidence: Confidence = "certain"
    why: Annotated[str, Field(min_length=20)]
    fix: Annotated[str, Field(min_length=10)]
    bounds: Controls = {}
    forbids: Controls = {}
    touches: Controls = {}
    unless: Controls = {}
    way_out: bool = False
    occurs: Annotated[list[Source], Field(min_length=1)]
    standards: dict[Standard, list[str]] = {}
    same_as: dict[Literal["checkov", "trivy"], list[str]] = {}
    safe: dict[str, Any] = {}
    unsafe: dict[str, Any] = {}


class RulesMetadata(Strict):
    """What a document is called and for."""

    name: str
    description: str = ""


class RulesDocument(Strict):
    """A document of rules."""

    apiVersion: Literal["hardrun/v1"]
    kind: Literal["AuditRules"]
    metadata: RulesMetadata
    rules: list[RuleItem]


class Test(NamedTuple):
    """One comparison of a rule: what a control is held to and how."""

    control: Control[Any]
    how: Literal["bounds", "forbids", "touches"]
    value: Any

    @lru_cache(maxsize=1 << 16)  # noqa: B019 - rules live as long as the process; values recur
    def fails(self, value: Any) -> bool:
        """Whether a value is not what the rule wants."""
        if self.how == "bounds":
            return not self.control.at_most(value, self.value)
        atoms = [frozenset({atom}) for atom in self.value]
        if self.how == "forbids":
            return any(self.control.at_most(atom, value) for atom in atoms)
        return any(self.control.meet(value, atom) for atom in atoms)

    @lru_cache(maxsize=1 << 14)  # noqa: B019 - as above
    def culprits(self, value: Any) -> tuple[Any, ...]:
        """The elements of a set that make it fail; empty where it fails as a whole."""
        if not isinstance(self.control, Covering | Names):
            return ()
        return tuple(sorted((e for e in value if self.fails(frozenset({e}))), key=str))


@dataclass(frozen=True, kw_only=True, eq=False)
class Rule:
    """One rule. ``absent`` is the severity where nobody said anything and a default breaks it.

    ``rank``: of rules that one cause breaks and that are as bad, the one that is told.
    ``safe`` and ``unsafe`` are what a fix sets.
    """

    id: str
    title: str
    severity: Severity
    absent: Severity
    confidence: Confidence
    why: str
    fix: str
    tests: tuple[Test, ...]
    unless: tuple[Test, ...] = ()
    way_out: bool = False
    occurs: frozenset[Source]
    standards: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    same_as: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    safe: Mapping[str, Any] = field(default_factory=dict)
    unsafe: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    rank: int = 0

    def __repr__(self) -> str:
        return f"<rule {self.id}>"

    @property
    def sets(self) -> frozenset[str]:
        """The names of the sets that it belongs to, as ``--policy`` takes them."""
        found = {"all"}
        levels = {entry.partition("/")[0] for entry in self.standards.get("pss", ())}
        if "baseline" in levels:
            found |= {"pss-baseline", "pss-restricted"}
        if "restricted" in levels:
            found.add("pss-restricted")
        found |= {name for name in ("cis", "nsa") if self.standards.get(name)}
        return frozenset(found | ({"ways-out"} if self.way_out else set()))

    @property
    def foreign(self) -> frozenset[str]:
        """What other tools call it."""
        return frozenset(name for names in self.same_as.values() for name in names)


SETS: Mapping[str, str] = {
    "ways-out": "what is known to lead out of a container",
    "pss-baseline": "Pod Security Standards, Baseline",
    "pss-restricted": "Pod Security Standards, Restricted",
    "cis": "CIS Docker Benchmark, section 5",
    "nsa": "NSA/CISA Kubernetes Hardening Guide",
    "all": "every rule",
}
VERSIONS: Mapping[str, str] = {
    "pss-baseline": "v1.35", "pss-restricted": "v1.35", "cis": "1.6.0", "nsa": "1.2"}
"""The version of each standard that the rules follow; ``SET@VERSION`` asks for one."""
DEFAULT_SETS = ("pss-baseline", "ways-out")


def _flat(raw: Controls, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in raw.items():
        name = f"{prefix}{key}"
        if name in BOUNDABLE:
            yield name, value
        elif isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        else:
            raise ValueError(f"{name!r} is no control or fact{nearest(name, BOUNDABLE)}")


def _tests(raw: Controls, how: Literal["bounds", "forbids", "touches"]) -> Iterator[Test]:
    for name, value in _flat(raw):
        control = BOUNDABLE[name]
        if how != "bounds" and not isinstance(control, Covering | Names):
            raise ValueError(f"{name} is no set: say it under bounds")
        yield Test(control, how, control.parse(value))


def _rule(item: RuleItem, file: str, rank: int) -> Rule:
    most: Severity = "medium" if worst(item.severity) > worst("medium") else item.severity
    absent: Severity = item.absent or most
    if worst(absent) > worst("medium"):
        raise ValueError("what nobody said is at most medium")
    tests = (*_tests(item.bounds, "bounds"), *_tests(item.forbids, "forbids"),
             *_tests(item.touches, "touches"))
    if not tests:
        raise ValueError("it tests nothing")
    return Rule(
        id=item.id, title=item.title, severity=item.severity, absent=absent,
        confidence=item.confidence, why=item.why, fix=item.fix, tests=tests,
        unless=tuple(_tests(item.unless, "bounds")),
        way_out=item.way_out, occurs=frozenset(item.occurs), file=file,
        standards={name: tuple(ids) for name, ids in item.standards.items()},
        same_as={name: tuple(ids) for name, ids in item.same_as.items()},
        safe=item.safe, unsafe=item.unsafe, rank=rank)


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of one file. PolicyError names the file and the rule that is wrong."""
    import yaml

    file = f"policies/audit/{path.name}"
    try:
        with path.open("rb") as stream:
            raw = yaml.load(stream.read(_MAXIMUM_SIZE),  # nosec B506 - both are safe loaders
                            Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        document = RulesDocument.model_validate(raw)
    except OSError as error:
        raise PolicyError(f"can't be read: {error.strerror}", file=file) from None
    except yaml.YAMLError as error:
        raise PolicyError(f"not YAML: {' '.join(str(error).split())}", file=file) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise PolicyError(first["msg"], file=file,
                          field=".".join(map(str, first["loc"])) or None) from None
    rules = []
    for rank, item in enumerate(document.rules):
        try:
            rules.append(_rule(item, file, rank))
        except ValueError as error:
            raise PolicyError(str(error), file=file, field=item.id) from None
    return tuple(rules)


def catalogue(directory: Path | None = None) -> tuple[Rule, ...]:
    """Every rule that ships, sorted by id. PolicyError for one that is wrong or said twice."""
    where = directory or data_directory("policies") / "audit"
    rules = [rule for path in sorted(where.glob("*.yaml")) for rule in read_rules(path)]
    seen: dict[str, Rule] = {}
    for rule in rules:
        if rule.id in seen:
            raise PolicyError(f"{rule.id} stands in {seen[rule.id].file}, too", file=rule.file)
        seen[rule.id] = rule
    return tuple(sorted(rules, key=lambda rule: rule.id))


def of_policy(policy: LoadedPolicy) -> tuple[Rule, ...]:
    """A policy's bounds as rules, parents included: ``NAME:CONTROL``. What nobody said is a
    finding of at most medium severity, as for the rules that ship."""
    rules = []
    for name, said in policy.bounds.items():
        control = BY_ID[name]
        bound = said[0].value
        for other in said[1:]:
            bound = control.meet(bound, other.value)
        tests: tuple[Test, ...] = (Test(control, "bounds", bound),)
        if name in ways_out.PATH_CONTROLS:  # wide paths leave the known ways out out
            closed = {way.value for way in ways_out.touched(name, "/")
                      if not any(below(way.value, path) for s in said for path in s.excepted)}
            tests += (Test(control, "touches", frozenset(closed)),)
        rules.append(Rule(
            id=f"{policy.name}:{control.place}", title=f"{control.title}: beyond {policy.name}",
            severity="high", absent="medium", confidence="certain",
            why=f"At most {control.show(bound)}, by {', '.join(s.origin for s in said)}.",
            fix=f"Come down to {control.show(bound)}.", tests=tests,
            occurs=frozenset(SOURCES), file=policy.file))
    return tuple(rules)


def select(rules: Sequence[Rule], sets: Sequence[str]) -> tuple[Rule, ...]:
    """The rules that belong to one of the sets."""
    wanted = frozenset(sets)
    return tuple(rule for rule in rules if rule.sets & wanted)
