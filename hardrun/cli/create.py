"""``hardrun create``: keep a request under a name."""

from __future__ import annotations

from typing import Any

import click

from hardrun.cli.containers import asked_of
from hardrun.cli.options import CommandAfterDashes, workload_options
from hardrun.cli.render import write


@click.command("create", cls=CommandAfterDashes)
@workload_options
@click.option("--name", metavar="NAME", required=True, help="The name of the container.")
@click.option("--rm", "remove", is_flag=True, help="Remove it when its first run has ended.")
@click.pass_context
def command(context: click.Context, /, name: str, remove: bool, **options: Any) -> int:
    """Make a container: a request with a name, to be started any number of times.

    It is decided now, so that mistakes show, and anew at each start, under the policies of that
    day. Nothing of it is on disk but a row of the state database.
    """
    from hardrun.containers import manage
    from hardrun.state.containers import Store

    manage.create(Store(), name, asked_of(context, options), removed_at_end=remove)
    write([name])
    return 0
