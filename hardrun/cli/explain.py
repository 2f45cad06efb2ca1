"""``hardrun explain``: what a run would be allowed, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hardrun.cli.options import CommandAfterDashes, decide_options, workload_options
from hardrun.cli.render import printable, table, write

if TYPE_CHECKING:
    from hardrun.policy.decision import ControlDecision, Decision

_HEADING = ("control", "value", "enforced by", "decided by")


def _enforced_by(decision: ControlDecision) -> str:
    layers = ", ".join(decision.enforcement.by)
    if decision.enforcement.kind == "enforced":
        return layers
    note = "fallback" if decision.enforcement.kind == "replaced" else "degraded"
    return f"{layers} ({note})" if layers else note


def _decided_by(decision: ControlDecision) -> str:
    parts = [decision.decided_by]
    if decision.asked_by:
        parts = [f"request {decision.asked_by}"]
        if decision.bound_by:
            parts.append(f"within {decision.bound_by}")
    if decision.clipped_from:
        parts.append(f"clipped from {decision.clipped_from} by {decision.bound_by}")
    if decision.enforcement.because:
        parts.append(f"host: {decision.enforcement.because}")
    return "; ".join(part for part in parts if part)


def _rows(decision: Decision) -> list[tuple[str, str, str, str]]:
    rows = []
    for control in decision.controls:
        rows.append((control.control, control.shown, _enforced_by(control), _decided_by(control)))
        if control.enforcement.fix:
            rows.append(("", "", "", f"fix: {control.enforcement.fix}"))
    return rows


def _summary(decision: Decision) -> str:
    kinds = [control.enforcement.kind for control in decision.controls]
    return (f"decision sha256:{decision.digest}   {len(kinds)} controls: "
            f"{kinds.count('enforced')} enforced, {kinds.count('replaced')} fallback, "
            f"{kinds.count('degraded')} degraded")


def lines_of(decision: Decision) -> list[str]:
    """A Decision as the lines of a table."""
    lines = table(_HEADING, _rows(decision))
    lines += [printable(f"danger: {d.control}: {d.shown}: {d.reason} ({d.origin})")
              for d in decision.dangers]
    return [*lines, _summary(decision)]


@click.command("explain", cls=CommandAfterDashes)
@workload_options
@click.option("--json", "as_json", is_flag=True, help="The Decision as a document.")
@click.pass_context
def command(context: click.Context, /, as_json: bool, **options: Any) -> None:
    """Say what a run would be allowed, and why; nothing is started.

    The digest is that of the Decision under which run, compile and the Python API would run it.
    """
    request = decide_options(context, options)
    decision = request.decision
    if as_json:
        write([decision.to_json().decode("utf-8", "surrogateescape")])
    else:
        write([*lines_of(decision), *(printable(f"note: {note}") for note in request.notes())])
