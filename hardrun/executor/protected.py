"""Names that a sandbox could plant for somebody to execute later, outside.

What exists is bound read-only over itself by the plan. What does not exist can't be; it is looked
for when the sandbox has ended, and reported. In the landlock tier, where nothing can be bound, what
was changed is reported as well.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from hardrun.plan.protect import find_protected
from hardrun.posture.filesystem import PROTECTED

if TYPE_CHECKING:
    from hardrun.policy.decision import Decision
    from hardrun.workload.model import Workload


Seen = Mapping[str, tuple[int, ...]]
"""Protected paths, each with a trace that every change of it alters."""


class Protected(NamedTuple):
    """Writable grants and the names that are protected beneath them.

    ``held``: what exists is read-only, so that only what is new has to be told.
    """

    directories: tuple[str, ...]
    names: frozenset[str]
    held: bool = True

    @classmethod
    def of(cls, decision: Decision, workload: Workload) -> Protected:
        """What has to be looked at for this run: nothing unless both are there."""
        names = decision.posture.get(PROTECTED, frozenset())
        writable = tuple(m.source for m in workload.mounts if m.access == "rw" and m.source)
        held = decision.tier != "landlock"
        return cls(writable, names, held) if writable and names else cls((), frozenset())

    def existing(self) -> Seen:
        """The protected paths that exist now; where they aren't held, with a trace of each."""
        return {path: () if self.held else _trace(path) for directory in self.directories
                for path in find_protected(directory, self.names)}

    def created(self, before: Seen) -> tuple[str, ...]:
        """The protected paths that did not exist before, or are not what they were."""
        return tuple(sorted(path for path, trace in self.existing().items()
                            if before.get(path) != trace))


def _trace(path: str) -> tuple[int, ...]:
    """Device, inode and time of change of a path and all below it; no program can set that time."""
    found: list[int] = []
    todo = [path]
    while todo:
        here = todo.pop()
        try:
            status = os.lstat(here)
            if stat.S_ISDIR(status.st_mode):
                todo += sorted(os.path.join(here, name) for name in os.listdir(here))
        except OSError:
            continue
        found += [status.st_dev, status.st_ino, status.st_ctime_ns]
    return tuple(found)
