"""What the commands of named containers share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from hardrun.cli.options import command_words, flags_of
from hardrun.cli.render import error_lines, printable, write
from hardrun.errors import BadInput, HardrunError

if TYPE_CHECKING:
    from hardrun.containers.asked import Asked

Each = Callable[[str], object]
names = click.argument("names", metavar="NAME...", nargs=-1, required=True)


def asked_of(context: click.Context, options: dict[str, Any]) -> Asked:
    """What a command line asks for, to be kept."""
    from hardrun.containers.asked import Asked

    return Asked.now(command_words(context), options["policy"], flags_of(options))


def for_each(wanted: Iterable[str], action: Each) -> int:
    """Do something with each container and go on after an error: the exit status is the last one's.
    """
    status = 0
    for name in wanted:
        try:
            action(name)
        except HardrunError as error:
            write(error_lines(error), to_error=True)
            status = error.exit_code
    return status


def run_named(context: click.Context, options: dict[str, Any], name: str, *, detach: bool,
              remove: bool, log: str | None, check: Callable[[int], object] | None,
              forwarding: Callable[[], Any]) -> int:
    """``run --name``: create and start; the exit status of the command, or 0 when detached."""
    from hardrun.containers import launch, manage
    from hardrun.state.containers import Store

    if detach and (options["terminal"] or options["interactive"]):
        raise BadInput("-d with -t or -i: a terminal belongs to who waits", hint="leave one out")
    if log is not None and not detach:
        raise BadInput("--log is for -d: output goes to where hardrun was started",
                       hint="-d, or redirect the output")
    store = Store()
    manage.create(store, name, asked_of(context, options), removed_at_end=remove)
    try:
        if detach:
            launch.start_detached(store, name, log=log, check=check)
        else:
            with forwarding() as children:
                status, created = launch.run_attached(store, name, check=check,
                                                      on_start=children.append)
    except BaseException:
        with suppress(BadInput):  # removed meanwhile: the error that came first is told
            if manage.status_of(store, name).state == "created":  # what never ran leaves nothing
                manage.remove(store, name)
        raise
    if detach:
        write([name])
        return 0
    manage.status_of(store, name)
    if remove:
        manage.remove(store, name)
    tell_created(created)
    return status


def tell_created(created: Iterable[str]) -> None:
    """Tell a person at a terminal what others run later."""
    if sys.stderr is not None and sys.stderr.isatty():
        write([f"hardrun: new and run by others later: {printable(path)}" for path in created],
              to_error=True)
