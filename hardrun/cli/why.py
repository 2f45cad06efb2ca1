"""``hardrun why``: which layers gate a thing, by which line, and what would allow it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from hardrun.cli.render import printable, write
from hardrun.policy.engine import Places
from hardrun.policy.load import load_policies
from hardrun.policy.why import Question

if TYPE_CHECKING:
    from hardrun.kernel.seccomp.profile import Profile


def _is_path(text: str) -> bool:
    return text.startswith(("/", "~", ".")) or "/" in text


def _profile(reference: str) -> Profile:
    """A seccomp profile; one that ships is cited as it stands in the source tree."""
    from hardrun.kernel.seccomp.prebuilt import find
    from hardrun.kernel.seccomp.profile import load

    loaded = load(find(reference))
    if reference.startswith("/"):
        return loaded
    return loaded._replace(file=f"profiles/seccomp/{reference}.json")


@click.command("why")
@click.option("--policy", metavar="NAME|FILE", multiple=True, help="A policy; untrusted if none.")
@click.option("--json", "as_json", is_flag=True, help="The answer as a document.")
@click.argument("thing", metavar="PATH|HOST:PORT|SYSCALL|CAPABILITY")
def command(policy: tuple[str, ...], as_json: bool, thing: str) -> None:
    """Say which layers gate a path, address, system call or capability.

    The answer comes from the policies: nothing is run. It names the line of each layer that has a
    say, and the flag or policy line that would loosen it. Capabilities are written CAP_CHOWN.
    """
    home = os.path.realpath(os.path.expanduser("~"))
    text = os.path.realpath(os.path.expanduser(thing)) if _is_path(thing) else thing
    machine = os.uname()
    question = Question(text, load_policies(policy).policies, Places(os.getcwd(), home),
                        architecture=machine.machine, kernel_release=machine.release,
                        profile=_profile)
    answer = question.answer()._replace(question=thing)
    if as_json:
        write([json.dumps(answer.to_json(), indent=2)])
        return
    write([printable(answer.line())])
    write([printable(f"  {'allows' if gate.allows else 'denies'}  {gate.layer}"
                     f" ({gate.control}, {gate.origin})"
                     + (f": {gate.detail}" if gate.detail else "")) for gate in answer.gates])
