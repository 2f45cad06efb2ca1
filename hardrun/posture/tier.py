"""The least tier that a sandbox may run in.

``full`` has namespaces and mounts of its own. ``landlock`` has none: Landlock, seccomp and
no_new_privs hold a process that stays among the host's others. A host grants the best that it has;
where that is less than this, nothing is started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardrun.posture.control import Enforcement, enforced
from hardrun.posture.orders import Level

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts


def _tier(value: str, facts: HostFacts) -> Enforcement:
    return enforced("full tier: namespaces, mounts")


MIN_TIER = Level(
    id="min_tier",
    title="least tier",
    meaning="full (namespaces) or landlock (none: Landlock and seccomp alone). The best that the"
            " host has is granted; a policy that does not mention it gives full unless asked.",
    levels=("full", "landlock"),
    loosest="landlock",
    default="landlock",
    enforce=_tier,
    unsaid="full",
)
