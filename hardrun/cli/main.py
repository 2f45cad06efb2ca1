"""The group of commands, and the one place where errors become lines and exit statuses.

A mistake in the command line exits with 125, as it does with docker, podman and env(1): every other
status belongs to the command that is run. ``audit`` runs none, and has 2 for it as linters do.
"""

from __future__ import annotations

import importlib

import click

import hardrun
from hardrun.cli.render import error_lines, forget_output, write
from hardrun.errors import BadInput, HardrunError

USAGE_STATUS = 125
AUDIT_USAGE_STATUS = 2
INTERRUPTED = 130  # 128 + SIGINT

COMMANDS = {
    "run": "Run a command in a sandbox.",
    "exec": "Run a command in a sandbox that runs, or that waits in a pool.",
    "pool": "Keep sandboxes ready, each for one command.",
    "create": "Make a container: a request with a name.",
    "start": "Start containers, which go on by themselves.",
    "stop": "End containers.",
    "kill": "Send a signal to the commands of containers.",
    "rm": "Remove containers.",
    "ps": "List containers.",
    "wait": "Wait until containers have ended.",
    "inspect": "Print all that is known of containers.",
    "explain": "Say what a run would be allowed, and why; nothing is started.",
    "why": "Say which layers gate a path, address, system call or capability.",
    "compile": "Write a program that runs sandboxed without Python.",
    "plan": "Show the operations of a plan.",
    "verify": "Compare a running sandbox with its decision.",
    "audit": "Judge container configurations and running containers.",
    "policy": "List, show, check, test and compare policies.",
    "profile": "Show and install what AppArmor and SELinux need.",
    "serve": "Decide requests that were not seen before, faster.",
    "doctor": "Say what this host and user can enforce.",
    "demo": "Let a hostile script try to get out.",
    "bench": "Measure what isolation costs, beside other runtimes.",
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


def _is_of_audit(error: click.ClickException) -> bool:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return context is not None and context.info_name == "audit"


def main(arguments: list[str]) -> int:
    """Run one command line and return its exit status."""
    words, debug = _without_debug(arguments)
    try:
        status = group.main(words or ["--help"], prog_name="hardrun", standalone_mode=False,
                            obj=arguments)
    except HardrunError as error:
        return _fail(error, debug)
    except click.ClickException as error:
        failed = _fail(_usage_error(error), debug)
        return AUDIT_USAGE_STATUS if _is_of_audit(error) else failed
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        forget_output()
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
        forget_output()
    return error.exit_code
