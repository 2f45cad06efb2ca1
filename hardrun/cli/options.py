"""The options that run, explain and compile share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from hardrun.errors import BadInput

if TYPE_CHECKING:
    from hardrun.request import Request

_COMMAND = "hardrun.command"


class CommandAfterDashes(click.Command):
    """``OPTION... -- COMMAND ARGUMENT...``; the first ``--`` ends the options, always.

    The stored plans of ``hardrun run`` are looked up by the same rule, before any parsing.
    """

    allow_interspersed_args = False

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS]", "--", "COMMAND", "[ARGUMENT]..."]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options, command = args, None
        if "--" in args:
            end = args.index("--")
            options, command = args[:end], args[end + 1:]
        ctx.meta[_COMMAND] = command or []
        allowed, ctx.allow_extra_args = ctx.allow_extra_args, True
        rest = super().parse_args(ctx, options)
        ctx.allow_extra_args = allowed
        if not ctx.resilient_parsing:
            self._check(ctx, command)
        return rest

    def _check(self, ctx: click.Context, command: list[str] | None) -> None:
        usage = f"{ctx.command_path} [options] -- COMMAND ARGUMENT..."
        if ctx.args:
            raise BadInput(f"the command must stand after --: {ctx.args[0]}",
                           hint=f"{ctx.command_path} [options] -- {' '.join(ctx.args)}")
        if command is None:
            raise BadInput("no command given", hint=usage)
        if not command or not command[0]:
            raise BadInput("there is no command after --", hint=usage)


def _decorators() -> list[Callable[[Any], Any]]:
    many: dict[str, Any] = {"multiple": True}
    option = click.option
    return [
        option("--policy", metavar="NAME|FILE", **many,
               help="A policy that bounds the run; repeatable. Without one: untrusted."),
        option("--trust", metavar="CLASS", help="A trust class that policies match."),
        option("--label", metavar="K=V", **many, help="A label that policies match."),
        option("--rootfs", metavar="DIR", help="A directory to be the root."),
        option("--writable", metavar="ephemeral|persistent",
               help="A layer for changes over --rootfs, in memory or kept."),
        option("--ro", metavar="PATH[:DEST]", **many, help="Show a path read-only."),
        option("--rw", metavar="PATH[:DEST]", **many, help="Show a path writable."),
        option("--tmpfs", metavar="PATH[:SIZE]", **many, help="A private file system in memory."),
        option("--toolchain", metavar="CMD", **many,
               help="Show exactly the installation that CMD belongs to."),
        option("--workdir", metavar="DIR", help="The working directory inside."),
        option("--env", metavar="K[=V]", **many, help="Hand over a variable, or set one."),
        option("--user", metavar="UID[:GID]", help="The ids inside."),
        option("--userns", metavar="auto[:size=N]|single|shared",
               help="auto: ids inside that no other sandbox has, nor you."),
        option("--hostname", metavar="NAME", help="The host name inside."),
        option("--network", metavar="none|host", help="The network to be seen."),
        option("--min-tier", metavar="full|landlock", help="The least tier to run in."),
        option("--memory", metavar="SIZE", help="Memory of the whole sandbox, such as 512M."),
        option("--swap", metavar="SIZE", help="Swap beside the memory; 0: none."),
        option("--cpus", metavar="NUMBER", help="CPUs, such as 1.5."),
        option("--cpuset", metavar="LIST", help="Which CPUs, such as 0-3,6."),
        option("--pids", metavar="NUMBER", help="Processes and threads."),
        option("--io", metavar="SIZE",
               help="Bytes a second read from, and written to, each disk."),
        option("--cpu-time", metavar="TIME", help="CPU time, such as 10s."),
        option("--stack", metavar="SIZE", help="Stack of a thread."),
        option("--output-limit", metavar="SIZE", help="Bytes of output, to pipes too."),
        option("--timeout", metavar="TIME", help="Wall-clock time, such as 1m."),
        option("--cgroup-parent", metavar="DIR",
               help="A delegated cgroup to make the sandbox's own in; . for the caller's."),
        option("-i", "--interactive", is_flag=True, help="Hand over the terminal's input."),
        option("-t", "--terminal", is_flag=True, help="A private terminal."),
    ]


def workload_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that describe a workload, in the order of ``--help``."""
    for decorate in reversed(_decorators()):
        function = decorate(function)
    return function


def command_words(context: click.Context) -> list[str]:
    """The command and its arguments."""
    words: list[str] = context.meta[_COMMAND]
    return words


def flags_of(options: dict[str, Any]) -> dict[str, Any]:
    """The keywords of :func:`hardrun.request.decide` that describe a workload."""
    from hardrun.request import FLAGS
    from hardrun.workload.flags import LIMITS

    limits = {name: text for name, (flag, _) in LIMITS.items()
              if (text := options[flag[2:].replace("-", "_")]) is not None}
    return {"limits": limits} | {name: options[name] for name in FLAGS if name != "limits"}


def decide_options(context: click.Context, options: dict[str, Any],
                   **known: Any) -> Request:
    """The decided request of a command line; everything in ``options`` is as click has it.

    ``known`` is what :func:`hardrun.request.decide` need not find out itself.
    """
    from hardrun.request import decide

    return decide(command_words(context), policies=options["policy"], **known,
                  **flags_of(options))
