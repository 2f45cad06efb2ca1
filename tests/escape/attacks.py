"""What an attack is, and the three things that are asked of each.

It is refused by every policy that does not say that it gives the property up. Each layer that is
said to hold it holds it alone. Without all of them it works: else nothing was shown at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.escape.layers import LAYERS, Removal
from tests.escape.probe import Answer, Call

OK = frozenset({"ok"})
REFUSED = frozenset({"EPERM", "EACCES", "ENOSYS"})


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Calls that must come to nothing.

    ``layers`` are the names of the defences that hold it, each alone; ``also`` what else has to be
    taken away before it works (a path that has to be shown) under a name of its own. ``refused``
    and ``works`` are the words that its last step may end with; ``works`` may be a function of the
    whole answer. ``given_up``: the policies that allow it, and why. ``inconclusive``: why it can't
    work on this kernel without any defence, where that is so; then the simulator has to show it.
    """

    property: str
    name: str
    steps: tuple[Call, ...]
    layers: tuple[str, ...]
    refused: frozenset[str] = REFUSED
    works: frozenset[str] | Callable[[Answer], bool] = OK
    also: Mapping[str, Removal] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    given_up: Mapping[str, str] = field(default_factory=dict)
    inconclusive: str = ""

    @property
    def id(self) -> str:
        """``SC-13 io_uring_setup``."""
        return f"{self.property} {self.name}"

    def is_refused(self, answer: Answer) -> bool:
        """Whether the defence is what answered."""
        return answer.word in self.refused and not self.succeeded(answer)

    def succeeded(self, answer: Answer) -> bool:
        """Whether the attack got what it wants."""
        if callable(self.works):
            return self.works(answer)
        return answer.word in self.works

    def shares_a_sandbox_with(self, other: Attack) -> bool:
        """Whether both are tried on the same sandbox, whichever layers are taken away."""
        return (self.property, self.layers, self.also, self.options) == (
            other.property, other.layers, other.also, other.options)

    def removals(self, keeping: str = "") -> list[Removal]:
        """All that has to be taken away, but for one layer."""
        known = {**LAYERS, **self.also}
        names = [*self.layers, *(name for name in self.also if name not in self.layers)]
        return [known[name] for name in names if name != keeping]
