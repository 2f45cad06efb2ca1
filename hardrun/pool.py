"""Sandboxes that wait, set up, for a command: each runs one, once.

    with hardrun.Pool(policy="judge", size=4) as pool:
        for answer in answers:
            result = pool.run(["python3", "-c", answer], timeout=5, capture_output=True)

What a command may do is what :func:`hardrun.run` would let it do; what is not paid at its start is
the making of namespaces, mounts and rules. Mounts are those of the options, the same for every one.
Safe from many threads at once.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Unpack

from hardrun import api, session
from hardrun.errors import BadInput, ExecutorError, HardrunError
from hardrun.executor import joined, named, serve
from hardrun.executor.protected import Protected
from hardrun.executor.report import Report, error_of, result_of
from hardrun.executor.result import Result
from hardrun.plan.serve import ServeMode
from hardrun.policy.decision import Decision
from hardrun.request import Standing
from hardrun.session import CommandOptions

LARGEST = 256
"""Sandboxes that wait: each holds a network namespace and some 400 kB."""
_BREATH = 0.02
"""Seconds that a command has the processors before the next sandbox is made, where some wait."""
_ATTEMPTS = 3  # to find one that has not been killed while it waited


class Pool:
    """Up to ``size`` sandboxes that wait; one that was used is ended and made anew.

    Each command is decided under the policies of its time. Where these changed, those that wait are
    ended and made as it is now decided, before the command runs.
    """

    def __init__(self, *, size: int = 4, **options: Unpack[api.Options]) -> None:
        """Start the first one. Raises as :func:`hardrun.run` does before a command is executed."""
        self._begin(session.standing_of(options), size)

    @classmethod
    def of(cls, standing: Standing, size: int) -> Pool:
        """A pool for what was decided already."""
        pool = cls.__new__(cls)
        pool._begin(standing, size)
        return pool

    def _begin(self, standing: Standing, size: int) -> None:
        if not 1 <= size <= LARGEST:
            raise BadInput(f"size: {size!r}", hint=f"a number from 1 to {LARGEST}")
        self.size = size
        self._standing = standing
        self._waiting: deque[serve.Served] = deque()
        self._used: deque[serve.Served] = deque()
        self._closed = False
        self._failure: HardrunError | None = None
        self._changed = threading.Condition()
        self._set_up()
        first = serve.Served(self._program, ServeMode.ONCE)
        if not first.is_ready():
            raise error_of(first.finish(), first.channels.plan) or _killed()
        self._waiting.append(first)
        self._keeper = threading.Thread(target=self._keep, name="hardrun-pool", daemon=True)
        self._keeper.start()

    @property
    def decision(self) -> Decision:
        """The Decision that all of them are held to now."""
        return self._standing.request.decision

    def run(self, argv: Sequence[str], **options: Unpack[CommandOptions]) -> Result:
        """Run a command in a sandbox of its own and wait for its end; nothing of it is left then.

        Raises as :meth:`hardrun.Sandbox.run`.
        """
        return self._run(argv, options, lambda command: None)

    async def run_async(self, argv: Sequence[str], **options: Unpack[CommandOptions]) -> Result:
        """As :meth:`run`, for asyncio. Cancelling the task kills the command."""
        return await session.in_thread(lambda on_start: self._run(argv, options, on_start))

    def close(self) -> None:
        """End those that wait, and wait for those that ended. A command that runs goes on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._keeper.join()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def _set_up(self) -> None:
        request = self._standing.request
        self._program = session.program_of(request)
        self._limit = joined.output_limit(request.decision)
        self._protected = Protected.of(request.decision, request.workload)
        # Version 1 has no oom.group: what ran out of memory is known only when all has ended.
        self._told_late = any(o.name == "cgroup_v1" for o in self._program.operations)

    def _run(self, argv: Sequence[str], options: CommandOptions,
             on_start: Callable[[serve.Command], None]) -> Result:
        what = session.asked(argv, options)
        self._renew()
        self._standing.check(what.argv[0] if what.argv else "", looked=True)
        protected, seen = self._protected, self._protected.existing()
        for _ in range(_ATTEMPTS):
            sandbox = self._take()
            try:
                result = self._run_in(sandbox, what, options, on_start)
            except BaseException:
                sandbox.channels.cancel()
                raise
            finally:
                self._give_back(sandbox)
            if result is not None:
                return session.checked(_with_created(result, protected.created(seen)), options)
        raise _killed()

    def _run_in(self, sandbox: serve.Served, what: serve.Asked, options: CommandOptions,
                on_start: Callable[[serve.Command], None]) -> Result | None:
        """None: the sandbox was gone, and nothing of the command has run."""
        decision, text = self.decision, options.get("text", False)
        try:
            command = serve.Command(sandbox.at, what, data=api.as_bytes(options.get("input")))
        except serve.SandboxEnded:
            report = sandbox.finish()
            error = error_of(report, sandbox.channels.plan) if report.failure else None
            if error is not None:
                raise error from None
            return None
        on_start(command)
        if not self._waiting:
            self._refill()
        ended = session.exchange(command, options, self._limit, self._refill)
        stdout, stderr = (api.as_output(data, text) for data in (ended.stdout, ended.stderr))
        if ended.reply is not None:
            error = serve.error_of_reply(ended.reply, what)
            if error is not None:
                raise error
            if ended.stopped or (ended.reply.status == 0 and not self._told_late):
                return joined.result(ended, ended.reply, argv=what.argv, decision=decision,
                                     stdout=stdout, stderr=stderr)
        report = sandbox.finish()
        if ended.reply is None and not report.started:
            error = error_of(report, sandbox.channels.plan) if report.failure else None
            if error is not None:
                raise error
            return None
        found = result_of(report, argv=what.argv, returncode=sandbox.process.returncode,
                          decision=decision, stdout=stdout, stderr=stderr)
        return joined.with_sandbox(found, ended)

    def _renew(self) -> None:
        """Make those that wait anew where the policies changed what they are held to."""
        with self._changed:
            if not self._standing.renewed():
                return
            self._set_up()
            self._used.extend(self._waiting)
            stale = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for sandbox in stale:
            sandbox.channels.cancel()

    def lend(self, command: str) -> named.Place:
        """A sandbox for a command that another process sends. Raises as :meth:`run`."""
        self._renew()
        self._standing.check(command, looked=True)
        for _ in range(_ATTEMPTS):
            sandbox = self._take()
            if sandbox.process.poll() is None:
                self._refill()
                return self._place(sandbox)
            self._give_back(sandbox)
        raise _killed()

    def _place(self, sandbox: serve.Served) -> named.Place:
        def released() -> None:
            sandbox.end()
            with self._changed:
                self._changed.notify_all()

        return named.Place(sandbox.lend(), sandbox.process.pid, self._limit,
                           lambda: _outcome_of(sandbox.finish()), released)

    def _take(self) -> serve.Served:
        """One that waits; where none does, one that is made now."""
        with self._changed:
            if self._closed:
                raise BadInput("the pool is closed", hint="run commands before it is")
            if self._failure is not None:
                raise self._failure
            sandbox = self._waiting.popleft() if self._waiting else None
        return sandbox or serve.Served(self._program, ServeMode.ONCE)

    def _refill(self) -> None:
        """Wake the keeper: one was taken. A quick command's end does it, while others wait."""
        with self._changed:
            self._changed.notify_all()

    def _give_back(self, sandbox: serve.Served) -> None:
        with self._changed:
            if not self._closed:
                self._used.append(sandbox)
                self._changed.notify_all()
                return
        sandbox.finish()  # nobody else waits for it any more

    def _keep(self) -> None:
        """In a thread of its own: makes what is missing, and waits for what ended."""
        while True:
            with self._changed:
                while not (self._used or self._closed or (
                        len(self._waiting) < self.size and self._failure is None)):
                    self._changed.wait()
                if self._waiting and not self._used and not self._closed:
                    self._changed.wait(_BREATH)
                used = self._used.popleft() if self._used else None
                if self._closed and used is None:
                    break
                missing = len(self._waiting) < self.size and not self._closed
                program = self._program
            if missing:
                self._make(program)
            if used is not None:
                used.finish()
        for sandbox in self._waiting:
            sandbox.end()

    def _make(self, program: object) -> None:
        """Set one up. One that fails is tried by the next command, which tells why."""
        try:
            sandbox = serve.Served(self._program, ServeMode.ONCE)
        except (HardrunError, OSError) as error:
            problem = error if isinstance(error, HardrunError) else ExecutorError(
                f"no sandbox can be started: {error.strerror}", errno=error.errno)
            with self._changed:
                self._failure = problem
            return
        with self._changed:
            if self._program is program:
                self._waiting.append(sandbox)
                return
        sandbox.end()


def _outcome_of(report: Report) -> dict[str, Any]:
    returncode = 124 if report.outcome == "timeout" else 128 + signal.SIGKILL
    return {"outcome": report.outcome, "returncode": returncode}


def _killed() -> ExecutorError:
    return ExecutorError("sandboxes that waited are gone before a command came",
                         hint="were they killed? the kernel's log may know")


def _with_created(result: Result, created: tuple[str, ...]) -> Result:
    import dataclasses

    return dataclasses.replace(result, created=created) if created else result
