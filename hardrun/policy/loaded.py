"""A policy as the engine sees it: values with the lines they stand on, parents included."""

from __future__ import annotations

import fnmatch
import os.path
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hardrun.errors import PolicyError

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts
    from hardrun.workload.model import Workload

Layer = Literal["built-in", "system", "user", "workload"]
Acceptance = Literal["refuse", "weaker", "degrade"]

ACCEPTANCES: tuple[Acceptance, ...] = ("refuse", "weaker", "degrade")
"""What a policy accepts where the host lacks something, from strict to loose. ``weaker`` is what
holds where a policy says nothing: a degraded control passes if some layer still enforces it."""


class Said(NamedTuple):
    """One value in one policy: what it says of a control and where.

    ``excepted`` are the paths that its ``danger:`` names; other known ways out stay closed.
    """

    value: Any
    line: int
    origin: str
    excepted: frozenset[str] = frozenset()


class DangerGrant(NamedTuple):
    """One entry of ``danger:``."""

    grants: Mapping[str, Any]
    reason: str
    line: int
    origin: str


class Case(NamedTuple):
    """One entry of ``tests:``."""

    request: Mapping[str, Any]
    refused: tuple[str, ...]
    granted: Mapping[str, Any]
    line: int


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedPolicy:
    """One policy of one layer.

    ``file`` is the name that messages cite. ``bounds`` and ``defaults`` hold, per control, one
    ``Said`` for each document that says something: the policy's own and those of the policies it
    is *within*. ``chosen``: named by the caller, or the default; others apply where they match. An
    empty ``match`` matches everything, None nothing.
    """

    name: str
    file: str
    layer: Layer
    description: str = ""
    within: tuple[tuple[str, int], ...] = ()
    match: Mapping[str, Any] | None = None
    bounds: Mapping[str, tuple[Said, ...]] = field(default_factory=dict)
    defaults: Mapping[str, tuple[Said, ...]] = field(default_factory=dict)
    dangers: tuple[DangerGrant, ...] = ()
    host: Mapping[str, tuple[Acceptance, str]] = field(default_factory=dict)
    tests: tuple[Case, ...] = ()
    chosen: bool = False

    def accepts(self, control: str) -> Acceptance | None:
        """What the policy accepts of a host that lacks a control; None: it says nothing of it."""
        if control in self.host:
            return self.host[control][0]
        return "weaker" if control in self.bounds else None

    def applies(self, workload: Workload, facts: HostFacts) -> bool:
        """Whether the policy is in force for a workload."""
        if self.chosen:
            return True
        return self.match is not None and matches(self.match, workload, facts)


def _any(patterns: str | Sequence[str], *values: str | None) -> bool:
    if isinstance(patterns, str):
        patterns = (patterns,)
    return any(fnmatch.fnmatchcase(value, pattern)
               for pattern in patterns for value in values if value is not None)


def matches(match: Mapping[str, Any], workload: Workload, facts: HostFacts) -> bool:
    """Whether every condition of ``match:`` holds; patterns are those of a shell."""
    command = workload.argv[0] if workload.argv else ""
    tests: Mapping[str, Callable[[Any], bool]] = {
        "trust": lambda want: _any(want, workload.trust),
        "command": lambda want: _any(want, command, os.path.basename(command)),
        "user": lambda want: _any(want, facts.user_name, str(facts.uid)),
        "group": lambda want: _any(want, *map(str, (facts.gid, *facts.supplementary_groups))),
        "labels": lambda want: all(_any(v, workload.labels.get(k)) for k, v in want.items()),
        "image": lambda want: _any(want, workload.rootfs),
        "host": lambda want: _any(want, facts.architecture, facts.kernel_release),
    }
    return all(tests[key](want) for key, want in match.items())


def _strictest(one: Acceptance, other: Acceptance) -> Acceptance:
    return min(one, other, key=ACCEPTANCES.index)


class Catalogue:
    """Every policy of every layer, by name. A name may stand in several layers: all of them apply,
    so that no layer can loosen what another says under the same name."""

    def __init__(self, policies: Sequence[LoadedPolicy]) -> None:
        self._by_name: dict[str, list[LoadedPolicy]] = {}
        for policy in policies:
            self._by_name.setdefault(policy.name, []).append(policy)

    @property
    def names(self) -> tuple[str, ...]:
        """The names there are, sorted."""
        return tuple(sorted(self._by_name))

    def own(self, name: str) -> tuple[LoadedPolicy, ...]:
        """The policies of a name, without what their parents say."""
        return tuple(self._by_name.get(name, ()))

    def parents(self, policy: LoadedPolicy) -> tuple[LoadedPolicy, ...]:
        """The policies that ``policy`` is directly within. PolicyError when one doesn't exist."""
        found: list[LoadedPolicy] = []
        for name, line in policy.within:
            # A policy may be within the one of the same name in a lower layer.
            named = [p for p in self.own(name) if p is not policy]
            if not named:
                from hardrun.posture.orders import nearest

                raise PolicyError(f"no policy {name!r}{nearest(name, self.names)}",
                                  file=policy.file, line=line, field="within")
            found += named
        return tuple(found)

    def chain(self, policy: LoadedPolicy) -> tuple[LoadedPolicy, ...]:
        """The policy and all that it is within, each once. PolicyError when that is a cycle."""
        order: list[LoadedPolicy] = []

        def visit(current: LoadedPolicy, path: tuple[LoadedPolicy, ...]) -> None:
            if current in path:
                names = " within ".join(p.name for p in (*path[path.index(current):], current))
                raise PolicyError(f"a cycle: {names}", file=policy.file, field="within",
                                  line=policy.within[0][1] if policy.within else None)
            for parent in self.parents(current):
                visit(parent, (*path, current))
            if current not in order:
                order.append(current)

        visit(policy, ())
        return tuple(reversed(order))

    def resolve(self, policy: LoadedPolicy, *, chosen: bool = False) -> LoadedPolicy:
        """The policy with its parents' bounds, and their defaults where it says nothing itself."""
        chain = self.chain(policy)
        bounds: dict[str, tuple[Said, ...]] = {}
        host: dict[str, tuple[Acceptance, str]] = {}
        for member in chain:
            for control, said in member.bounds.items():
                bounds[control] = bounds.get(control, ()) + said
            for control, (acceptance, origin) in member.host.items():
                if control not in host or _strictest(acceptance, host[control][0]) \
                        != host[control][0]:
                    host[control] = acceptance, origin
        return replace(policy, bounds=bounds, defaults=self._defaults(policy), host=host,
                       dangers=tuple(d for member in chain for d in member.dangers), chosen=chosen)

    def _defaults(self, policy: LoadedPolicy) -> dict[str, tuple[Said, ...]]:
        defaults: dict[str, tuple[Said, ...]] = {}
        for parent in self.parents(policy):
            for control, said in self._defaults(parent).items():
                if control not in policy.bounds:
                    defaults[control] = defaults.get(control, ()) + said
        defaults.update(policy.defaults)
        return defaults

    def resolved(self, chosen: Sequence[str]) -> tuple[LoadedPolicy, ...]:
        """Every policy with its parents; those named in ``chosen`` apply whatever they match."""
        return tuple(self.resolve(policy, chosen=policy.name in chosen)
                     for name in self.names for policy in self.own(name))


MUST_BE_BOUNDED = ("network", "filesystem.visible", "filesystem.readable", "filesystem.writable",
                   "capabilities", "seccomp", "no_new_privs", "environment")


def unbounded(policies: Sequence[LoadedPolicy]) -> tuple[str, ...]:
    """The controls that a set of policies would leave without any bound, of those that matter.

    What a policy doesn't mention it doesn't restrict; so a policy that is run under by itself must
    mention, or be within one that mentions, what keeps a command in.
    """
    return tuple(control for control in MUST_BE_BOUNDED
                 if not any(control in policy.bounds for policy in policies))
