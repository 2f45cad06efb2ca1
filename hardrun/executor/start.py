"""Start an image as a child, wait for it, end it: what the Python API stands on.

Safe from many threads at once: no code of ours runs between fork and exec, every descriptor is
close-on-exec, so that sandboxes that are started at the same time don't hold each other's pipes
open. The child watches a lifeline pipe rather than PR_SET_PDEATHSIG, which fires when the *thread*
that started it ends (prctl(2)): it lives as long as this process, or until it is cancelled.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from hardrun.executor import image
from hardrun.executor.ids import with_ids
from hardrun.executor.report import Report, parse
from hardrun.plan.format import Artefact, encode, pack
from hardrun.plan.schema import Operation, Unsafe
from hardrun.plan.serve import ServeMode
from hardrun.state.ranges import Wish

if TYPE_CHECKING:
    import asyncio.subprocess

    from hardrun.request import Request

GRACE = 5.0
"""Seconds for an executor to end its sandbox after the lifeline closed; then it is killed, and
the kernel ends PID 1 and with it everything in its namespace."""


class Program(NamedTuple):
    """What can be started any number of times."""

    operations: Sequence[Operation]
    unsafe: Unsafe
    decision: bytes
    ids: Wish | None = None

    @classmethod
    def of(cls, request: Request, *, serving: bool = False) -> Program:
        """The program of a granted request, to be started by this process only.

        ``serving``: without a command of its own.
        """
        plan = request.plan(pinned=True, serving=serving)
        return cls(plan.operations, plan.unsafe, request.decision.to_json(), plan.ids)


class Finished(NamedTuple):
    """How an executor ended; ``plan`` is what its report's operation numbers refer to."""

    returncode: int
    stdout: bytes | None
    stderr: bytes | None
    report: Report
    plan: bytes


class Channels:
    """The descriptors between this process and one sandbox.

    ``image`` is the sealed program; it, the lifeline's read end, the report's write end and the
    gate go to the child under their own numbers, which are written into the plan. What holds a
    range of ids goes there, too. ``serve`` is where commands are sent to.

    A container outlives who started it: it has no lifeline (``lifeline``), writes its report to a
    file (``report``), holds what is in ``held``, and lets those send commands who connect to
    ``listener``. Those descriptors stay the caller's.
    """

    def __init__(self, program: Program, *, gate: bool = False, lifeline: bool = True,
                 report: int | None = None, held: Sequence[int] = (),
                 serve: ServeMode | None = None, listener: socket.socket | None = None) -> None:
        self._open: set[int] = set()
        self.gate: socket.socket | None = None
        self.serve: socket.socket | None = None
        self._lifeline = self._report = -1
        try:
            operations = self._connect(gate=gate, lifeline=lifeline, report=report)
            if serve is not None:
                operations.append(self._connect_serve(serve, program.operations))
            self._child = [int(operation.values[0]) for operation in operations]
            if listener is not None:
                operations += self._connect_listener(listener)
            self._child += self._keep(*map(os.dup, held))
            planned = program.operations
            if program.ids is not None:
                planned, lease = with_ids(planned, program.ids)
                self._child += self._keep(lease)
            self.plan = encode([*planned, *operations], program.unsafe)
            artefact = pack(Artefact(self.plan, program.decision))
            [self._image] = self._keep(image.seal(image.read_executor(), artefact))
            self._child.append(self._image)
        except BaseException:
            self.close()
            raise

    def _connect(self, *, gate: bool, lifeline: bool, report: int | None) -> list[Operation]:
        operations = []
        if lifeline:
            read, self._lifeline = self._keep(*os.pipe2(os.O_CLOEXEC))
            operations.append(Operation("lifeline", (read,), "hardrun"))
        if report is None:
            self._report, write = self._keep(*os.pipe2(os.O_CLOEXEC))
        else:
            [write] = self._keep(os.dup(report))
        operations.append(Operation("report", (write,), "hardrun"))
        if gate:
            self.gate, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            operations.append(Operation("gate", tuple(self._keep(other.detach())), "hardrun"))
        return operations

    def _connect_serve(self, mode: ServeMode, operations: Sequence[Operation]) -> Operation:
        from hardrun.plan import ahead


        ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.serve = socket.socket(fileno=self._keep(ours.detach())[0])
        self._open.remove(self.serve.fileno())
        return Operation("serve", (*self._keep(other.detach()), int(mode),
                                   int(mode is ServeMode.ONCE and ahead.is_possible(operations))),
                         "hardrun")

    def _connect_listener(self, listener: socket.socket) -> list[Operation]:
        ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        serve, to, own = self._keep(ours.detach(), other.detach(), os.dup(listener.fileno()))
        self._child += [serve, to, own]
        return [Operation("serve", (serve, int(ServeMode.BESIDE), 0), "hardrun"),
                Operation("admit", (own, to), "hardrun")]

    def _keep(self, *descriptors: int) -> list[int]:
        """Move descriptors above 2: where those are closed, a pipe would become standard output."""
        self._open |= set(descriptors)
        kept = []
        for descriptor in descriptors:
            kept.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3))
            self._close(descriptor)
            self._open.add(kept[-1])
        return kept

    def command(self, tail: Sequence[str]) -> list[str]:
        """The child's argv."""
        return image.command_of(self._image, ["hardrun", *tail])[1]

    def popen_arguments(self) -> dict[str, Any]:
        """Keyword arguments of subprocess.Popen that hand the child its ends."""
        return {"executable": image.command_of(self._image, [])[0], "pass_fds": tuple(self._child)}

    def started(self) -> None:
        """Close what only the child needs, so that its end is seen as an end of file."""
        for descriptor in self._child:
            self._close(descriptor)

    def cancel(self) -> None:
        """Close the lifeline: the executor kills every process of the sandbox and ends."""
        self._close(self._lifeline)
        if self.gate is not None and self.gate.fileno() >= 0:
            self.gate.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits there
            self.gate.close()

    def report(self) -> Report:
        """The report of an executor that has ended."""
        os.set_blocking(self._report, False)
        data = b""
        try:
            while part := os.read(self._report, 65536):
                data += part
        except BlockingIOError:  # some other program inherited the write end from us
            return parse(data)
        return parse(data)

    def _close(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open.remove(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        """Close everything; a sandbox that still runs ends."""
        for descriptor in tuple(self._open):
            self._close(descriptor)
        for connection in (self.gate, self.serve):
            if connection is not None:
                connection.close()

    def __enter__(self) -> Channels:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def end(process: subprocess.Popen[bytes], channels: Channels) -> None:
    """Cancel a sandbox and wait until nothing of it is left."""
    channels.cancel()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run(
    program: Program,
    tail: Sequence[str],
    *,
    stdin: int | IO[bytes] | None = None,
    input: bytes | None = None,
    capture: bool = False,
    at_gate: Callable[[int], object] | None = None,
    on_start: Callable[[subprocess.Popen[bytes]], None] | None = None,
    at_serve: Callable[[int, socket.socket], None] | None = None,
) -> Finished:
    """Start a sandbox and wait for its end.

    ``at_serve`` is called with the executor's pid and the socket that takes commands beside the
    plan's own, where that is given.
    ``at_gate`` is called with the workload's pid when it stands at its first instruction; when it
    raises, the sandbox is ended and the error goes on. Any exception here, KeyboardInterrupt
    included, ends the sandbox.
    """
    serve = None if at_serve is None else ServeMode.BESIDE
    with Channels(program, gate=at_gate is not None, serve=serve) as channels:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            channels.command(tail), stdin=pipe if input is not None else stdin,
            stdout=pipe if capture else None, stderr=pipe if capture else None,
            **channels.popen_arguments())
        try:
            channels.started()
            if on_start is not None:
                on_start(process)
            if at_serve is not None and channels.serve is not None:
                at_serve(process.pid, channels.serve)
            if at_gate is not None:
                pass_gate(channels, at_gate)
            stdout, stderr = process.communicate(input)
        except BaseException:
            end(process, channels)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
            raise
        return Finished(process.returncode, stdout, stderr, channels.report(), channels.plan)


def pass_gate(channels: Channels, check: Callable[[int], object]) -> None:
    """Wait for the workload at the gate, have it checked, let it go.

    An executor that failed before the gate closes its end: its report tells why.
    """
    gate = channels.gate
    assert gate is not None
    line = b""
    while not line.endswith(b"\n"):
        part = gate.recv(32)
        if not part:
            return
        line += part
    check(int(line))
    gate.sendall(b"g")


async def run_async(
    program: Program,
    tail: Sequence[str],
    *,
    stdin: int | IO[bytes] | None = None,
    input: bytes | None = None,
    capture: bool = False,
    at_gate: Callable[[int], object] | None = None,
) -> Finished:
    """As :func:`run`, for asyncio; a task that is cancelled returns when the sandbox is gone."""
    import asyncio  # 40 ms, and whoever calls this has it

    with Channels(program, gate=at_gate is not None) as channels:
        pipe = subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *channels.command(tail), stdin=pipe if input is not None else stdin,
            stdout=pipe if capture else None, stderr=pipe if capture else None,
            **channels.popen_arguments())
        try:
            channels.started()
            if at_gate is not None:
                await asyncio.to_thread(pass_gate, channels, at_gate)
            stdout, stderr = await process.communicate(input)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(_end_async(process, channels)))
            raise
        assert process.returncode is not None
        return Finished(process.returncode, stdout if capture else None,
                        stderr if capture else None, channels.report(), channels.plan)


async def _end_async(process: asyncio.subprocess.Process, channels: Channels) -> None:
    import asyncio

    channels.cancel()
    try:
        await asyncio.wait_for(process.wait(), GRACE)
    except TimeoutError:
        process.kill()
        await process.wait()
