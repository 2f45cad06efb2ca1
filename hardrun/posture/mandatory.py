"""Mandatory access control: AppArmor, SELinux, Landlock, as the host has them.

A policy names alternatives in order; the first that the host can enforce is taken. Policies add
up: every policy's list must be fulfilled, a conjunction of clauses, and the meet is their union.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hardrun.kernel import landlock
from hardrun.posture.control import Enforcement, by_fact, degraded, enforced, replaced
from hardrun.posture.orders import Flag, Obligations

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts

Clause = tuple[str, ...]
_ALTERNATIVE = re.compile(r"(apparmor|selinux):[A-Za-z0-9_][A-Za-z0-9_./-]*|landlock|none")


# The policies that ship are within each other; so are their profiles and types, which are made from
# them (tests/unit/test_profile_apparmor.py, tests/unit/test_profile_selinux.py).
_WITHIN = {"judge": "untrusted", "untrusted": "contained", "agent": "contained",
           "build": "contained"}


def _policy_of(alternative: str) -> str:
    """The shipped policy that a label of ours was made from; empty for others' labels."""
    module, _, name = alternative.partition(":")
    before, after = ("hardrun-", "") if module == "apparmor" else ("hardrun_", "_t")
    ours = name.startswith(before) and name.endswith(after)
    policy = name.removeprefix(before).removesuffix(after) if ours else ""
    return policy if policy in (*_WITHIN, *_WITHIN.values()) else ""


def _implied(alternative: str) -> Iterator[str]:
    """What a label of ours carries besides: those of the policies that its policy is within."""
    policy = _policy_of(alternative)
    parent = _WITHIN.get(policy)
    while parent is not None:
        yield alternative.replace(policy, parent)
        parent = _WITHIN.get(parent)


def _alternative(raw: object) -> str:
    if isinstance(raw, dict) and len(raw) == 1:
        (module, name), = raw.items()
        raw = f"{module}:{name}"
    if not isinstance(raw, str) or (raw != "refuse" and _ALTERNATIVE.fullmatch(raw) is None):
        raise ValueError(f"{raw!r} is not one of {{apparmor: PROFILE}}, {{selinux: TYPE}},"
                         " landlock, none, refuse")
    return raw


class Clauses(Obligations[Clause]):
    """A conjunction of clauses; fewer alternatives are stricter, and labels that carry others."""

    def implies(self, strict: Clause, weak: Clause) -> bool:
        return all({a, *_implied(a)} & set(weak) for a in strict)

    def parse(self, raw: object) -> frozenset[Clause]:
        if not isinstance(raw, list):
            raise ValueError("must be a list of alternatives, the best one first")
        words = [_alternative(item) for item in raw]
        if any(word in ("refuse", "none") for word in words[:-1]):
            raise ValueError("what follows refuse or none is never reached")
        if words and words[-1] == "refuse":
            words.pop()
        elif words and words[-1] != "none":
            words.append("none")
        if raw and not words:
            raise ValueError("a list that only refuses can't be fulfilled")
        return self.normal([tuple(dict.fromkeys(words))] if words else [])

    def show(self, value: frozenset[Clause]) -> str:
        return "; ".join(" or ".join(clause) for clause in sorted(value)) or "none"

    def dump(self, value: frozenset[Clause]) -> list[Any]:
        return [list(clause) for clause in sorted(value)]

    def load(self, data: Any) -> frozenset[Clause]:
        if not isinstance(data, list) or not all(isinstance(c, list) and c for c in data):
            raise ValueError(f"{data!r} is not a list of lists")
        return self.normal([tuple(_alternative(word) for word in c) for c in data])

    def schema(self) -> dict[str, Any]:
        module = {"type": "object", "properties": {"apparmor": {"type": "string"},
                                                   "selinux": {"type": "string"}},
                  "minProperties": 1, "maxProperties": 1, "additionalProperties": False}
        return {"type": "array",
                "items": {"anyOf": [{"enum": ["landlock", "none", "refuse"]}, module]}}


def available(alternative: str, facts: HostFacts) -> bool:
    """Whether this host can enforce one alternative."""
    module, _, name = alternative.partition(":")
    if module == "apparmor":
        return facts.apparmor.available and name in facts.apparmor_profiles
    if module == "selinux":
        return facts.selinux.available and name in facts.selinux_types
    return module == "none" or facts.landlock_abi > 0


def resolve(value: frozenset[Clause], facts: HostFacts) -> tuple[str, ...] | None:
    """What fulfils every clause on this host, in canonical order; None when something is missing.

    Two SELinux types can't both hold (a process has one), so they are missing as well. Of labels
    that carry each other the strictest is left.
    """
    chosen: set[str] = set()
    for clause in sorted(value):
        first = next((a for a in clause if available(a, facts)), None)
        if first is None:
            return None
        chosen.add(first)
    chosen -= {implied for label in chosen for implied in _implied(label)}
    if sum(name.startswith("selinux:") for name in chosen) > 1:
        return None
    return tuple(sorted(chosen - {"none"}))


def _lacking(value: frozenset[Clause], facts: HostFacts) -> str:
    """Why a clause comes to less than its first label; one module's is as good as another's."""
    missing: list[str] = []
    for clause in sorted(value):
        first = next((a for a in clause if available(a, facts)), "none")
        if first.partition(":")[0] in ("apparmor", "selinux"):
            continue
        skipped = clause[:clause.index(first)] if first in clause else clause
        missing += skipped[:1] if not any(_present(a, facts) for a in skipped) else \
            [a for a in skipped if _present(a, facts)][:1]
    return ", ".join(dict.fromkeys(_why(alternative, facts) for alternative in missing))


def _present(alternative: str, facts: HostFacts) -> bool:
    """Whether the module of a label is there, so that it is the one to speak of."""
    module = alternative.partition(":")[0]
    return module in ("apparmor", "selinux") and bool(getattr(facts, module).available)


def _why(alternative: str, facts: HostFacts) -> str:
    module, _, name = alternative.partition(":")
    title = {"apparmor": "AppArmor", "selinux": "SELinux", "landlock": "Landlock"}[module]
    if module == "landlock" or not getattr(facts, module).available:
        return f"{title} not on this host"
    if module == "apparmor" and name in facts.apparmor_complaining:
        return f"AppArmor has {name} in a mode that stops nothing"
    if module == "selinux" and name in facts.selinux_refused:
        return f"SELinux: {name} {facts.selinux_refused[name]}"
    return f"{title} has no {name}"


def _fix(value: frozenset[Clause], facts: HostFacts) -> str:
    for alternative in (a for clause in sorted(value) for a in clause):
        module = alternative.partition(":")[0]
        if _policy_of(alternative) and getattr(facts, module).available \
                and not available(alternative, facts):
            return f"as root: hardrun profile install --module {module}"
    return "load the profile that the policy names, or let the policy name what this host has"


def _mandatory(value: frozenset[Clause], facts: HostFacts) -> Enforcement:
    if not value:
        return enforced("not asked for")
    chosen = resolve(value, facts)
    because = _lacking(value, facts)
    fix = _fix(value, facts)
    if chosen is None and not facts.landlock.available \
            and any("landlock" in clause for clause in value):
        return by_fact("landlock", "Landlock", facts.landlock)
    if chosen is None:
        return degraded(because=because or "two SELinux types at once", fix=fix, fact="mandatory")
    if not chosen:
        return degraded(because=because or "the policy accepts none", fix=fix, fact="mandatory")
    label = next((name for name in chosen if name.startswith("selinux:")), None)
    if label is not None and facts.selinux_categories < 2:
        return degraded(*chosen, because="the caller has no categories to give: sandboxes of "
                        f"{label.removeprefix('selinux:')} share one label",
                        fix="as root: semanage login -m -r s0-s0:c0.c1023 USER",
                        fact="selinux_categories")
    if because:
        return replaced(*chosen, because=because, fix=fix, fact="mandatory")
    return enforced(*chosen)


def _landlock(value: bool, facts: HostFacts) -> Enforcement:
    if not value:
        return enforced("not asked for")
    if facts.landlock_abi == 0:
        return degraded("mounts", because="Landlock is not in this kernel or not switched on",
                        fix="boot with lsm=landlock,… (kernel 5.13 or later)", fact="landlock_abi")
    layer = f"Landlock ABI {facts.landlock_abi}"
    if not landlock.scopes(facts.landlock_abi):
        lacking = ", ".join(landlock.lacking(facts.landlock_abi))
        return replaced(layer, "mounts", "namespaces", because=f"it knows nothing of {lacking}",
                        fix="a newer kernel", fact="landlock_abi")
    return enforced(layer)


MANDATORY = Clauses(
    id="mandatory",
    title="mandatory access control",
    meaning="Alternatives, the best first: {apparmor: PROFILE}, {selinux: TYPE}, landlock. A list"
            " that ends in refuse demands one of them.",
    loosest=frozenset(),
    default=frozenset(),
    enforce=_mandatory,
)

LANDLOCK = Flag(
    id="landlock",
    title="Landlock",
    meaning="Whether file access is also limited by a Landlock domain.",
    loosest=False,
    default=True,
    enforce=_landlock,
)
