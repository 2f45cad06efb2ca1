"""Containers by name: made, listed, signalled, waited for, removed."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

from hardrun.containers.asked import Asked, check_name
from hardrun.errors import BadInput
from hardrun.executor.named import session_listens
from hardrun.executor.report import Report, parse, usage_of
from hardrun.kernel import procfs
from hardrun.plan.context import Layer
from hardrun.state.containers import Record, Store
from hardrun.state.remove import remove_tree
from hardrun.values import plain

State = Literal["created", "starting", "running", "exited"]
GRACE = 5.0
"""Seconds for a sandbox to end when the executor was told to end it."""
_PATIENCE = 10.0  # seconds for a start that is under way
_POLL = 0.05
# What the executor hands on to the command; twice one of the first two ends the sandbox.
FORWARDED = ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "ALRM", "CONT", "WINCH")


class Status(NamedTuple):
    """A container as it is now. ``exit_status`` is what a shell would see of its last run."""

    record: Record
    state: State
    report: Report | None

    @property
    def exit_status(self) -> int | None:
        """As ``hardrun run`` has it; None while there is none, 125 where the report was lost."""
        return None if self.report is None else exit_status(self.report)


def exit_status(report: Report) -> int:
    """What a shell would see of a run that the executor reported like this."""
    if report.outcome in ("exited", "pids-limit"):
        return report.status
    if report.outcome == "signaled":
        return 128 + report.status
    if report.outcome in ("internal", "refused", "unsupported"):
        return 125
    return 124 if report.outcome == "timeout" else 128 + signal.SIGKILL


def create(store: Store, name: str, asked: Asked, *, removed_at_end: bool = False) -> Record:
    """Keep a request under a name, once it is known that it could be started today.

    Raises BadInput when the name is taken or is none, and what a start would before it starts.
    """
    check_name(name)
    if session_listens(name):
        raise BadInput(f"there is a session {name} already", hint="another name")
    asked.decide().plan(pinned=True, layer=Layer(store.layers, 1))  # which layer: at the start
    return store.add(name, asked.to_json(), removed_at_end=removed_at_end)


def status_of(store: Store, name: str) -> Status:
    """A container now; how it ended is collected. Raises BadInput when there is none."""
    return _status(*store.look(name)[0])


def every(store: Store) -> list[Status]:
    """All containers now; those that were to be removed at their end are gone."""
    found = []
    for status in (_status(*seen) for seen in store.look()):
        if status.record.removed_at_end and status.state == "exited":
            with suppress(BadInput):  # removed meanwhile, or started again
                remove(store, status.record.name)
        else:
            found.append(status)
    return found


def _status(record: Record, held: bool) -> Status:
    report = None if record.report is None else parse(record.report)
    if held:
        return Status(record, "starting" if record.pid is None else "running", None)
    return Status(record, "created" if report is None else "exited", report)


def started(store: Store, name: str) -> Status:
    """The status once no start is under way any more. Raises BadInput where one takes too long."""
    end = time.monotonic() + _PATIENCE
    while (status := status_of(store, name)).state == "starting":
        if time.monotonic() > end:
            raise BadInput(f"container {name} is being started", hint="try again")
        time.sleep(_POLL)
    return status


@contextmanager
def _executor(store: Store, name: str) -> Iterator[int | None]:
    """A descriptor of the process of a container that runs (pidfd_open(2)); None of another.

    Signals go to the descriptor, whose process was compared: a number may be another's by now.
    """
    status = started(store, name)
    descriptor = None
    if status.state == "running" and status.record.pid is not None:
        try:
            descriptor = os.pidfd_open(status.record.pid)
            if procfs.stat(status.record.pid).start_time != status.record.start_time:
                os.close(descriptor)
                descriptor = None
        except ProcessLookupError:
            if descriptor is not None:
                os.close(descriptor)
                descriptor = None
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _ended(descriptor: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def _send(descriptor: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return


def stop(store: Store, name: str, seconds: float) -> Status:
    """End a container: SIGTERM to the command, and after ``seconds`` the end of the sandbox.

    One that does not run is left as it is.
    """
    with _executor(store, name) as descriptor:
        if descriptor is not None:
            _send(descriptor, signal.SIGTERM)
            if not _ended(descriptor, seconds):
                _end(descriptor)
    return settled(store, name)


def _end(descriptor: int) -> None:
    """End every process of a sandbox. The executor takes a second request to end for an order.

    Two signals of one kind could count once; when it does not answer it is killed, and the kernel
    ends its PID 1.
    """
    _send(descriptor, signal.SIGTERM)
    _send(descriptor, signal.SIGINT)
    if not _ended(descriptor, GRACE):
        _send(descriptor, signal.SIGKILL)
        _ended(descriptor, GRACE)


def settled(store: Store, name: str) -> Status:
    """The status after an end: the lock is free a moment after the process is gone."""
    end = time.monotonic() + GRACE
    while (status := status_of(store, name)).state in ("running", "starting"):
        if time.monotonic() > end:
            break
        time.sleep(_POLL)
    return status


def kill(store: Store, name: str, signal_name: str) -> None:
    """Send a signal to the command, by its name or number; KILL ends the sandbox.

    Raises BadInput for a container that does not run, or a signal that can't be handed on.
    """
    number = _number(signal_name)
    with _executor(store, name) as descriptor:
        if descriptor is None:
            raise BadInput(f"container {name} does not run", hint=f"hardrun start {name}")
        if number == signal.SIGKILL:
            _end(descriptor)
        else:
            _send(descriptor, number)


def _number(text: str) -> int:
    name = text.upper().removeprefix("SIG")
    known = {word: int(getattr(signal, f"SIG{word}")) for word in (*FORWARDED, "KILL")}
    for word, number in known.items():
        if name in (word, str(number)):
            return number
    raise BadInput(f"signal {text}: can't be handed on", hint="one of " + ", ".join(known))


def wait(store: Store, name: str) -> int:
    """Wait until a container does not run; the exit status of its last run.

    Raises BadInput for one that never ran.
    """
    while True:
        with _executor(store, name) as descriptor:
            if descriptor is not None:
                _ended(descriptor, None)
        status = settled(store, name)
        if status.state == "created":
            raise BadInput(f"container {name} never ran", hint=f"hardrun start {name}")
        if status.exit_status is not None:
            if status.record.removed_at_end:
                remove(store, name)
            return status.exit_status


def remove(store: Store, name: str, *, force: bool = False) -> None:
    """Remove a container and what it changed of its root; ``force`` ends one that runs.

    Raises BadInput when it runs, and HostUnsupported when something of it can't be removed.
    """
    if force:
        with _executor(store, name) as descriptor:
            if descriptor is not None:
                _end(descriptor)
        settled(store, name)
    with store.removing(name) as record:
        for kind in ("work", "upper"):
            remove_tree(os.path.join(store.layers, f"{record.number}.{kind}"))


def document(status: Status, store: Store) -> dict[str, Any]:
    """A container as a JSON-ready document."""
    record, report = status.record, status.report
    layer = os.path.join(store.layers, f"{record.number}.upper")
    ended = None if report is None else {
        "outcome": report.outcome, "exit_status": exit_status(report),
        "usage": plain(usage_of(report))}
    return {
        "name": record.name, "state": status.state, "pid": record.pid if status.state == "running"
        else None, "created": record.created, "started": record.started,
        "decision": record.decision, "removed_at_end": bool(record.removed_at_end),
        "layer": layer if os.path.isdir(layer) else None, "ended": ended,
        "request": json.loads(json.dumps(asdict(Asked.from_json(record.request)))),
    }
