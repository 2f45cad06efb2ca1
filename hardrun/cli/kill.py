"""``hardrun kill``: send a signal to the commands of containers."""

from __future__ import annotations

import click

from hardrun.cli.containers import for_each, names
from hardrun.cli.render import write


@click.command("kill")
@click.option("-s", "--signal", "signal_name", default="KILL", metavar="SIGNAL",
              help="KILL (the default) ends the sandbox; others go to the command.")
@names
def command(names: tuple[str, ...], signal_name: str) -> int:
    """Send a signal to the commands of containers.

    INT, TERM, HUP, QUIT, USR1, USR2, ALRM, CONT or WINCH. Asked a second time by INT or TERM, the
    sandbox ends whatever the command does with them.
    """
    from hardrun.containers import manage
    from hardrun.state.containers import Store

    store = Store()

    def kill(name: str) -> None:
        manage.kill(store, name, signal_name)
        write([name])

    return for_each(names, kill)
