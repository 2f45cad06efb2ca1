"""The group of commands, and the one place where errors become lines and exit statuses.

A mistake in the command line exits with 125, as it does with docker, podman and env(1): every other
status belongs to the command that is run.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

import hardrun
from hardrun.cli.render import error_lines, write
from hardrun.errors import BadInput, HardrunError

USAGE_STATUS = 125
INTERRUPTED = 130  # 128 + SIGINT

COMMANDS = {
    "run": "Run a command in a sandbox.",
    "explain": "Say what a run would be allowed, and why; nothing is started.",
    "why": "Say which layers gate a path, address, system call or capability.",
    "compile": "Write a program that runs sandboxed without Python.",
    "plan": "Show the operations of a plan.",
    "verify": "Compare a running sandbox with its decision.",
    "policy": "List, show, check, test and compare policies.",
    "doctor": "Say what this host and user can enforce.",
    "demo": "Let a hostile script try to get out.",
}


class LazyGroup(click.Group):
    """Imports ``hardrun.cli.NAME`` when the command NAME is called, and lists without importing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"hardrun.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(hardrun.__version__, prog_name="hardrun")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def group(debug: bool) -> None:
    """Run a command nobody trusts, in the tightest sandbox that policy and host allow."""
    del debug  # taken out by main() wherever it stands, so that it holds for parsing too


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [word for word in arguments[:end] if word != "--debug"]
    return kept + arguments[end:], len(kept) < end


def _usage_error(error: click.ClickException) -> BadInput:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return BadInput(error.format_message(),
                    hint=f"{context.command_path if context else 'hardrun'} --help")


def main(arguments: list[str]) -> int:
    """Run one command line and return its exit status."""
    words, debug = _without_debug(arguments)
    try:
        status = group.main(words or ["--help"], prog_name="hardrun", standalone_mode=False,
                            obj=arguments)
    except HardrunError as error:
        return _fail(error, debug)
    except click.ClickException as error:
        return _fail(_usage_error(error), debug)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return USAGE_STATUS
    except Exception as error:  # noqa: BLE001 - a mistake of ours is one line, too
        problem = f"internal error: {type(error).__name__}: {error}"
        hint = "this is a mistake in hardrun; --debug shows where"
        return _fail(HardrunError(problem, hint=hint), debug)
    return status if isinstance(status, int) else 0


def _fail(error: HardrunError, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    try:
        write(error_lines(error), to_error=True)
    except BrokenPipeError:
        _forget_output()
    return error.exit_code


def _forget_output() -> None:
    """Nobody reads any more: keep Python from complaining about that at its own end."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - open until the process ends
