"""Mandatory access control: AppArmor, SELinux, Landlock, as the host has them.

A policy names alternatives in order; the first that the host can enforce is taken. Policies add
up: every policy's list must be fulfilled, a conjunction of clauses, and the meet is their union.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hardrun.posture.control import Enforcement, degraded, enforced, replaced
from hardrun.posture.orders import Flag, Obligations

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts

Clause = tuple[str, ...]
_ALTERNATIVE = re.compile(r"(apparmor|selinux):[A-Za-z0-9_][A-Za-z0-9_./-]*|landlock|none")


def _alternative(raw: object) -> str:
    if isinstance(raw, dict) and len(raw) == 1:
        (module, name), = raw.items()
        raw = f"{module}:{name}"
    if not isinstance(raw, str) or (raw != "refuse" and _ALTERNATIVE.fullmatch(raw) is None):
        raise ValueError(f"{raw!r} is not one of {{apparmor: PROFILE}}, {{selinux: TYPE}},"
                         " landlock, none, refuse")
    return raw


class Clauses(Obligations[Clause]):
    """A conjunction of clauses; fewer alternatives are stricter."""

    def implies(self, strict: Clause, weak: Clause) -> bool:
        return set(strict) <= set(weak)

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

    Two SELinux types can't both hold (a process has one), so they are missing as well.
    """
    chosen: set[str] = set()
    for clause in sorted(value):
        first = next((a for a in clause if available(a, facts)), None)
        if first is None:
            return None
        chosen.add(first)
    if sum(name.startswith("selinux:") for name in chosen) > 1:
        return None
    return tuple(sorted(chosen - {"none"}))


def _lacking(value: frozenset[Clause], facts: HostFacts) -> str:
    first = [clause[0] for clause in sorted(value) if not available(clause[0], facts)]
    modules = {"apparmor": "AppArmor", "selinux": "SELinux", "landlock": "Landlock"}
    reasons = []
    for alternative in first:
        module, _, name = alternative.partition(":")
        loaded = getattr(facts, module).available if module in ("apparmor", "selinux") else False
        reasons.append(f"{modules[module]} has no {name}" if loaded
                       else f"{modules[module]} not on this host")
    return ", ".join(dict.fromkeys(reasons))


def _mandatory(value: frozenset[Clause], facts: HostFacts) -> Enforcement:
    if not value:
        return enforced("not asked for")
    chosen = resolve(value, facts)
    because = _lacking(value, facts)
    fix = "load the profile that the policy names, or let the policy name what this host has"
    if chosen is None:
        return degraded(because=because or "two SELinux types at once", fix=fix, fact="mandatory")
    if not chosen:
        return degraded(because=because or "the policy accepts none", fix=fix, fact="mandatory")
    if because:
        return replaced(*chosen, because=because, fix=fix, fact="mandatory")
    return enforced(*chosen)


def _landlock(value: bool, facts: HostFacts) -> Enforcement:
    if not value:
        return enforced("not asked for")
    if facts.landlock_abi == 0:
        return degraded("mounts", because="Landlock is not in this kernel or not switched on",
                        fix="boot with lsm=landlock,… (kernel 5.13 or later)", fact="landlock_abi")
    return enforced(f"Landlock ABI {facts.landlock_abi}")


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
