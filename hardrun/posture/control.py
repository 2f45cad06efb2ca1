"""What a control is, how it says whether a host enforces it, and the Posture that holds all values.

A control is one dimension of isolation. Its values form a lattice: ``at_most`` is the partial
order *no looser than*, ``meet`` the loosest value that is no looser than both, ``join`` a value
that is no stricter than both. The engine knows no control by name; all it does it does by these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from hardrun.host.facts import Fact, HostFacts

T = TypeVar("T")

UNLIMITED = 2**63 - 1

Relation = Literal["equal", "stricter", "looser", "incomparable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enforcement:
    """How one control's value comes into force on one host.

    ``enforced``: by the layers that are meant for it. ``replaced``: by other layers that carry the
    same rules. ``degraded``: weaker than asked, or (``by`` is empty) not at all. ``because`` says
    why it isn't ``enforced``, ``fact`` names the host fact at fault, ``fix`` what would change it.
    """

    kind: Literal["enforced", "replaced", "degraded"]
    by: tuple[str, ...] = ()
    because: str = ""
    fix: str = ""
    fact: str = ""


def enforced(*by: str) -> Enforcement:
    """The value is in force by these layers."""
    return Enforcement(kind="enforced", by=by)


def replaced(*by: str, because: str, fix: str = "", fact: str = "") -> Enforcement:
    """Other layers than the intended ones carry the same rules."""
    return Enforcement(kind="replaced", by=by, because=because, fix=fix, fact=fact)


def degraded(*by: str, because: str, fix: str = "", fact: str = "") -> Enforcement:
    """The value is enforced in part by these layers, or by none."""
    return Enforcement(kind="degraded", by=by, because=because, fix=fix, fact=fact)


def by_fact(name: str, what: str, fact: Fact, *by: str) -> Enforcement:
    """Enforced by these layers where the fact holds, else by none."""
    if fact.available:
        return enforced(*by)
    why = fact.detail or fact.layer or "refused by the kernel"
    return degraded(because=f"no {what}: {why}", fix=fact.fix, fact=name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Control(ABC, Generic[T]):
    """One dimension of a posture.

    ``loosest`` is the top of the lattice: no restriction. ``default`` is what a policy grants
    unasked when it bounds the control and names no default of its own; for what must be asked for
    (a network, a capability, a path) that is the strictest value. ``enforce`` tells by host facts
    how a value comes into force. ``meaning`` is the sentence of the reference page, ``field`` the
    place in a policy document where it is not the id. ``unsaid`` is what a policy that was chosen
    grants unasked when it does not mention the control at all; None: it has no opinion.
    """

    id: str
    title: str
    meaning: str
    loosest: T
    default: T
    enforce: Callable[[T, HostFacts], Enforcement]
    field: str = ""
    unsaid: T | None = None

    @property
    def place(self) -> str:
        """The dotted name of the field in a policy document."""
        return self.field or self.id

    @abstractmethod
    def at_most(self, a: T, b: T) -> bool:
        """Whether ``a`` is ``b`` or stricter."""

    @abstractmethod
    def meet(self, a: T, b: T) -> T:
        """The loosest value that is no looser than ``a`` and no looser than ``b``."""

    @abstractmethod
    def join(self, a: T, b: T) -> T:
        """A value that is no stricter than ``a`` and no stricter than ``b``."""

    @abstractmethod
    def parse(self, raw: object) -> T:
        """The value that a policy document writes as ``raw``; ValueError says what is wrong."""

    @abstractmethod
    def show(self, value: T) -> str:
        """The value in words for people."""

    @abstractmethod
    def dump(self, value: T) -> Any:
        """The value as JSON, in one canonical form."""

    @abstractmethod
    def load(self, data: Any) -> T:
        """The inverse of ``dump``; ValueError when it isn't one."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """The JSON schema of what ``parse`` accepts."""

    def spell(self, value: T) -> str:
        """The value as a flag or a policy would say it."""
        return self.show(value)

    def granted(self, asked: T, unasked: T) -> T:
        """What a request that is within the bounds comes to: what was asked, exactly."""
        return asked

    def compare(self, a: T, b: T) -> Relation:
        """How ``a`` stands to ``b``: ``stricter`` means that ``a`` is the stricter one."""
        below, above = self.at_most(a, b), self.at_most(b, a)
        if below and above:
            return "equal"
        return "stricter" if below else "looser" if above else "incomparable"

    def enforcement(self, value: T, facts: HostFacts) -> Enforcement:
        """How ``value`` comes into force on a host with these facts."""
        if not facts.namespaces:
            from hardrun.posture.landlock_tier import RULES  # it knows the controls, not they it

            return RULES.get(self.id, self.enforce)(value, facts)
        return self.enforce(value, facts)

    def __repr__(self) -> str:
        return f"<control {self.id}>"


class Posture:
    """The value of every control, immutable. A control without an entry is *unknown*."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = MappingProxyType(dict(values))

    def __getitem__(self, control: Control[T]) -> T:
        """The value of a control; KeyError when it is unknown."""
        value: T = self._values[control.id]
        return value

    def get(self, control: Control[T], default: T) -> T:
        """The value of a control, or ``default`` when it is unknown."""
        value: T = self._values.get(control.id, default)
        return value

    def __contains__(self, control: Control[Any]) -> bool:
        return control.id in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Posture) and self._values == other._values

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return f"Posture({dict(self._values)!r})"
