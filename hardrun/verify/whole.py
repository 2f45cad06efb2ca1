"""Verify a sandbox as a whole: all its processes, their threads, and who else is in there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from hardrun.errors import BadInput
from hardrun.kernel import procfs
from hardrun.plan.serve import ServeMode
from hardrun.verify import canaries, probe, within
from hardrun.verify.check import Check, Evidence
from hardrun.verify.compare import compare
from hardrun.verify.find import Sandbox, find_sandbox, members
from hardrun.verify.live import LivePosture, Observer, observe

_ROUNDS = 8  # until a sandbox that starts processes all the time is left as it is
MEMBERSHIP = "membership"
"""The control of a check that only a process from outside gets; it is none of the Decision's."""


class Verified(NamedTuple):
    """The answers for one process, or for one of its threads (``thread`` is not 0)."""

    pid: int
    thread: int
    name: str
    checks: tuple[Check, ...]


class Verification(NamedTuple):
    """A whole sandbox.

    ``processes`` has an entry for each process, PID 1 first, and for each thread whose answers are
    others than those of its process. ``missed`` started while the others were read.
    """

    sandbox: Sandbox
    processes: tuple[Verified, ...]
    threads: int = 0
    missed: int = 0

    @property
    def holds(self) -> bool:
        """Whether nothing differs; what is unknown has its reason beside it."""
        return not any(c.result == "differs" for p in self.processes for c in p.checks)

    @property
    def unverified(self) -> tuple[str, ...]:
        """What is unknown, with the reason, although the Decision says that it is enforced."""
        degraded = {c.control for c in self.sandbox.decision.controls
                    if c.enforcement.kind == "degraded" and not c.enforcement.by}
        unknown = (f"{c.control}: {c.evidence}" for p in self.processes for c in p.checks
                   if c.result == "unknown" and c.control not in degraded)
        return tuple(dict.fromkeys(unknown))


def verify_sandbox(sandbox: Sandbox, *, gate: int = 0, only: int = 0) -> Verification:
    """Compare every process of a sandbox with its Decision.

    ``gate``: the process that stands at its exec, where everything must be exactly as decided.
    ``only``: one process, of which nothing but it is read. Raises BadInput when that is not in the
    sandbox, and ProcessLookupError when the sandbox ended meanwhile.
    """
    observer = Observer.read(sandbox.launcher)
    with canaries.listening() as address, \
            probe.asking(sandbox.launcher, sandbox.init) as ask:
        inside = ask(canaries.questions(sandbox.decision, address))
        evidence = Evidence(inside, sandbox.operations, probe.started(sandbox.launcher))
        reader = _Reader(sandbox, observer, evidence, gate, canaries.namespaces_of_init(inside))
        missed = reader.read_all(only)
    if only and only not in reader.found:
        raise BadInput(f"process {only} is not in the sandbox of {sandbox.launcher}",
                       hint="hardrun verify without --process lists those that are")
    answers = [one for process in reader.found.values() for one in process]
    if not answers:
        raise ProcessLookupError(f"the sandbox of {sandbox.launcher} ended meanwhile")
    return Verification(sandbox, tuple(answers), reader.threads, missed)


@dataclasses.dataclass
class _Reader:
    """Reads processes until there is none left that was not read."""

    sandbox: Sandbox
    observer: Observer
    evidence: Evidence
    gate: int
    of_init: Mapping[str, str]
    found: dict[int, tuple[Verified, ...]] = dataclasses.field(default_factory=dict)
    hidden: within.Hidden = dataclasses.field(default_factory=dict)
    threads: int = 0

    def read_all(self, only: int) -> int:
        """Fill ``found``; returns how many processes started too late to be read."""
        seen: set[int] = set()
        for _ in range(_ROUNDS):
            now = members(self.sandbox, self.of_init)
            late = [pid for pid in now if pid not in seen and only in (0, pid)]
            if not late:
                return 0
            seen.update(late)
            if self.observer.uid != 0:
                self.hidden = self._of_others(late)
            for pid in late:
                try:
                    self.found[pid] = tuple(self._process(pid, now[pid]))
                except ProcessLookupError:
                    continue  # ended meanwhile
            if self.gate:
                return 0  # nothing runs that could start another
        return len(late)

    def _of_others(self, processes: list[int]) -> within.Hidden:
        """What only the owner of the sandbox's ids may read, where that is not the caller."""
        others = []
        for pid in processes:
            try:
                if pid != self.sandbox.init and procfs.status(pid).uids[1] != self.observer.uid:
                    others.append(pid)
            except ProcessLookupError:
                continue
        return within.read(others) if others else {}

    def _process(self, pid: int, came_into: tuple[str, ...]) -> Iterator[Verified]:
        live = self._observe(pid)
        if live.is_init and live.namespaces is None and self.of_init:
            live = dataclasses.replace(live, namespaces=self.of_init,
                                       told=frozenset({"namespaces"}))
        checks = self._compare(live, came_into)
        yield Verified(pid, 0, live.status.name, checks)
        for thread in procfs.threads(pid):
            try:
                other = self._observe(pid, thread)
            except ProcessLookupError:
                continue
            self.threads += 1
            answers = self._compare(other, came_into)
            if answers != checks:
                yield Verified(pid, thread, other.status.name, answers)

    @property
    def _once(self) -> bool:
        return any(o.name == "serve" and o.values[1] == ServeMode.ONCE
                   for o in self.sandbox.operations)

    def _observe(self, pid: int, thread: int = 0) -> LivePosture:
        live = observe(pid, thread, is_init=pid == self.sandbox.init)
        # Looked at behind the reading: what waits for its command is the executor still.
        if self._once and not probe.executed(self.sandbox.launcher):
            live = dataclasses.replace(live, is_init=True)
        fields = self.hidden.get(f"{pid}/task/{thread}" if thread else str(pid), {})
        return dataclasses.replace(live, **{name: value for name, value in fields.items()
                                            if name in live.unknown})

    def _compare(self, live: LivePosture, came_into: tuple[str, ...]) -> tuple[Check, ...]:
        checks = compare(self.sandbox.decision, live, observer=self.observer,
                         at_gate=live.pid == self.gate, evidence=self.evidence,
                         started_inside=not came_into)
        if not came_into:
            return checks
        namespaces = ", ".join(came_into)
        return (Check(MEMBERSHIP, "started by PID 1", f"came from outside, into {namespaces}",
                      "differs", "/proc/PID/ns"), *checks)


def verify_at_gate(pid: int) -> Verification:
    """Verify the sandbox whose command, ``pid``, stands at its exec.

    Raises ProcessLookupError when it is gone, and as :func:`find_sandbox`.
    """
    return verify_sandbox(find_sandbox(pid), gate=pid)
