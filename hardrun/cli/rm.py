"""``hardrun rm``: remove containers."""

from __future__ import annotations

import click

from hardrun.cli.containers import for_each, names
from hardrun.cli.render import write


@click.command("rm")
@click.option("-f", "--force", is_flag=True, help="End those that run.")
@names
def command(names: tuple[str, ...], force: bool) -> int:
    """Remove containers, with what they changed of their roots."""
    from hardrun.containers import manage
    from hardrun.state.containers import Store

    store = Store()

    def remove(name: str) -> None:
        manage.remove(store, name, force=force)
        write([name])

    return for_each(names, remove)
