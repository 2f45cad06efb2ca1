"""One sandbox, many commands: the same /tmp, home, limits and background processes.

    with hardrun.Sandbox(policy="agent", rw=["."]) as sandbox:
        sandbox.run(["make"], timeout=60)
        server = sandbox.spawn(["python3", "-m", "http.server"])

A command is forked by PID 1 of the sandbox and has nothing from the caller but its arguments,
variables and working directory, and pipes. Safe from many threads at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import IO, Any, TypedDict, TypeVar, Unpack

from hardrun import api
from hardrun.errors import BadInput, ExecutorError, HardrunError, HostUnsupported
from hardrun.executor import joined, serve
from hardrun.executor.protected import Protected
from hardrun.executor.report import Report, error_of, result_of
from hardrun.executor.result import Result
from hardrun.executor.start import Program
from hardrun.plan.serve import Flag, ServeMode
from hardrun.request import SERVED, Request, Standing, decide

T = TypeVar("T")


class CommandOptions(TypedDict, total=False):
    """What one command of a sandbox takes; everything else was settled when that was started."""

    input: bytes | str | None
    """Standard input; None is an empty one."""
    capture_output: bool
    text: bool
    timeout: float | None
    """Seconds; then the command and its process group are killed. The sandbox has its own."""
    env: Mapping[str, str] | None
    """Variables to set beside those of the sandbox."""
    workdir: str | os.PathLike[str] | None
    """A directory inside; None is the sandbox's."""
    check: bool


def standing_of(options: api.Options) -> Standing:
    """Decide the options of a sandbox whose commands come later.

    Raises as :func:`hardrun.run` does before a start.
    """
    policies = api.texts(options.get("policy", ()), "policy", escape=False)
    if options.get("terminal"):
        raise BadInput("terminal: commands of a sandbox of many have none",
                       hint="hardrun.run(…, terminal=True) for one that needs it")
    return Standing(decide([SERVED], policies=policies, **api.flags_of(options)), policies)


def program_of(request: Request, *, serving: bool = True) -> Program:
    """The program of a sandbox that commands can come to; ``serving``: it has none of its own.

    Raises HostUnsupported in the landlock tier, where each command would have a domain of its own.
    """
    if request.decision.tier != "full":
        raise HostUnsupported(
            "a sandbox that commands come to needs namespaces, which this host does not give",
            fact="user_namespaces", controls=("min_tier",),
            hint="hardrun doctor says why; hardrun run runs one command in the landlock tier")
    return Program.of(request, serving=serving)


def asked(argv: Sequence[str], options: CommandOptions) -> serve.Asked:
    """A command as it is sent. Raises BadInput."""
    if isinstance(argv, str | bytes):
        raise BadInput(f"argv is one text: {argv!r}", hint="a list: [\"python3\", \"solve.py\"]")
    for name in options:
        if name not in CommandOptions.__annotations__:
            raise BadInput(f"no such option of a command: {name}",
                           hint=f"one of {', '.join(CommandOptions.__annotations__)}; others are "
                                "the sandbox's")
    words = tuple(os.fsdecode(word) for word in argv)
    return serve.Asked(words, os.fsdecode(options.get("workdir") or ""),
                       dict(options.get("env") or {}))


def exchange(command: serve.Command, options: CommandOptions, limit: int,
             meanwhile: Callable[[], object] | None = None) -> serve.Ended:
    """Read a command's output until it ends, within its time; ``meanwhile`` is an Exchange's."""
    timeout = options.get("timeout")
    deadline = None if timeout is None else command.begun + timeout
    sinks = None if options.get("capture_output") else (1, 2)
    return serve.Exchange(command, limit=limit, deadline=deadline, sinks=sinks,
                          meanwhile=meanwhile).run()


def checked(result: Result, options: CommandOptions) -> Result:
    """Raise subprocess.CalledProcessError where that was asked for."""
    if options.get("check") and result.returncode != 0:
        raise subprocess.CalledProcessError(result.returncode, list(result.argv), result.stdout,
                                            result.stderr)
    return result


async def in_thread(work: Callable[[Callable[[serve.Command], None]], T]) -> T:
    """Run blocking ``work`` for asyncio; cancelling the task kills the command and waits for it.

    ``work`` is given what it has to call with the command when there is one.
    """
    import asyncio

    started: list[serve.Command] = []
    cancelled = threading.Event()

    def on_start(command: serve.Command) -> None:
        started.append(command)
        if cancelled.is_set():
            command.signal(signal.SIGKILL)

    future = asyncio.ensure_future(asyncio.to_thread(work, on_start))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancelled.set()
        for command in started:
            command.signal(signal.SIGKILL)
        await asyncio.wait([future])
        future.exception()
        raise


class Sandbox:
    """A sandbox that runs commands until it is closed, its owner ends, or its time is over.

    Limits of memory, processes, CPU and time are the sandbox's, over all of its commands; that of
    output holds for each :meth:`run`.
    """

    def __init__(self, **options: Unpack[api.Options]) -> None:
        """Start it. Raises as :func:`hardrun.run` does before a command is executed."""
        self._standing = standing_of(options)
        request = self._standing.request
        self.decision = request.decision
        self._limit = joined.output_limit(self.decision)
        self._protected = Protected.of(self.decision, request.workload)
        self._seen = self._protected.existing()
        self._ended: Report | None = None
        self._lock = threading.Lock()
        self._processes: set[Process] = set()
        self._served = serve.Served(program_of(request), ServeMode.ALONE)
        try:
            ready = self._served.is_ready()
        except BaseException:
            self.close()
            raise
        if not ready:
            raise self._error()

    @property
    def pid(self) -> int:
        """The number that ``hardrun verify`` takes."""
        return self._served.process.pid

    @property
    def created(self) -> tuple[str, ...]:
        """Protected names that did not exist when it was started and do now."""
        return self._protected.created(self._seen)

    def run(self, argv: Sequence[str], **options: Unpack[CommandOptions]) -> Result:
        """Run a command and wait for its end; what it left in the background goes on.

        Raises PolicyRefused where the policies meanwhile decide otherwise about the command than
        about the sandbox; CommandNotFound, CommandNotExecutable, BadInput or ExecutorError when it
        could not be started. An exception that arrives meanwhile kills the command.
        """
        return self._run(argv, options, lambda command: None)

    async def run_async(self, argv: Sequence[str], **options: Unpack[CommandOptions]) -> Result:
        """As :meth:`run`, for asyncio. Cancelling the task kills the command."""
        return await in_thread(lambda on_start: self._run(argv, options, on_start))

    def spawn(self, argv: Sequence[str], *, stdin: int = subprocess.DEVNULL,
              stdout: int = subprocess.DEVNULL, stderr: int = subprocess.DEVNULL,
              env: Mapping[str, str] | None = None,
              workdir: str | os.PathLike[str] | None = None) -> Process:
        """Start a command and return at once. ``stdin``, ``stdout`` and ``stderr`` are
        subprocess.DEVNULL or PIPE, ``stderr`` STDOUT too. What comes through a pipe is not counted.
        """
        known = (subprocess.DEVNULL, subprocess.PIPE)
        if stdin not in known or stdout not in known or stderr not in (*known, subprocess.STDOUT):
            raise BadInput("stdin, stdout, stderr: only subprocess.PIPE and DEVNULL",
                           hint="a file or terminal of this process does not go into a sandbox")
        what = asked(argv, {"env": env, "workdir": workdir})
        command = self._ask(what, stdin=stdin, stdout=stdout, stderr=stderr,
                            flags=Flag.TELL_START)
        try:
            reply = command.reply(serve.PATIENCE)
            error = self._error() if reply is None else serve.error_of_reply(reply, what)
            if error is not None:
                raise error
        except BaseException:
            command.close()
            raise
        process = Process(self, what.argv, command)
        with self._lock:
            running = tuple(self._processes)
        over = {one for one in running if one.poll() is not None}
        with self._lock:
            # held, so that a server whose Process nobody keeps runs on
            self._processes = (self._processes - over) | {process}
        return process

    def close(self) -> None:
        """End every process of it. Nothing when it has ended."""
        with self._lock:
            if self._ended is None:
                self._ended = self._served.end()
            processes, self._processes = self._processes, set()
        for process in processes:
            process.close_channel()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def _run(self, argv: Sequence[str], options: CommandOptions,
             on_start: Callable[[serve.Command], None]) -> Result:
        what = asked(argv, options)
        command = self._ask(what, data=api.as_bytes(options.get("input")))
        on_start(command)
        ended = exchange(command, options, self._limit)
        return checked(self._result(what, ended, text=options.get("text", False)), options)

    def _ask(self, what: serve.Asked, **how: Any) -> serve.Command:
        self._standing.check(what.argv[0] if what.argv else "")
        try:
            return serve.Command(self._served.at, what, **how)
        except serve.SandboxEnded:
            raise self._error() from None

    def _result(self, what: serve.Asked, ended: serve.Ended, *, text: bool) -> Result:
        stdout, stderr = (api.as_output(data, text) for data in (ended.stdout, ended.stderr))
        if ended.reply is None:
            return self._result_of_end(what, ended, stdout, stderr)
        error = serve.error_of_reply(ended.reply, what)
        if error is not None:
            raise error
        return joined.result(ended, ended.reply, argv=what.argv, decision=self.decision,
                             stdout=stdout, stderr=stderr, created=self.created)

    def _result_of_end(self, what: serve.Asked, ended: serve.Ended, stdout: Any,
                       stderr: Any) -> Result:
        """The command ended with the sandbox: what ended that, ended it."""
        report = self._finished()
        found = result_of(report, argv=what.argv, returncode=self._served.process.returncode,
                          decision=self.decision, stdout=stdout, stderr=stderr,
                          created=self.created)
        return joined.with_sandbox(found, ended)

    def _finished(self) -> Report:
        with self._lock:
            if self._ended is None:
                self._ended = self._served.finish()
            return self._ended

    def _error(self) -> HardrunError:
        """Why a command could not be asked for."""
        report = self._finished()
        return error_of(report, self._served.channels.plan) or ExecutorError(
            f"the sandbox has ended: {joined.ENDED.get(report.outcome, report.outcome)}",
            hint="start another one")


class Process:
    """A command of a sandbox that was started by :meth:`Sandbox.spawn`.

    Closing it kills it; so does the end of the sandbox.
    """

    def __init__(self, sandbox: Sandbox, argv: tuple[str, ...], command: serve.Command) -> None:
        self.argv = argv
        self._sandbox, self._command = sandbox, command
        self.stdin: IO[bytes] | None
        self.stdout: IO[bytes] | None
        self.stderr: IO[bytes] | None
        self.stdin, self.stdout, self.stderr = command.release()
        self._result: Result | None = None
        self._lock = threading.Lock()

    @property
    def returncode(self) -> int | None:
        """What a shell would see, or None while it runs."""
        return self._result.returncode if self._result else None

    def poll(self) -> int | None:
        """As ``returncode``, and looks."""
        try:
            return self.wait(0).returncode
        except TimeoutError:
            return None

    def wait(self, timeout: float | None = None) -> Result:
        """Wait for its end. Raises TimeoutError after so many seconds; it runs on then."""
        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            raise TimeoutError  # another thread waits, and has the reply when it comes
        try:
            if self._result is None:
                reply = self._command.reply(timeout)
                ended = serve.Ended(reply, b"", b"", 0, truncated=False, stopped=None,
                                    wall=time.monotonic() - self._command.begun)
                self._command.close()
                self._result = self._sandbox._result(
                    serve.Asked(self.argv), ended, text=False)
            return self._result
        finally:
            self._lock.release()

    def close_channel(self) -> None:
        """Wait for its end, which is near, and keep nothing but the pipes: they can be read."""
        try:
            self.wait(serve.PATIENCE)
        except TimeoutError:
            self._command.close()

    def send_signal(self, number: int) -> None:
        """Send a signal to it and its process group; nothing when it has ended."""
        self._command.signal(number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Kill it if it still runs, and close its pipes."""
        self.kill()
        self.close_channel()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:  # what was not written yet
                    continue

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


