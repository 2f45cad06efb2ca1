"""``hardrun ps``: list containers."""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING

import click

from hardrun.cli.render import table, write

if TYPE_CHECKING:
    from hardrun.containers.manage import Status

_HEADING = ("name", "state", "created", "pid", "command")


@click.command("ps")
@click.option("-a", "--all", "everything", is_flag=True, help="Those that do not run as well.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table",
              help="json: a list, as inspect prints it.")
def command(everything: bool, form: str) -> int:
    """List the containers that run."""
    from hardrun.containers import manage
    from hardrun.state.containers import Store

    store = Store()
    found = [status for status in manage.every(store)
             if everything or status.state in ("running", "starting")]
    if form == "json":
        write([json.dumps([manage.document(status, store) for status in found], indent=2)])
    else:
        write(table(_HEADING, (_row(status) for status in found)))
    return 0


def _row(status: Status) -> tuple[str, ...]:
    from hardrun.containers.asked import Asked

    record = status.record
    state = status.state if status.exit_status is None else f"exited ({status.exit_status})"
    pid = str(record.pid) if status.state == "running" else ""
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
    return record.name, state, created, pid, shlex.join(Asked.from_json(record.request).argv)
