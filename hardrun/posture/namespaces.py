"""Namespaces that are shared with the host, and namespaces made inside.

The mount, pid and user namespaces are always private: without them there is no sandbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardrun.posture.control import Enforcement, degraded, enforced
from hardrun.posture.orders import Flag, Names

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts

_ALL = frozenset({"cgroup", "ipc", "uts"})


def needs_user_namespace(facts: HostFacts, *by: str) -> Enforcement:
    """Enforced by these layers where the user may make user namespaces, else by none."""
    if facts.user_namespaces.available:
        return enforced(*by)
    why = facts.user_namespaces.detail or "refused by the kernel"
    return degraded(because=f"no user namespace: {why}", fix=facts.user_namespaces.fix,
                    fact="user_namespaces")


def _shared(value: frozenset[str], facts: HostFacts) -> Enforcement:
    private = sorted(_ALL - value)
    return needs_user_namespace(facts, *(f"{name} namespace" for name in private)) if private \
        else enforced("nothing to separate")


def _nested(value: bool, facts: HostFacts) -> Enforcement:
    if value:
        return enforced("not restricted")
    return needs_user_namespace(facts, "user.max_user_namespaces", "seccomp")


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
