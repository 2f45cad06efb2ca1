"""The Decision: what was granted, who asked, which line decided, and how this host enforces it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hardrun.errors import PlanError
from hardrun.posture.control import Enforcement, Posture
from hardrun.posture.registry import BY_ID
from hardrun.posture.tier import MIN_TIER
from hardrun.values import freeze, load, opened, plain

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Danger:
    """A granted value that is a known way out, with the policy's reason for it."""

    control: str
    shown: str
    reason: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlDecision:
    """What became of one control.

    ``value`` is the granted value as JSON (``Control.load`` reads it), ``shown`` the same for
    people. ``asked_by`` is the flag, or empty. ``decided_by`` is what the value comes from: a flag,
    or ``file:line``, with the word *default* where a policy's default decided. ``bound_by`` names
    the lines that bound it, ``clipped_from`` the default that was looser than the bounds.
    """

    control: str
    value: Any
    shown: str
    asked_by: str = ""
    decided_by: str
    bound_by: str = ""
    enforcement: Enforcement
    clipped_from: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", freeze(self.value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The engine's answer: immutable, serialisable, equal for equal inputs.

    ``workload`` is ``Workload.canonical()``: no value of an environment variable is in it.
    """

    schema_version: int = SCHEMA_VERSION
    policies: tuple[str, ...]
    controls: tuple[ControlDecision, ...]
    dangers: tuple[Danger, ...] = ()
    workload: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "workload", freeze(self.workload))

    @property
    def posture(self) -> Posture:
        """The granted value of every control."""
        return Posture({c.control: BY_ID[c.control].load(plain(c.value)) for c in self.controls})

    @property
    def tier(self) -> str:
        """The tier that was granted: ``full``, or ``landlock`` where there are no namespaces."""
        granted = (c.enforcement.kind for c in self.controls if c.control == MIN_TIER.id)
        return "landlock" if "degraded" in granted else "full"

    def control(self, control_id: str) -> ControlDecision:
        """The decision about one control; KeyError when there is none."""
        for decided in self.controls:
            if decided.control == control_id:
                return decided
        raise KeyError(control_id)

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, ASCII only, so that any bytes of argv survive."""
        return json.dumps(self, default=opened, sort_keys=True,
                          separators=(",", ":")).encode("ascii")

    def __deepcopy__(self, memo: object = None) -> Decision:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Decision.from_json, (self.to_json(),)

    @classmethod
    def from_json(cls, data: bytes) -> Decision:
        """The inverse of ``to_json``; PlanError when ``data`` is no Decision of this version."""
        try:
            decision = load(cls, json.loads(data))
        except (ValueError, RecursionError) as error:
            raise PlanError(f"the Decision in this plan can't be read: {error}") from error
        if decision.schema_version != SCHEMA_VERSION:
            raise PlanError(f"the Decision has version {decision.schema_version},"
                            f" this hardrun reads {SCHEMA_VERSION}")
        unknown = [c.control for c in decision.controls if c.control not in BY_ID]
        if unknown:
            raise PlanError(f"the Decision names an unknown control: {unknown[0]}")
        for decided in decision.controls:
            try:
                BY_ID[decided.control].load(plain(decided.value))
            except ValueError as error:
                raise PlanError(f"the Decision's {decided.control}: {error}") from None
        return decision

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        import hashlib  # 3 ms of OpenSSL that a cached start does not need

        return hashlib.sha256(self.to_json()).hexdigest()
