"""``hardrun start``: start containers, which go on without whoever started them."""

from __future__ import annotations

import click

from hardrun.cli.containers import for_each, names
from hardrun.cli.render import write


@click.command("start")
@click.option("--log", metavar="FILE", help="Where output is appended; else it goes nowhere.")
@click.option("--verify", is_flag=True,
              help="Compare what the kernel says with the decision before the command is let go.")
@names
def command(names: tuple[str, ...], log: str | None, verify: bool) -> int:
    """Start containers, each in a session of its own with an empty input.

    The command has begun when this returns: what keeps it from that is told here.
    """
    from hardrun.api import Gate
    from hardrun.containers import launch
    from hardrun.state.containers import Store

    store = Store()

    def start(name: str) -> None:
        launch.start_detached(store, name, log=log, check=Gate() if verify else None)
        write([name])

    return for_each(names, start)
