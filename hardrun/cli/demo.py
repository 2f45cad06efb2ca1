"""``hardrun demo``: a hostile script tries to get out, then the same script runs free."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from hardrun.cli.render import write
from hardrun.errors import BadInput

if TYPE_CHECKING:
    from hardrun.demo.play import Row

GOT_THROUGH = 1


def _without(row: Row) -> str:
    return "gets through" if row.without.through else "not possible here either"


def _document(rows: list[Row]) -> list[dict[str, Any]]:
    return [{"attempt": row.attempt.name, "title": row.attempt.title,
             "through": row.inside.through, "answer": row.inside.errno,
             "evidence": row.inside.evidence, "stopped_by": row.stopped_by,
             "without_sandbox": row.without.through, "evidence_without": row.without.evidence}
            for row in rows]


def _print_table(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("attempt", "in the sandbox", "answer", "stopped by", "without a sandbox"):
        table.add_column(heading)
    for row in rows:
        inside = Text("GOT THROUGH", "bold red") if row.inside.through else Text("stopped", "green")
        without = Text(_without(row), "yellow" if row.without.through else "dim")
        table.add_row(Text(row.attempt.title), inside, Text(row.inside.errno or "not there"),
                      Text(row.stopped_by), without)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 140
    console.print(table)


def _summary(rows: list[Row]) -> str:
    through = sum(row.inside.through for row in rows)
    free = sum(row.without.through for row in rows)
    return (f"{len(rows)} attempts: {through} got through in the sandbox (policy untrusted), "
            f"{free} without one, {len(rows) - free} not possible on this host either")


@click.command("demo")
@click.option("--json", "as_json", is_flag=True, help="Every answer as a document.")
def command(as_json: bool) -> int:
    """Let a hostile script try to get out of the policy `untrusted`, then run it free.

    Destructive attempts are harmless without the sandbox, except root's: root is refused. The exit
    status is 0 only if nothing got through.
    """
    if os.geteuid() == 0:  # what root's script mounts in the second act would stay on the host
        raise BadInput("the demonstration also runs its hostile script without a sandbox: "
                       "not as root", hint="run it as an ordinary user")
    from hardrun.demo.play import play

    rows = play()
    if as_json:
        import json

        write([json.dumps(_document(rows), indent=2)])
    else:
        _print_table(rows)
        write(["", _summary(rows)])
        write([f"got through: {row.attempt.title}: {row.inside.evidence}"
               for row in rows if row.inside.through])
    return GOT_THROUGH if any(row.inside.through for row in rows) else 0
