"""Starts of containers: from the lock to the command's first instruction.

The lock comes first, then the executor that inherits it, which stops at the command's exec; there
its number is noted, and only then the command goes on. Whoever starts may be killed at any step:
before the note the executor ends, for nobody answers at its gate, and after it the container runs.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

from hardrun.containers import join
from hardrun.containers.asked import Asked
from hardrun.errors import BadInput, ExecutorError, HostUnsupported
from hardrun.executor import start
from hardrun.executor.protected import Protected, Seen
from hardrun.executor.report import error_of, parse
from hardrun.kernel import procfs
from hardrun.kernel.outputs import open_output
from hardrun.plan.context import Layer
from hardrun.policy.decision import Decision
from hardrun.posture.filesystem import OVERLAY
from hardrun.state import places
from hardrun.state.containers import Record, Store

Check = Callable[[int], object]
OnStart = Callable[[subprocess.Popen[bytes]], object]


class _Started(NamedTuple):
    process: subprocess.Popen[bytes]
    channels: start.Channels
    protected: Protected
    seen: Seen


def start_detached(store: Store, name: str, *, log: str | None = None,
                   check: Check | None = None) -> None:
    """Start a container that outlives this process; output goes to the end of ``log``, or nowhere.

    ``check`` is called with the command's pid at its first instruction; what it raises ends the
    container. Raises as :func:`hardrun.request.decide` when it is not granted today, and
    CommandNotFound, CommandNotExecutable or ExecutorError when it could not be started.
    """
    with _log(log) as output, _start(store, name, output, check) as started:
        # Its parent is whoever adopts it: nothing here waits for it any more.
        started.process.returncode = 0


def run_attached(store: Store, name: str, *, check: Check | None = None,
                 on_start: OnStart | None = None) -> tuple[int, tuple[str, ...]]:
    """Start a container with this process's descriptors and wait for its end.

    The exit status, and protected names that it made (``Result.created``). It ends when this
    process does. Raises as ``start_detached``.
    """
    with _start(store, name, None, check, on_start) as started:
        try:
            status = started.process.wait()
        except BaseException:
            start.end(started.process, started.channels)
            raise
        created = started.protected.created(started.seen)
    return status if status >= 0 else 128 - status, created


@contextmanager
def _log(path: str | None) -> Iterator[int]:
    """The descriptor of a log, opened before anything is started so that mistakes show early."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        descriptor = open_output(os.devnull if path is None else path, flags, 0o600)
    except OSError as error:
        raise BadInput(f"--log {path}: {error.strerror}",
                       hint="a file that you may write") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _start(store: Store, name: str, output: int | None, check: Check | None,
           on_start: OnStart | None = None) -> Iterator[_Started]:
    """``output`` is where both outputs go of a container that outlives this process."""
    record, lock = store.begin(name, f"{places.reports()}/{{}}.report")
    try:
        started = _launch(store, record, lock, output, check, on_start)
    except BaseException:
        store.forget_start(record)
        raise
    finally:
        os.close(lock)
    with started.channels:
        yield started


def _launch(store: Store, record: Record, lock: int, output: int | None, check: Check | None,
            on_start: OnStart | None) -> _Started:
    """A container at its first instruction, noted and let go."""
    asked = Asked.from_json(record.request)
    request = (asked if output is None else asked.detached()).decide()
    plan = request.plan(pinned=True, layer=Layer(store.layers, record.number))
    if request.decision.posture[OVERLAY] == "persistent":
        os.makedirs(store.layers, mode=0o700, exist_ok=True)
    protected = Protected.of(request.decision, request.workload)
    seen = protected.existing()
    program = start.Program(plan.operations, plan.unsafe, request.decision.to_json(), plan.ids)
    report = _new_report(record)
    try:
        with _listener(record, request.decision) as listener:
            channels = start.Channels(program, gate=True, lifeline=output is None, report=report,
                                      held=(lock,), listener=listener)
    finally:
        os.close(report)
    process = None
    try:
        process = _spawn(channels, asked, output)
        channels.started()
        if on_start is not None:
            on_start(process)
        _pass_gate(store, record, process, channels, check, request.decision.digest)
    except BaseException:
        if process is not None:
            start.end(process, channels)
        channels.close()
        raise
    return _Started(process, channels, protected, seen)


def _listener(record: Record, decision: Decision) -> AbstractContextManager[socket.socket | None]:
    """Where ``hardrun exec`` connects, where the sandbox can take commands."""
    if join.why_alone(decision):
        return nullcontext()
    return join.listen(record)


def _new_report(record: Record) -> int:
    """The file that the executor writes at its end: empty, and nobody else's."""
    path = record.report_file or ""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        if os.path.lexists(path):
            os.unlink(path)
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise HostUnsupported(f"no place for the report: {path}: {error.strerror}", fact="state",
                              hint="make it a file that you may write") from None


def _spawn(channels: start.Channels, asked: Asked, output: int | None
           ) -> subprocess.Popen[bytes]:
    options = channels.popen_arguments()
    if output is not None:
        options |= {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output,
                    "start_new_session": True}
    try:
        return subprocess.Popen(channels.command(asked.argv[1:]), cwd=asked.directory, **options)
    except OSError as error:
        raise ExecutorError(f"the executor can't be started: {error.strerror}",
                            hint="hardrun doctor says why") from None


def _pass_gate(store: Store, record: Record, process: subprocess.Popen[bytes],
               channels: start.Channels, check: Check | None, digest: str) -> None:
    """Note the executor when the command stands at its exec. Raises what kept it from that."""
    noted = False

    def note(pid: int) -> None:
        nonlocal noted
        if check is not None:
            check(pid)
        store.note_start(record.number, process.pid, procfs.stat(process.pid).start_time, digest)
        noted = True

    try:
        start.pass_gate(channels, note)
    except BrokenPipeError:  # it was killed between the two: its report says so, or is empty
        noted = False
    if noted:
        return
    process.wait()
    with open(record.report_file or "", "rb") as file:
        error = error_of(parse(file.read()), channels.plan)
    raise error or ExecutorError("the executor ended before the command began",
                                 hint="was it killed? the kernel's log may know")
