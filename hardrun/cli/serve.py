"""``hardrun serve``: the decision service of this user."""

from __future__ import annotations

import gc
import os
import signal
import sys

import click

from hardrun import cache
from hardrun.errors import BadInput, HardrunError
from hardrun.serve import service

IDLE = "10m"


@click.command("serve")
@click.option("--start", is_flag=True, help="Start it in the background, unless it runs.")
@click.option("--stop", is_flag=True, help="End it.")
@click.option("--idle", metavar="TIME", default=IDLE, show_default=True,
              help="End when nobody has asked for so long.")
def command(start: bool, stop: bool, idle: str) -> int:
    """Decide requests that were not seen before, faster.

    Python, policies and what this host can do stay in memory. `hardrun run` asks the service of its
    user, if there is one, and starts what it decides itself; the service starts nothing. With
    HARDRUN_SERVE=1 in the environment the first run that needs it starts it.
    """
    if start and stop:
        raise BadInput("--start and --stop exclude each other", hint="hardrun serve --help")
    if stop:
        pid = service.running()
        if not pid:
            raise HardrunError("there is no decision service of this user", hint="hardrun serve")
        os.kill(pid, signal.SIGTERM)
    elif start:
        start_unless_running(idle)
    else:
        _serve(idle)
    return 0


def start_unless_running(idle: str = IDLE) -> None:
    """Start the service in the background; nothing where it runs."""
    if sys.executable and not service.running():
        service.start_apart([sys.executable, "-P", "-m", "hardrun", "serve", "--idle", idle])


def _serve(idle: str) -> None:
    from hardrun.cli.warm import Warm
    from hardrun.plan.schema import schema_id
    from hardrun.workload.units import parse_duration

    milliseconds = parse_duration(idle, "--idle")
    warm = Warm()
    gc.collect()
    gc.freeze()  # what is shared with the children stays shared
    service.serve(warm, cache.identity(schema_id()).encode(), milliseconds / 1000)
