"""``hardrun verify PID``: a running sandbox, read from the kernel, against its decision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from hardrun.cli.render import printable, table, write

if TYPE_CHECKING:
    from hardrun.verify import Check, Verification, Verified

SCHEMA_VERSION = 1
_HEADING = ("result", "control", "expected", "observed", "processes", "evidence")
_WORST_FIRST = {"differs": 0, "holds": 1, "unknown": 2}


def rows_of(processes: Sequence[Verified], *, everything: bool = True) -> list[tuple[str, ...]]:
    """One row for each answer, with the processes that gave it; what differs comes first.

    Unless ``everything``, what holds is left out.
    """
    together: dict[Check, list[str]] = {}
    for process in processes:
        for check in process.checks:
            together.setdefault(check, []).append(_number(process))
    ordered = sorted(together.items(), key=lambda item: _WORST_FIRST[item[0].result])
    return [(c.result, c.control, c.expected, c.observed, _several(numbers, len(processes)),
             c.evidence) for c, numbers in ordered if everything or c.result != "holds"]


def _number(process: Verified) -> str:
    return f"{process.pid}/{process.thread}" if process.thread else str(process.pid)


def _several(numbers: list[str], total: int) -> str:
    if len(numbers) == total:
        return "all"
    return ", ".join(numbers[:4]) + (f" and {len(numbers) - 4} more" if len(numbers) > 4 else "")


def _counts(processes: Sequence[Verified]) -> str:
    results = [check.result for process in processes for check in process.checks]
    return (f"{results.count('holds')} hold, {results.count('differs')} differ, "
            f"{results.count('unknown')} unknown")


def summary(found: Verification) -> Iterator[str]:
    """A line for each process, and one for the whole."""
    for process in found.processes:
        role = "PID 1" if process.pid == found.sandbox.init else \
            f"thread {process.thread}" if process.thread else ""
        yield " ".join(filter(None, (f"{process.pid}", printable(process.name), role))) + \
            f": {_counts([process])}"
    threads = f" and {found.threads} more threads" if found.threads else ""
    missed = f", {found.missed} that started meanwhile were not read" if found.missed else ""
    number = len({process.pid for process in found.processes})
    yield (f"sandbox of {found.sandbox.launcher}, {number} processes{threads}{missed}, decision "
           f"sha256:{found.sandbox.decision.digest}: {_counts(found.processes)}")


def document_of(found: Verification) -> dict[str, Any]:
    """The answers as a JSON-ready document."""
    sandbox = found.sandbox
    return {
        "schema_version": SCHEMA_VERSION, "holds": found.holds,
        "decision": sandbox.decision.digest, "launcher": sandbox.launcher, "init": sandbox.init,
        "threads": found.threads, "missed": found.missed,
        "processes": [{"pid": process.pid, "thread": process.thread, "name": process.name,
                       "checks": [check._asdict() for check in process.checks]}
                      for process in found.processes],
    }


@click.command("verify")
@click.argument("pid", type=click.IntRange(min=1))
@click.option("--process", type=click.IntRange(min=1), metavar="N",
              help="Read this process of the sandbox alone.")
@click.option("--all", "everything", is_flag=True, help="Show what holds, too, control by control.")
@click.option("--json", "as_json", is_flag=True, help="The answers as a document.")
def command(pid: int, process: int | None, everything: bool, as_json: bool) -> int:
    """Compare every process of a running sandbox with its decision.

    PID is hardrun run itself or any process inside. Every process and thread is read from the
    kernel; what shows only inside (a Landlock domain, securebits, keys) is tried there by a child
    of PID 1; a process that came in from outside is told. The exit status is 0 when everything
    that the kernel shows is as decided, 1 when something differs, 125 when PID is in no sandbox.
    """
    from hardrun.verify import find_sandbox, verify_sandbox
    from hardrun.verify.find import NotASandbox

    try:
        found = verify_sandbox(find_sandbox(pid), only=process or 0)
    except ProcessLookupError:
        raise NotASandbox(f"the sandbox of process {pid} ended meanwhile") from None
    write(_as_json(found) if as_json else _as_text(found, everything=everything))
    return 0 if found.holds else 1


def _as_json(found: Verification) -> list[str]:
    import json

    return [json.dumps(document_of(found), indent=2)]


def _as_text(found: Verification, *, everything: bool) -> list[str]:
    rows = rows_of(found.processes, everything=everything)
    return [*(table(_HEADING, rows) + [""] if rows else []), *summary(found)]
