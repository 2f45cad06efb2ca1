"""Commands in containers that run: ``hardrun exec NAME``.

Nobody stays who could decide, as the owner of a session does: whoever asks decides, under the
policies of that moment, as for a start. The executor lets this user's processes send commands to
PID 1, and no sandbox's. What a container runs with is read out of its sealed image.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hardrun.containers import manage
from hardrun.containers.asked import Asked
from hardrun.errors import BadInput, ExecutorError, HardrunError, HostUnsupported, PolicyRefused
from hardrun.executor.joined import output_limit
from hardrun.policy.decision import Decision
from hardrun.request import differences
from hardrun.state.containers import Record, Store

if TYPE_CHECKING:
    from hardrun.verify import Sandbox

_PATIENCE = 30.0  # seconds: one that is stopped does not answer


def why_alone(decision: Decision) -> str:
    """Why a sandbox can take no commands beside its own; empty where it can."""
    if decision.tier == "full":
        return ""
    return "it runs in the landlock tier, where each command would have a domain of its own"


@contextmanager
def listen(record: Record) -> Iterator[socket.socket]:
    """The socket at which a start takes commands, for its executor to inherit.

    Raises HostUnsupported when nothing can listen there.
    """
    path = record.socket or ""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        before = os.umask(0o177)
        try:
            with _directory(path) as directory:
                with suppress(FileNotFoundError):
                    os.unlink(path)
                listener.bind(f"{directory}/{os.path.basename(path)}")
            listener.listen(64)
        except OSError as error:
            raise HostUnsupported(f"no place for the socket: {path}: {error.strerror}",
                                  fact="state", hint="make its directory one that you may write"
                                  ) from None
        finally:
            os.umask(before)
        yield listener


@contextmanager
def _directory(path: str) -> Iterator[str]:
    """The directory of a path by a descriptor: an address holds 107 bytes."""
    descriptor = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def name_of(store: Store, pid: int) -> str | None:
    """The container that a process is in; None where it is in none.

    Raises as :func:`hardrun.verify.find_sandbox`.
    """
    from hardrun.verify import find_sandbox

    launcher = find_sandbox(pid).launcher
    return next((seen.record.name for seen in store.look()
                 if seen.held and seen.record.pid == launcher), None)


class Joined:
    """The way into a container that runs; ``to`` is where the command is sent."""

    def __init__(self, store: Store, name: str, command: str) -> None:
        """Raises BadInput where it does not run, HostUnsupported where it takes no commands,
        PolicyRefused where the policies decide otherwise about the command now.
        """
        self._store, self._name = store, name
        record, sandbox = _running(store, name)
        _check(record, sandbox.decision, command)
        self.output_limit = output_limit(sandbox.decision)
        self.to = _connect(record, name)

    def ended(self) -> dict[str, Any]:
        """Wait for the end of the container; its outcome and status."""
        outcome = "signaled"
        with suppress(HardrunError):
            report = manage.settled(self._store, self._name).report
            outcome = outcome if report is None else report.outcome
        # Never the container's own: its success is not that of a command that was killed with it.
        return {"outcome": outcome,
                "returncode": 124 if outcome == "timeout" else 128 + signal.SIGKILL}

    def close(self) -> None:
        """Let go of it."""
        self.to.close()

    def __enter__(self) -> Joined:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _running(store: Store, name: str) -> tuple[Record, Sandbox]:
    from hardrun.verify import find_sandbox

    status = manage.started(store, name)
    record = status.record
    if status.state != "running" or record.pid is None:
        raise BadInput(f"container {name} does not run", hint=f"hardrun start {name}")
    sandbox = find_sandbox(record.pid)
    problem = why_alone(sandbox.decision)
    if not problem and not any(o.name == "admit" for o in sandbox.operations):
        problem = "it was started without"
    if problem:
        raise HostUnsupported(f"container {name} takes no commands: {problem}", fact="",
                              hint="hardrun run for each command")
    return record, sandbox


def _check(record: Record, running: Decision, command: str) -> None:
    """Decide about a command as about a start of today.

    What was tightened meanwhile holds for it, and nothing that was loosened comes by it.
    """
    asked = replace(Asked.from_json(record.request), argv=(command,))
    different: list[str] = []
    for request in (asked, asked.detached()):  # it may run with a terminal, or without
        different = differences(request.decide().decision, running)
        if not different:
            return
    raise PolicyRefused(
        f"{command}: the policies decide otherwise about it than about container {record.name}: "
        f"{'; '.join(different)}", hint="start the container anew, or another one")


def _connect(record: Record, name: str) -> socket.socket:
    path = record.socket or ""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(_PATIENCE)
        try:
            with _directory(path) as directory:
                connection.connect(f"{directory}/{os.path.basename(path)}")
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
        except TimeoutError:
            raise ExecutorError(f"container {name} does not answer: it is stopped",
                                hint="SIGCONT lets it go on") from None
        except OSError as error:
            raise BadInput(f"container {name} takes no commands: {error.strerror}",
                           hint=f"has it ended? hardrun inspect {name}") from None
    if len(descriptors) != 1:
        raise BadInput(f"container {name} refused this process, or has ended",
                       hint="is it in a sandbox itself?")
    return socket.socket(fileno=descriptors[0])
