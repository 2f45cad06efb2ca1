"""``hardrun compile``: a program that runs sandboxed without Python."""

from __future__ import annotations

import os
from typing import Any

import click

from hardrun.cli.options import CommandAfterDashes, decide_options, workload_options
from hardrun.errors import BadInput
from hardrun.executor.image import read_executor


@click.command("compile", cls=CommandAfterDashes)
@workload_options
@click.option("-o", "--output", metavar="FILE", required=True, help="The program to write.")
@click.pass_context
def command(context: click.Context, /, output: str, **options: Any) -> None:
    """Write a program that runs the command sandboxed, without Python and from any path.

    It is the executor with the plan appended. Arguments that it is given follow those of the plan,
    and --ro . or --rw . mean the directory that it is called in.
    It refuses to run when something changed that the decision depended on.
    """
    request = decide_options(context, options)
    if "." in (*options["ro"], *options["rw"]):
        plan = request.plan_anywhere()
    else:
        plan = request.plan(pinned=False, whole_command=True)
    if plan.ids is not None:
        raise BadInput("a program with ids of its own (--userns auto) can't be compiled",
                       hint="they are taken anew at each start: use hardrun run")
    if not plan.storable:
        raise BadInput("--rw with a policy that protects names below it, and a limit of disk "
                       "traffic, can't be compiled",
                       hint="names and disks are looked up at each start: use hardrun run")
    write_program(output, read_executor() + request.artefact(plan))


def write_program(path: str, data: bytes) -> None:
    """Write an executable file whole or not at all; a program that runs is not disturbed.

    Raises BadInput when that is not possible.
    """
    if os.path.isdir(path):
        raise BadInput(f"-o {path}: is a directory", hint="name the file to write")
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.urandom(4).hex()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), 0o755)  # nosec B103 - a program, for all
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise BadInput(f"-o {path}: {error.strerror}",
                       hint="name a file in a directory that you may write") from None
