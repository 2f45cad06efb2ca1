"""The network: none, or the host's. Allow-lists and bridges will be levels between the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardrun.posture.control import Enforcement, by_fact, enforced
from hardrun.posture.orders import Level

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts


def _network(value: str, facts: HostFacts) -> Enforcement:
    if value == "host":
        return enforced("not restricted")
    return by_fact("network_namespace", "network namespace", facts.network_namespace,
                   "network namespace", "seccomp")


NETWORK = Level(
    id="network",
    title="network",
    meaning="What can be reached: none (a loopback interface of its own) or host.",
    levels=("none", "host"),
    loosest="host",
    default="none",
    enforce=_network,
)
