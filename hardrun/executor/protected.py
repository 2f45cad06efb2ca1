"""Names that a sandbox could plant for somebody to execute later, outside.

What exists is bound read-only over itself by the plan. What does not exist can't be; it is looked
for when the sandbox has ended, and reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hardrun.plan.protect import find_protected
from hardrun.posture.filesystem import PROTECTED

if TYPE_CHECKING:
    from hardrun.policy.decision import Decision
    from hardrun.workload.model import Workload


class Protected(NamedTuple):
    """Writable grants and the names that are protected beneath them."""

    directories: tuple[str, ...]
    names: frozenset[str]

    @classmethod
    def of(cls, decision: Decision, workload: Workload) -> Protected:
        """What has to be looked at for this run: nothing unless both are there."""
        names = decision.posture.get(PROTECTED, frozenset())
        writable = tuple(m.source for m in workload.mounts if m.access == "rw" and m.source)
        return cls(writable, names) if writable and names else cls((), frozenset())

    def existing(self) -> frozenset[str]:
        """The protected paths that exist now."""
        return frozenset(path for directory in self.directories
                         for path in find_protected(directory, self.names))

    def created(self, before: frozenset[str]) -> tuple[str, ...]:
        """The protected paths that exist now and did not exist before."""
        return tuple(sorted(self.existing() - before))
