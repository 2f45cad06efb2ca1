"""``hardrun run``: decide, compile, and become the executor."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from hardrun import cache
from hardrun.cli.options import CommandAfterDashes, command_words, decide_options, workload_options
from hardrun.cli.render import printable, write
from hardrun.errors import BadInput, HardrunError
from hardrun.executor import image
from hardrun.executor.protected import Protected

if TYPE_CHECKING:
    import subprocess

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
@click.option("--refresh", is_flag=True, hidden=True, help="Don't use a stored plan.")
@click.pass_context
def command(context: click.Context, /, report: str | None, report_format: str, verify: bool,
            refresh: bool, **options: Any) -> int:
    """Run a command in a sandbox.

    The exit status is the command's own, 128+N after signal N, 124 after the time-out, 125 when
    hardrun refused or failed, 126 when the command can't be executed, 127 when it isn't found.
    """
    if report is None:
        return _run(context, options, verify=verify)
    with _report_file(report) as descriptor:
        return _run_reported(context, options, descriptor, report_format, verify=verify)


def _run(context: click.Context, options: dict[str, Any], *, verify: bool) -> int:
    request = decide_options(context, options)
    protected = Protected.of(request.decision, request.workload)
    if verify or protected.directories:
        return _run_as_parent(request, protected, verify=verify)[0]
    artefact = request.artefact(request.plan(pinned=True))
    _store(context, request)
    image.execute(artefact, list(request.argv[1:]))
    return HardrunError.exit_code


def _store(context: click.Context, request: Request) -> None:
    """Keep the plan for the next run of this request.

    The plan that has it made anew runs with ``--refresh`` and is ``pinned``, without anything to
    fall back to: a plan that is always stale ends in an error, never in a loop.
    """
    if request.workload.environment.values:
        return  # a token in --env TOKEN=… belongs in no file
    halves = cache.split(context.obj)
    if halves is None or halves[1] != command_words(context)[1:] or not sys.executable:
        return
    words = [word for word in halves[0] if word != "--refresh"]
    key = cache.make_key(words, os.stat(image.executor_path()))
    plan = request.plan(pinned=False)
    if key is not None and plan.storable:
        # -P: never import from the working directory, which the workload may have written
        again = [sys.executable, "-P", "-m", "hardrun", "run", "--refresh", *words[1:]]
        cache.store(key, request.artefact(plan, again))


@contextmanager
def _report_file(target: str) -> Iterator[int]:
    """The descriptor that a report goes to, opened before the run so that mistakes show early."""
    try:
        if target.startswith("fd:"):
            descriptor = os.dup(int(target[3:]))
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            descriptor = os.open(target, flags, 0o666)
    except (OSError, ValueError, OverflowError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not a descriptor"
        raise BadInput(f"--report {target}: {problem}",
                       hint="a file that you may write, or fd:N with N open") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _run_reported(context: click.Context, options: dict[str, Any], descriptor: int,
                  report_format: str, *, verify: bool) -> int:
    from hardrun.executor import report

    form = report.as_json if report_format == "json" else report.as_isolate
    try:
        request = decide_options(context, options)
        protected = Protected.of(request.decision, request.workload)
        status, document = _run_as_parent(request, protected, verify=verify)
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


def _run_as_parent(request: Request, protected: Protected, *,
                   verify: bool) -> tuple[int, dict[str, Any]]:
    """Start the executor as a child and stay; the exit status and the report's document."""
    from hardrun.api import check_live
    from hardrun.executor import report, start

    before = protected.existing()
    with _forwarding() as children:
        finished = start.run(
            start.Program.of(request), request.argv[1:], on_start=children.append,
            at_gate=(lambda pid: check_live(pid, request.decision)) if verify else None)
    error = report.error_of(finished.report, finished.plan)
    if error is not None:
        raise error
    result = report.result_of(
        finished.report, argv=request.argv, returncode=finished.returncode,
        decision=request.decision, created=protected.created(before))
    if result.created and sys.stderr is not None and sys.stderr.isatty():
        write([f"hardrun: new and run by others later: {printable(path)}"
               for path in result.created], to_error=True)
    return result.returncode, report.result_document(result)


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
