"""The network: none, or the host's. Allow-lists and bridges will be levels between the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardrun.posture.control import Enforcement, degraded, enforced
from hardrun.posture.orders import Level

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts


def _network(value: str, facts: HostFacts) -> Enforcement:
    if value == "host":
        return enforced("not restricted")
    fact = facts.network_namespace
    if not fact.available:
        return degraded(because=f"no network namespace: {fact.detail or 'refused by the kernel'}",
                        fix=fact.fix, fact="network_namespace")
    return enforced("network namespace", "seccomp")


NETWORK = Level(
    id="network",
    title="network",
    meaning="What can be reached: none (a loopback interface of its own) or host.",
    levels=("none", "host"),
    loosest="host",
    default="none",
    enforce=_network,
)
