"""``hardrun wait``: wait until containers have ended."""

from __future__ import annotations

import click

from hardrun.cli.containers import for_each, names
from hardrun.cli.render import write


@click.command("wait")
@names
def command(names: tuple[str, ...]) -> int:
    """Wait until containers have ended, and print the exit status of each."""
    from hardrun.containers import manage
    from hardrun.state.containers import Store

    store = Store()
    return for_each(names, lambda name: write([str(manage.wait(store, name))]))
