"""What readers give and reports take: places, what was seen there, subjects, findings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from hardrun.audit.rules import Rule

Source = Literal["kubernetes", "compose", "inspect", "command", "oci", "dockerfile", "systemd",
                 "seccomp", "apparmor", "process"]
SOURCES: tuple[Source, ...] = ("kubernetes", "compose", "inspect", "command", "oci", "dockerfile",
                               "systemd", "seccomp", "apparmor", "process")
Severity = Literal["info", "low", "medium", "high", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "low", "medium", "high", "critical")
Confidence = Literal["certain", "likely"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands. Lines and columns count from 1, line 0 is the whole; ``field`` is the
    path in the document; ``chain`` has the lines of all that encloses it, for suppressions."""

    file: str
    line: int = 1
    column: int = 1
    field: str = ""
    chain: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Seen:
    """A value of a control or fact. ``said``: it is written there; else it is the engine's default.

    ``elements`` has the places of the elements of a set that stand in different ones.
    """

    value: Any
    place: Place
    said: bool = True
    elements: Mapping[Any, Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subject:
    """One workload: a container, a service, a process.

    ``values`` by the names of ``BOUNDABLE``. ``unknown`` says why a value can't be known from this
    source. What is in neither does not occur in the source. ``group`` is what several subjects of
    one document have in common (the pod).
    """

    source: Source
    name: str
    group: str
    place: Place
    values: Mapping[str, Seen]
    unknown: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be audited. ``template``: it is a template that is not rendered;
    that doesn't count as a failure unless everything has to be read (--strict), nor does a
    ``warning`` about a suppression."""

    place: Place
    message: str
    template: bool = False
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Suppression:
    """Why a finding does not count. ``kind`` as SARIF has it."""

    kind: Literal["inSource", "external"]
    reason: str
    place: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause and what follows from it. ``also`` are rules that the same cause breaks, which are
    no worse; ``subjects`` every workload that it concerns, ``homes`` the file of each of these: a
    cause may stand in a file that they share."""

    rule: Rule
    severity: Severity
    place: Place
    seen: str
    said: bool
    source: Source
    group: str
    subjects: tuple[str, ...]
    homes: tuple[str, ...]
    also: tuple[str, ...] = ()
    suppressed: Suppression | None = None
    known: bool = False  # in the baseline

    @property
    def counts(self) -> bool:
        """Whether it counts: neither suppressed nor in the baseline."""
        return self.suppressed is None and not self.known

    @property
    def workloads(self) -> tuple[tuple[str, str], ...]:
        """File and name of every workload that it concerns."""
        return tuple(zip(self.homes, self.subjects, strict=True))

    @property
    def fingerprint(self) -> str:
        """The same for the same cause, whatever line it stands on."""
        text = "\0".join((self.rule.id, self.place.file, self.group, self.place.field, self.seen))
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def worst(severity: Severity) -> int:
    """The rank of a severity, for sorting: 4 is critical."""
    return SEVERITIES.index(severity)
