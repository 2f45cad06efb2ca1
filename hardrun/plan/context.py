"""What every compile step works from, and how it reads a posture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hardrun.errors import PlanError
from hardrun.plan.schema import Operation, Unsafe
from hardrun.posture.filesystem import OVERLAY
from hardrun.posture.limits import CGROUP

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts
    from hardrun.plan.root import Account
    from hardrun.plan.view import View
    from hardrun.state.ranges import Wish
    from hardrun.workload.model import Workload


class Layer(NamedTuple):
    """Where changes of a root are kept: which layer (from 1 on) of which directory."""

    directory: str
    number: int


@dataclass(frozen=True)
class Context:
    """One run: the posture granted (control id → value), the reasons, the workload, the host.

    ``layers`` are what the Decision has each control enforced by.
    ``degraded`` are the controls of which the Decision says that this host can't enforce them.
    ``pinned``: the plan is executed by the process that makes it, so that sources of binds are
    held to device and inode; otherwise it is stored and says what must still be true.
    ``layer`` is where a named container keeps the changes of its root.
    """

    posture: Mapping[str, object]
    reasons: Mapping[str, str]
    degraded: frozenset[str]
    workload: Workload
    facts: HostFacts
    account: Account
    view: View
    caller_environment: Mapping[str, str]
    pinned: bool
    layers: Mapping[str, tuple[str, ...]]
    layer: Layer | None = None

    def flag(self, control: str) -> bool:
        """The value of a control that is on or off."""
        value = self.posture.get(control)
        if not isinstance(value, bool):
            raise _unknown(control, value)
        return value

    def number(self, control: str) -> int:
        """The value of a limit or mask."""
        value = self.posture.get(control)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise _unknown(control, value)
        return value

    def word(self, control: str) -> str:
        """The value of a control with named steps."""
        value = self.posture.get(control)
        if not isinstance(value, str):
            raise _unknown(control, value)
        return value

    def names(self, control: str) -> frozenset[str]:
        """The value of a control that is a set of names or paths."""
        return names_of(self.posture, control)

    def clauses(self, control: str) -> frozenset[tuple[str, ...]]:
        """The value of a control that is a conjunction of alternatives."""
        value = self.posture.get(control)
        if not isinstance(value, frozenset) or not all(isinstance(c, tuple) for c in value):
            raise _unknown(control, value)
        return value

    def in_cgroup(self) -> frozenset[str]:
        """The controls that the Decision has enforced by a cgroup of the sandbox's own."""
        return frozenset(control for control, layers in self.layers.items()
                         if any(layer.startswith(CGROUP) for layer in layers))

    def proc(self) -> str:
        """What kind of /proc there is: where none can be mounted, none at all (PR-10)."""
        return self.word("filesystem.proc") if self.facts.proc_mount.available else "none"

    def overlay(self) -> str:
        """What lies over the root: nothing where there is none, or where the host can't have it."""
        if self.workload.rootfs is None or OVERLAY.id in self.degraded:
            return "none"
        return self.word(OVERLAY.id)

    def reason(self, control: str) -> str:
        """``control id, file:line``: what an error message and ``plan show`` cite."""
        return self.reasons.get(control, control)


def names_of(posture: Mapping[str, object], control: str) -> frozenset[str]:
    """A control of ``posture`` that is a set of names. Raises PlanError where it is unknown."""
    value = posture.get(control)
    if not isinstance(value, frozenset) or not all(isinstance(name, str) for name in value):
        raise _unknown(control, value)
    return value


def _unknown(control: str, value: object) -> PlanError:
    return PlanError(f"the decision does not say what {control} is ({value!r})",
                     hint="make the decision again with this version of hardrun")


@dataclass
class Program:
    """The operations collected so far, the defences left out on purpose, and ids to be taken."""

    context: Context
    operations: list[Operation] = field(default_factory=list)
    unsafe: Unsafe = field(default_factory=lambda: Unsafe(0))
    ids: Wish | None = None

    def add(self, control: str, name: str, *values: int | str | bytes) -> None:
        """Append an operation that ``control`` causes."""
        self.operations.append(Operation(name, values, self.context.reason(control)))
