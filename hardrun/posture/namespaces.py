"""Namespaces that are shared with the host, and namespaces made inside.

The mount, pid and user namespaces are always private: without them there is no sandbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardrun.posture.control import Enforcement, by_fact, degraded, enforced
from hardrun.posture.orders import Flag, Names

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts

_ALL = frozenset({"cgroup", "ipc", "uts"})


def needs_user_namespace(facts: HostFacts, *by: str) -> Enforcement:
    """Enforced by these layers where the user may make user namespaces, else by none."""
    return by_fact("user_namespaces", "user namespace", facts.user_namespaces, *by)


def _shared(value: frozenset[str], facts: HostFacts) -> Enforcement:
    private = ["mount", "pid", *sorted(_ALL - value)]
    by = [f"{name} namespace" for name in private]
    for name in ("user", *private):
        fact = f"{name}_namespaces" if name == "user" else f"{name}_namespace"
        held = by_fact(fact, f"{name} namespace", getattr(facts, fact), *by)
        if held.kind != "enforced":
            return held
    if "uts" not in value and not facts.host_name.available:
        return degraded(*by, because="the host name around it is seen: "
                        f"{facts.host_name.detail}", fix=facts.host_name.fix, fact="host_name")
    return enforced(*by)


def _nested(value: bool, facts: HostFacts) -> Enforcement:
    if value:
        return enforced("not restricted")
    if facts.nested_namespaces_limit.available:
        return needs_user_namespace(facts, "user.max_user_namespaces", "seccomp")
    return degraded("seccomp", because="user.max_user_namespaces can't be lowered inside",
                    fix=facts.nested_namespaces_limit.fix, fact="nested_namespaces_limit")


SHARED = Names(
    id="namespaces.shared",
    title="shared namespaces",
    meaning="Namespaces that the sandbox shares with the host: ipc, uts, cgroup.",
    loosest=_ALL,
    default=frozenset(),
    enforce=_shared,
)

NESTED = Flag(
    id="namespaces.nested",
    title="nested user namespaces",
    meaning="Whether the workload may make user namespaces of its own.",
    loosest=True,
    default=False,
    enforce=_nested,
)
