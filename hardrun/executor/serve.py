"""Commands in a sandbox that runs: asked for, fed, read, timed and told how they ended.

The descriptors that a command gets are made here: pipes, the null device, a sealed memory file.
Those of this process never go in, and the executor's PID 1 takes no others.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, NamedTuple

from hardrun.errors import (
    BadInput,
    CommandNotExecutable,
    CommandNotFound,
    ExecutorError,
    HardrunError,
)
from hardrun.executor import start
from hardrun.executor.report import Report
from hardrun.executor.result import Outcome
from hardrun.plan import serve
from hardrun.plan.serve import ServeMode, Told

PATIENCE = 10.0
"""Seconds in which PID 1 answers a request; a sandbox that is stopped does not."""
QUICK = 0.005
"""Seconds in which a command that is quick has ended."""
_CHUNK = 65536


class SandboxEnded(Exception):
    """The sandbox was gone before the request reached it: nothing was started."""


class Reply(NamedTuple):
    """What came on a command's channel; see :mod:`hardrun.plan.serve`."""

    kind: Told
    status: int
    errno: int
    max_rss_kib: int
    user_us: int
    system_us: int
    site: str

    @classmethod
    def unpack(cls, data: bytes) -> Reply:
        """Raises ExecutorError when it is none."""
        try:
            kind, status, error, rss, user, system, site = serve.REPLY.unpack(data)
            return cls(Told(kind), status, error, rss, user, system,
                       site.rstrip(b"\0").decode("ascii", "replace"))
        except (ValueError, struct.error):
            raise ExecutorError("the sandbox answered what is no reply") from None


class Asked(NamedTuple):
    """What is to be started: argv, a directory inside (empty: the sandbox's), variables to set."""

    argv: tuple[str, ...]
    directory: str = ""
    variables: Mapping[str, str] = {}

    def encode(self, flags: int) -> bytes:
        """Raises BadInput where it can't be sent."""
        if not self.argv or not self.argv[0]:
            raise BadInput("no command given", hint="a list: [\"python3\", \"solve.py\"]")
        for name in self.variables:
            if not name or "=" in name:
                raise BadInput(f"no name of a variable: {name!r}")
        try:
            return serve.request([os.fsencode(word) for word in self.argv],
                                 os.fsencode(self.directory),
                                 [os.fsencode(f"{k}={v}") for k, v in self.variables.items()],
                                 flags)
        except ValueError as error:
            raise BadInput(f"the command can't be sent: {error}",
                           hint="long texts go in by standard input or a file") from None


class Ended(NamedTuple):
    """How a command ended, what it wrote, and what this side did about it."""

    reply: Reply | None  # None: the sandbox ended before
    stdout: bytes
    stderr: bytes
    output: int
    truncated: bool
    stopped: Outcome | None  # timeout or output-limit, by this side
    wall: float


def memory_file(data: bytes) -> int:
    """A sealed file in memory; the caller closes it."""
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view):]
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS,
                fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return descriptor


class Command:
    """A command that was asked for; who drops it ends it.

    ``stdin``, ``stdout`` and ``stderr`` are this side's ends of pipes, or None.
    """

    def __init__(self, to: socket.socket, asked: Asked, *, data: bytes | None = None,
                 stdin: int = subprocess.DEVNULL, stdout: int = subprocess.PIPE,
                 stderr: int = subprocess.PIPE, flags: int = 0) -> None:
        self.begun = time.monotonic()
        request = asked.encode(flags)
        self.stdin, self.stdout, self.stderr = None, None, None
        theirs: list[int] = []
        self._channel, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            if data:
                theirs.append(memory_file(data))
            elif stdin == subprocess.PIPE:
                end, self.stdin = os.pipe2(os.O_CLOEXEC)
                theirs.append(end)
            else:
                theirs.append(_null() if stdin == subprocess.DEVNULL else os.dup(stdin))
            self.stdout, end = _output(stdout)
            theirs.append(end)
            if stderr == subprocess.STDOUT:
                theirs.append(os.dup(end))
            else:
                self.stderr, end = _output(stderr)
                theirs.append(end)
            socket.send_fds(to, [request], [channel.fileno(), *theirs])
        except OSError as error:
            self.close()
            if error.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF):
                raise SandboxEnded from None
            if error.errno == errno.EMSGSIZE:
                raise BadInput("the command is longer than net.core.wmem_max lets a packet be",
                               hint="long texts go in by standard input or a file") from None
            raise ExecutorError(f"the sandbox can't be asked: {error.strerror}",
                                errno=error.errno) from None
        finally:
            channel.close()
            for descriptor in theirs:
                os.close(descriptor)

    def fileno(self) -> int:
        """The channel, which is readable when there is a reply."""
        return self._channel.fileno()

    def reply(self, patience: float | None = None) -> Reply | None:
        """The next reply; None when the sandbox is gone. Raises TimeoutError."""
        if self._channel.gettimeout() != patience:
            self._channel.settimeout(patience)
        try:
            data = self._receive()
        except BlockingIOError:
            raise TimeoutError from None
        except ConnectionResetError:
            return None
        return Reply.unpack(data) if data else None

    def _receive(self) -> bytes:
        try:
            return self._channel.recv(serve.REPLY.size + 1)
        except ConnectionResetError:
            # A signal came too late to be read. The kernel says so once, before what was told.
            return self._channel.recv(serve.REPLY.size + 1)

    def signal(self, number: int) -> None:
        """Send a signal to the command and its process group; nothing when it has ended."""
        try:
            self._channel.send(serve.SIGNAL.pack(number), socket.MSG_DONTWAIT)
        except OSError:
            return

    def close(self) -> None:
        """End it if it still runs, and let go of everything."""
        self._channel.close()
        for descriptor in (self.stdin, self.stdout, self.stderr):
            if descriptor is not None:
                os.close(descriptor)
        self.stdin = self.stdout = self.stderr = None

    def release(self) -> tuple[IO[bytes] | None, IO[bytes] | None, IO[bytes] | None]:
        """This side's ends as files, which are the caller's from now on."""
        ends = (self.stdin, self.stdout, self.stderr)
        self.stdin = self.stdout = self.stderr = None
        stdin, stdout, stderr = ends
        return (None if stdin is None else open(stdin, "wb"),
                None if stdout is None else open(stdout, "rb"),
                None if stderr is None else open(stderr, "rb"))


def _null() -> int:
    return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)


def _output(where: int) -> tuple[int | None, int]:
    if where == subprocess.DEVNULL:
        return None, _null()
    if where == subprocess.PIPE:
        return os.pipe2(os.O_CLOEXEC)
    return None, os.dup(where)


class Exchange:
    """Reads what a command writes until it ends, within a time and a number of bytes.

    ``sinks`` are descriptors that standard output and error are copied to; None: they are kept.
    ``meanwhile`` is called once, where nothing is heard of the command for ``QUICK`` seconds.
    """

    def __init__(self, command: Command, *, limit: int = 0, deadline: float | None = None,
                 sinks: tuple[int, int] | None = None,
                 meanwhile: Callable[[], object] | None = None) -> None:
        self.command = command
        self.limit, self.deadline, self.sinks = limit, deadline, sinks
        self.meanwhile = meanwhile
        self.kept = (bytearray(), bytearray())
        self.bytes = 0
        self.truncated = False
        self.stopped: Outcome | None = None
        self.answer: Reply | None = None
        self._streams: dict[int, int] = {}

    def run(self) -> Ended:
        """Wait for the end. Any exception, KeyboardInterrupt included, ends the command."""
        try:
            poller = self._register()
            while self._step(poller):
                pass
            wall = time.monotonic() - self.command.begun
            return Ended(self.answer, bytes(self.kept[0]), bytes(self.kept[1]), self.bytes,
                         self.truncated, self.stopped, wall)
        finally:
            self.command.close()

    def _register(self) -> select.poll:
        # poll(2), as epoll(7) takes a system call for each of the three, and two more
        poller = select.poll()
        poller.register(self.command, select.POLLIN)
        for stream, descriptor in enumerate((self.command.stdout, self.command.stderr)):
            if descriptor is not None:
                os.set_blocking(descriptor, False)
                poller.register(descriptor, select.POLLIN)
                self._streams[descriptor] = stream
        return poller

    def _step(self, poller: select.poll) -> bool:
        left = None if self.deadline is None else max(self.deadline - time.monotonic(), 0)
        if self.stopped:
            left = PATIENCE
        if self.meanwhile is not None:
            left = QUICK if left is None else min(left, QUICK)
        ready = poller.poll(None if left is None else math.ceil(left * 1000))
        if not ready and self.meanwhile is not None:
            self.meanwhile()
            self.meanwhile = None
            return True
        if not ready and self.stopped:
            raise ExecutorError("the sandbox does not answer: it is stopped",
                                hint="SIGCONT lets it go on, closing it ends it")
        if self.deadline is not None and time.monotonic() >= self.deadline:
            self._stop("timeout")
        told = False
        for number, event in ready:
            if number not in self._streams:
                told = True
            elif not event & select.POLLIN or not self._take(number, self._streams[number]):
                poller.unregister(number)  # it has ended: without POLLIN there is nothing left
                del self._streams[number]
        if not told:
            return True
        self.answer = self.command.reply()
        if self.answer is not None and self.answer.kind == Told.STARTED:
            return True
        # What it wrote is in the pipes; who still holds them open runs in the background.
        for descriptor, stream in self._streams.items():
            while self._take(descriptor, stream, last=True):
                pass
        return False

    def _stop(self, outcome: Outcome) -> None:
        if self.stopped is None:
            self.stopped = outcome
            self.command.signal(9)

    def _take(self, descriptor: int, stream: int, *, last: bool = False) -> bool:
        """Whether there may be more."""
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return not last
        if not data:
            return False
        if self.limit and len(data) > self.limit - self.bytes:
            data = data[:self.limit - self.bytes]
            self.truncated = True
        self.bytes += len(data)
        if self.sinks is None:
            self.kept[stream].extend(data)
        else:
            _write(self.sinks[stream], data)
        if self.truncated:
            self._stop("output-limit")
        return not self.truncated


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view):]


def error_of_reply(reply: Reply, asked: Asked) -> HardrunError | None:
    """The error that a reply tells of; None: the command was executed."""
    if reply.kind in (Told.STARTED, Told.ENDED):
        return None
    name = errno.errorcode.get(reply.errno, str(reply.errno))
    if reply.kind == Told.REFUSED:
        return ExecutorError(f"the sandbox took no command: {name}", errno=reply.errno,
                             hint=f"at most {serve.MOST_COMMANDS} run at a time"
                             if reply.errno == errno.EAGAIN else None)
    if reply.site in ("chdir", "getcwd"):
        return BadInput(f"workdir {asked.directory!r}: {os.strerror(reply.errno)} in the sandbox",
                        hint="name a directory of its view")
    if reply.site != "execve":
        return ExecutorError(f"{asked.argv[0]}: {reply.site}: {name}", errno=reply.errno)
    if reply.errno in (errno.ENOENT, errno.ENOTDIR):
        return CommandNotFound(f"{asked.argv[0]}: not found in the sandbox, or its interpreter "
                               "is not", hint="what is visible was settled when it was started")
    return CommandNotExecutable(f"{asked.argv[0]}: can't be executed: {name}",
                                hint="is it a program for this machine, with the x bit?")


def is_ready(to: socket.socket, *, start_patience: float = PATIENCE) -> bool:
    """Whether PID 1 behind a socket answers; False: it is gone.

    Raises ExecutorError where it neither answers nor is gone: it is stopped.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            try:
                socket.send_fds(to, [b"?"], [theirs.fileno()])
            except OSError:
                return False
        ours.settimeout(start_patience)
        try:
            return bool(ours.recv(serve.REPLY.size))
        except TimeoutError:
            raise ExecutorError("the sandbox does not answer: it is stopped",
                                hint="SIGCONT lets it go on") from None
        except ConnectionResetError:
            return False


class Served:
    """A sandbox that was started and takes commands.

    ``at`` is where they are sent to.
    """

    def __init__(self, program: start.Program, mode: ServeMode) -> None:
        self.channels = start.Channels(program, serve=mode)
        try:
            self.process = subprocess.Popen(
                self.channels.command([]), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, **self.channels.popen_arguments())
            self.channels.started()
        except BaseException:
            self.channels.close()
            raise
        self._lock = threading.Lock()
        self._report: Report | None = None
        assert self.channels.serve is not None
        self.at = self.channels.serve

    def is_ready(self) -> bool:
        """Whether it takes commands; False: it has ended, and its report tells why.

        Raises ExecutorError where it does not answer.
        """
        return is_ready(self.at, start_patience=60.0)

    def lend(self) -> socket.socket:
        """Where to send the command, for another process: this one's copy is let go of."""
        copy = self.at.dup()
        self.at.close()
        return copy

    def end(self) -> Report:
        """End every process of it, wait for that, and read how it went."""
        if self._report is None:
            start.end(self.process, self.channels)
        return self.finish()

    def finish(self) -> Report:
        """Wait until it has ended by itself, and read how it went."""
        with self._lock:
            if self._report is None:
                self.process.wait()
                self._report = self.channels.report()
                self.channels.close()
            return self._report

