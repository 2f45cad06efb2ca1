"""``hardrun run``: decide, compile, and become the executor."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from hardrun import cache
from hardrun.cli.options import CommandAfterDashes, command_words, decide_options, workload_options
from hardrun.cli.render import printable, write
from hardrun.errors import BadInput, HardrunError
from hardrun.executor import image
from hardrun.executor.protected import Protected
from hardrun.plan.schema import schema_id

if TYPE_CHECKING:
    import socket
    import subprocess

    from hardrun.api import Gate
    from hardrun.executor.start import Program
    from hardrun.request import Request

_FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1,
              signal.SIGUSR2)


@click.command("run", cls=CommandAfterDashes)
@workload_options
@click.option("--report", metavar="FILE|fd:N", help="Write how it ended, as JSON.")
@click.option("--report-format", type=click.Choice(["json", "isolate"]), default="json",
              help="isolate: the key:value file of isolate(1).")
@click.option("--verify", is_flag=True,
              help="Compare what the kernel says with the decision before the command is let go.")
@click.option("--verify-strict", "strict", is_flag=True,
              help="As --verify, and refuse where the kernel does not show what is decided.")
@click.option("--session", metavar="NAME",
              help="Let hardrun exec NAME run further commands in this sandbox, until it ends.")
@click.option("--name", metavar="NAME", help="Make it a container that can be started again.")
@click.option("-d", "--detach", is_flag=True, help="Return when the command has begun.")
@click.option("--rm", "remove", is_flag=True, help="Remove the container at its end.")
@click.option("--log", metavar="FILE", help="With -d: where output is appended.")
@click.option("--refresh", is_flag=True, hidden=True, help="Don't use a stored plan.")
@click.pass_context
def command(context: click.Context, /, report: str | None, report_format: str, verify: bool,
            strict: bool, refresh: bool, name: str | None, session: str | None, **options: Any
            ) -> int:
    """Run a command in a sandbox.

    The exit status is the command's own, 128+N after signal N, 124 after the time-out, 125 when
    hardrun refused or failed, 126 when the command can't be executed, 127 when it isn't found.
    """
    gate = _gate(strict=strict) if verify or strict else None
    kept = {option: options.pop(option) for option in ("detach", "remove", "log")}
    if session is not None and (gate or name is not None):
        raise BadInput(f"--session and --{'verify' if gate else 'name'}: a sandbox that commands "
                       "come to has no gate, and ends with its first one",
                       hint="hardrun verify PID compares it while it runs")
    if name is not None:
        return _run_named(context, options, name, report, gate, kept)
    if any(kept.values()):
        raise BadInput("-d, --rm and --log are for a container", hint="give it a --name")
    how = _How(gate, session, tuple(options["policy"]))
    if report is None:
        return _run(context, options, how)
    with _report_file(report) as descriptor:
        return _run_reported(context, options, descriptor, report_format, how)


class _How(NamedTuple):
    """What makes this process stay as the executor's parent."""

    gate: Gate | None
    session: str | None
    policies: tuple[str, ...]


def _run_named(context: click.Context, options: dict[str, Any], name: str, report: str | None,
               gate: Gate | None, how: dict[str, Any]) -> int:
    from hardrun.cli.containers import run_named

    if report is not None:
        raise BadInput("--report with --name: a container keeps how it ended",
                       hint=f"hardrun inspect {name}")
    return run_named(context, options, name, check=_told(gate) if gate else None,
                     forwarding=_forwarding, **how)


def _run(context: click.Context, options: dict[str, Any], how: _How) -> int:
    request = decide_options(context, options)
    protected = Protected.of(request.decision, request.workload)
    if sys.stderr is not None and sys.stderr.isatty():
        write([f"hardrun: {printable(note)}" for note in request.notes()], to_error=True)
    if how.gate or how.session is not None or protected.directories:
        return _run_as_parent(request, protected, how)[0]
    plan = request.plan(pinned=True)
    if plan.ids is not None:
        from hardrun.executor.ids import with_ids

        operations, lease = with_ids(plan.operations, plan.ids)
        os.set_inheritable(lease, True)  # noqa: FBT003 - this process becomes the executor
        plan = plan._replace(operations=operations)
    artefact = request.artefact(plan)
    if plan.storable and (found := stored(context, request)):
        cache.store(found.key, found.content)
    if os.environ.get("HARDRUN_SERVE") == "1":
        from hardrun.cli.serve import start_unless_running

        start_unless_running()
    image.execute(artefact, list(request.argv[1:]))
    return HardrunError.exit_code


class Stored(NamedTuple):
    """A request as the cache has it."""

    key: bytes
    artefact: bytes

    @property
    def content(self) -> bytes:
        """What is stored: the front-end may have to start the executor by its path."""
        return os.fsencode(image.executor_path()) + b"\0" + self.artefact


def stored(context: click.Context, request: Request) -> Stored | None:
    """The plan for every further run of this request; None where each has to be decided.

    The plan that has it made anew runs with ``--refresh`` and is ``pinned``, without anything to
    fall back to: a plan that is always stale ends in an error, never in a loop.
    """
    if request.workload.environment.values:
        return None  # a token in --env TOKEN=… belongs in no file
    halves = cache.split(context.obj)
    if halves is None or halves[1] != command_words(context)[1:] or not sys.executable:
        return None
    words = [word for word in halves[0] if word != "--refresh"]
    key = cache.make_key(words, schema_id())
    plan = request.needing(image.executor_path()).plan(pinned=False)
    if key is None or not plan.storable:
        return None
    # -P: never import from the working directory, which the workload may have written
    again = [sys.executable, "-P", "-m", "hardrun", "run", "--refresh", *words[1:]]
    return Stored(key, request.artefact(plan, again))


@contextmanager
def _report_file(target: str) -> Iterator[int]:
    """The descriptor that a report goes to, opened before the run so that mistakes show early."""
    try:
        if target.startswith("fd:"):
            descriptor = os.dup(int(target[3:]))
        else:
            from hardrun.kernel.outputs import open_output

            descriptor = open_output(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    except (OSError, ValueError, OverflowError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not a descriptor"
        raise BadInput(f"--report {target}: {problem}",
                       hint="a file that you may write, or fd:N with N open") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _run_reported(context: click.Context, options: dict[str, Any], descriptor: int,
                  report_format: str, how: _How) -> int:
    from hardrun.executor import report

    form = report.as_json if report_format == "json" else report.as_isolate
    try:
        request = decide_options(context, options)
        protected = Protected.of(request.decision, request.workload)
        status, document = _run_as_parent(request, protected, how)
    except HardrunError as error:
        _write_report(descriptor, form(report.error_document(error)))
        raise
    _write_report(descriptor, form(document))
    return status


def _write_report(descriptor: int, data: bytes) -> None:
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view):]
    except OSError as error:
        raise HardrunError(f"the report can't be written: {error.strerror}",
                           hint="is the disk full, or its reader gone?") from None


def _run_as_parent(request: Request, protected: Protected,
                   how: _How) -> tuple[int, dict[str, Any]]:
    """Start the executor as a child and stay; the exit status and the report's document."""
    from hardrun.executor import report, start

    before, gate = protected.existing(), how.gate
    with _forwarding() as children, _listening(request, how) as (program, at_serve):
        finished = start.run(
            program, request.argv[1:], on_start=children.append,
            at_gate=_told(gate) if gate else None, at_serve=at_serve)
    error = report.error_of(finished.report, finished.plan)
    if error is not None:
        raise error
    result = report.result_of(
        finished.report, argv=request.argv, returncode=finished.returncode,
        decision=request.decision, created=protected.created(before),
        unverified=gate.unverified if gate else ())
    if result.created and sys.stderr is not None and sys.stderr.isatty():
        write([f"hardrun: new and run by others later: {printable(path)}"
               for path in result.created], to_error=True)
    return result.returncode, report.result_document(result)


@contextmanager
def _listening(request: Request, how: _How) -> Iterator[
        tuple[Program, Callable[[int, socket.socket], None] | None]]:
    """The program, and who is to be called when it takes further commands."""
    from hardrun.executor.start import Program

    if how.session is None:
        yield Program.of(request), None
        return
    from hardrun.cli.joining import listening
    from hardrun.session import program_of

    program = program_of(request, serving=False)
    with listening(how.session, request, how.policies) as at_serve:
        yield program, at_serve


def _gate(*, strict: bool) -> Gate:
    from hardrun.api import Gate

    return Gate(strict=strict)


def _told(gate: Gate) -> Callable[[int], None]:
    """The gate, and a person at a terminal is told what it could not show."""
    def check(pid: int) -> None:
        gate(pid)
        if gate.unverified and sys.stderr is not None and sys.stderr.isatty():
            write([f"hardrun: not verified: {printable(line)}" for line in gate.unverified],
                  to_error=True)
    return check


@contextmanager
def _forwarding() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Signals that we get go to the child, which decides what they mean for its sandbox.

    From a terminal the child, in our process group, gets them itself.
    """
    children: list[subprocess.Popen[bytes]] = []
    foreground = _in_foreground()

    def forward(number: int, _frame: object) -> None:
        if foreground and number in (signal.SIGINT, signal.SIGQUIT):
            return
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
