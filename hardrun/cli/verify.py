"""``hardrun verify PID``: a running sandbox, read from the kernel, against its decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from hardrun.cli.render import table, write

if TYPE_CHECKING:
    from hardrun.verify import Check, Sandbox

SCHEMA_VERSION = 1
_HEADING = ("result", "control", "expected", "observed", "processes", "evidence")
_WORST_FIRST = {"differs": 0, "holds": 1, "unknown": 2}

Checks = Mapping[int, "tuple[Check, ...]"]


def rows_of(checks: Checks) -> list[tuple[str, ...]]:
    """One row for each answer, with the processes that gave it; what differs comes first."""
    together: dict[Check, list[int]] = {}
    for pid, answers in checks.items():
        for check in answers:
            together.setdefault(check, []).append(pid)
    ordered = sorted(together.items(), key=lambda item: _WORST_FIRST[item[0].result])
    return [(c.result, c.control, c.expected, c.observed, _processes(pids, len(checks)), c.evidence)
            for c, pids in ordered]


def _processes(pids: list[int], total: int) -> str:
    if len(pids) == total:
        return "all"
    return ", ".join(map(str, pids[:4])) + (f" and {len(pids) - 4} more" if len(pids) > 4 else "")


def _summary(sandbox: Sandbox, checks: Checks) -> str:
    results = [check.result for answers in checks.values() for check in answers]
    return (f"sandbox of {sandbox.launcher}, PID 1 is {sandbox.init}, {len(checks)} processes, "
            f"decision sha256:{sandbox.decision.digest}: {results.count('holds')} hold, "
            f"{results.count('differs')} differ, {results.count('unknown')} unknown")


def document_of(sandbox: Sandbox, checks: Checks) -> dict[str, Any]:
    """The answers as a JSON-ready document."""
    return {
        "schema_version": SCHEMA_VERSION, "holds": all_hold(checks),
        "decision": sandbox.decision.digest, "launcher": sandbox.launcher, "init": sandbox.init,
        "processes": [{"pid": pid, "checks": [check._asdict() for check in answers]}
                      for pid, answers in checks.items()],
    }


def all_hold(checks: Checks) -> bool:
    """Whether nothing differs; what is unknown has its reason beside it."""
    return not any(c.result == "differs" for answers in checks.values() for c in answers)


def _read(sandbox: Sandbox) -> dict[int, tuple[Check, ...]]:
    from hardrun.verify import compare, observe
    from hardrun.verify.live import Observer

    observer = Observer.read()
    checks = {}
    for pid in sandbox.processes:
        try:
            checks[pid] = compare(sandbox.decision, observe(pid), observer=observer)
        except ProcessLookupError:
            continue  # ended meanwhile
    return checks


@click.command("verify")
@click.argument("pid", type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="The answers as a document.")
def command(pid: int, as_json: bool) -> int:
    """Compare every process of a running sandbox with its decision.

    PID is hardrun run itself or any process inside. The exit status is 0 when everything that the
    kernel shows is as decided, 1 when something differs, 125 when PID is in no sandbox.
    """
    from hardrun.verify import find_sandbox
    from hardrun.verify.find import NotASandbox

    sandbox = find_sandbox(pid)
    checks = _read(sandbox)
    if not checks:
        raise NotASandbox(f"the sandbox of process {pid} ended meanwhile")
    if as_json:
        import json

        write([json.dumps(document_of(sandbox, checks), indent=2)])
    else:
        write([*table(_HEADING, rows_of(checks)), "", _summary(sandbox, checks)])
    return 0 if all_hold(checks) else 1
