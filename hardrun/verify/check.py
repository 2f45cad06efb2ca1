"""One comparison of a control with what the kernel shows, and what every read-back works from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from hardrun.plan.schema import Operation
from hardrun.posture.control import Control, Posture
from hardrun.verify.live import LivePosture, Observer
from hardrun.verify.probe import Inside, Question, Told

Outcome = Literal["holds", "differs", "unknown"]
T = TypeVar("T")


class Check(NamedTuple):
    """The answer for one control and one process.

    ``expected`` is the Decision's value in words, ``observed`` what was found, ``evidence`` where
    it was read or, for ``unknown``, why it can't be.
    """

    control: str
    expected: str
    observed: str
    result: Outcome
    evidence: str


class Answer(NamedTuple):
    """What one read-back found."""

    holds: bool
    observed: str
    evidence: str


def not_bound(observed: str, evidence: str) -> Answer:
    """The answer where the Decision leaves a control open: any value holds."""
    return Answer(holds=True, observed=observed, evidence=evidence)


class Unreadable(Exception):
    """A read-back has no answer; the message is the written reason."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a whole sandbox beside its processes.

    ``inside`` is what a child of PID 1 told, ``sealed`` the plan in the image that started it,
    ``started`` when that was, in seconds since 1970.
    """

    inside: Inside = field(default_factory=Inside)
    sealed: tuple[Operation, ...] = ()
    started: float | None = None


@dataclass(frozen=True)
class Subject:
    """A process under comparison.

    ``at_gate``: it stands at its exec and has not run an instruction, so that everything must be
    exactly as decided; later a process may have given up more, or opened files of its own.
    ``resolve`` is os.path.realpath, as the plan resolved the visible paths. ``started_inside``:
    PID 1 or what it started, and so what PID 1 can't get rid of, it can't either.
    """

    live: LivePosture
    observer: Observer
    posture: Posture
    workload: Mapping[str, Any]
    layers: tuple[str, ...]  # Enforcement.by of the control at hand
    at_gate: bool
    resolve: Callable[[str], str]
    evidence: Evidence = field(default_factory=Evidence)
    started_inside: bool = True

    def value(self, control: Control[T]) -> T:
        """The granted value of a control."""
        return self.posture[control]

    def read(self, name: str) -> Any:
        """A field of the live posture. Raises Unreadable with the reason when it is unknown."""
        found = getattr(self.live, name)
        if found is None:
            raise Unreadable(f"{name}: {self.live.unknown.get(name, 'the kernel shows none')}")
        return found

    def tried(self, question: Question) -> Told | None:
        """What came of trying something inside; None when there is no answer."""
        return self.evidence.inside.told.get(question) if self.started_inside else None

    def told(self, question: Question) -> Told:
        """The same. Raises Unreadable with the reason when there is no answer."""
        answer = self.tried(question)
        if answer is None:
            raise Unreadable(self.evidence.inside.missing if self.started_inside else
                             "it came from outside, and nothing tells what it brought along")
        return answer

    def sealed(self, name: str) -> Operation:
        """An operation of the sealed plan. Raises Unreadable when no plan is known."""
        if not self.evidence.sealed:
            raise Unreadable("the executor counts it; it is no state of the process")
        return next((o for o in self.evidence.sealed if o.name == name), Operation(name, ()))


ReadBack = Callable[[Subject], Answer]


def listed(names: Any) -> str:
    """Names in order for people; ``none`` for an empty collection."""
    return ", ".join(sorted(map(str, names))) or "none"
