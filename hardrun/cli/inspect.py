"""``hardrun inspect``: all that is known of containers, as JSON."""

from __future__ import annotations

import json
from typing import Any

import click

from hardrun.cli.containers import for_each, names
from hardrun.cli.render import write


@click.command("inspect")
@names
def command(names: tuple[str, ...]) -> int:
    """Print containers as a JSON list: what was asked for, whether it runs, how it ended."""
    from hardrun.containers import manage
    from hardrun.state.containers import Store

    store = Store()
    found: list[dict[str, Any]] = []
    status = for_each(names, lambda name: found.append(
        manage.document(manage.status_of(store, name), store)))
    write([json.dumps(found, indent=2)])
    return status
