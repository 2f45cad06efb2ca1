"""``hardrun plan show``: the operations of a plan, each with its reason."""

from __future__ import annotations

import click

from hardrun.cli.render import printable, write


@click.group("plan")
def command() -> None:
    """Show the operations of a plan."""


@command.command("show")
@click.argument("file", metavar="FILE|-")
def show(file: str) -> None:
    """Show the plan in FILE: a compiled program, a stored plan, or - for standard input.

    Each line is one operation with its arguments, and after the # the control that asked for it
    and the line that decided.
    """
    from hardrun.plan.show import read_plan
    from hardrun.plan.show import show as lines_of

    write(printable(line) for line in lines_of(read_plan(file)))
