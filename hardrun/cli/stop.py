"""``hardrun stop``: end containers."""

from __future__ import annotations

import click

from hardrun.cli.containers import for_each, names
from hardrun.cli.render import write


@click.command("stop")
@click.option("-t", "--time", "seconds", type=click.FloatRange(0), default=10.0, metavar="SECONDS",
              help="How long the command may take after SIGTERM (10).")
@names
def command(names: tuple[str, ...], seconds: float) -> int:
    """End containers: SIGTERM to the command, and after a time the end of the sandbox.

    One that does not run is left as it is.
    """
    from hardrun.containers import manage
    from hardrun.state.containers import Store

    store = Store()

    def stop(name: str) -> None:
        manage.stop(store, name, seconds)
        write([name])

    return for_each(names, stop)
