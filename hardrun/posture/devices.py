"""Device nodes in /dev, bound from the host and compared by number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardrun.posture.control import Enforcement, enforced
from hardrun.posture.orders import Names

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts

_ALL = frozenset({"null", "zero", "full", "random", "urandom", "tty"})


def _devices(value: frozenset[str], facts: HostFacts) -> Enforcement:
    return enforced("private /dev", "nodev mounts")


DEVICES = Names(
    id="devices",
    title="devices",
    meaning="Device nodes in /dev.",
    loosest=_ALL,
    default=_ALL,
    enforce=_devices,
)
