"""``hardrun profile``: the profiles of AppArmor and SELinux that mirror policies."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from types import ModuleType

import click

from hardrun.cli.render import printable, table, write
from hardrun.errors import BadInput

FAILED = 1
NOT_ROOT = 125
MODULES = {"apparmor": "hardrun.profile.apparmor_host",
           "selinux": "hardrun.profile.selinux_host"}
_MODULE = click.option("--module", "module", metavar="NAME",
                       help="The security module: apparmor or selinux. Default: this host's, or "
                       "apparmor.")
_NAMES = click.argument("names", metavar="[PROFILE]...", nargs=-1)


@click.group("profile")
def command() -> None:
    """List, show, generate, check, install and remove profiles of security modules."""


def _module(name: str | None) -> ModuleType:
    name = name or _of_this_host()
    if name not in MODULES:
        raise BadInput(f"--module {name}: one of {', '.join(MODULES)}")
    return importlib.import_module(MODULES[name])


def _of_this_host() -> str:
    """SELinux where the kernel has it: no kernel labels processes by both."""
    from hardrun.kernel import selinux

    return "apparmor" if selinux.enforcing() is None else "selinux"


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="The answer as a document.")
def list_profiles(as_json: bool) -> None:
    """List the profiles that ship and their state on this host."""
    states = [state for name in MODULES for state in _module(name).states()]
    if as_json:
        write([json.dumps({"schema": "hardrun.profile.list", "schema_version": 1,
                           "profiles": [state._asdict() for state in states]}, indent=2)])
        return
    stale = {None: "", True: "stale: install it again", False: ""}
    write(table(("module", "profile", "policy", "installed", "loaded", ""),
                [(s.module, s.name, s.policy, "yes" if s.installed else "no", s.loaded,
                  stale[s.stale]) for s in states]))


@command.command("show")
@click.argument("name", metavar="PROFILE")
@_MODULE
def show(name: str, module: str | None) -> None:
    """Show a profile that ships, as it would be installed here."""
    write([printable(line) for line in _module(module).text(name).splitlines()])


@command.command("generate")
@click.option("--policy", metavar="NAME|FILE", required=True, help="The policy to mirror.")
@click.option("--abi", metavar="VERSION", help="AppArmor's abi: 3.0 or 4.0. Default: this host's.")
@click.option("-o", "--output", metavar="FILE", help="Write to a file.")
@_MODULE
def generate(policy: str, abi: str | None, output: str | None, module: str | None) -> None:
    """Write the profile that mirrors a policy."""
    text = _module(module).generate(policy, abi)
    if output is None:
        write(text.splitlines())
        return
    try:
        Path(output).write_text(text, "utf-8")
    except OSError as error:
        raise BadInput(f"-o {output}: {error.strerror}") from None


@command.command("check")
@_NAMES
@_MODULE
def check(names: tuple[str, ...], module: str | None) -> None:
    """Parse profiles that ship, or files, as the host's own tools do. Nothing is loaded."""
    tool = _module(module)
    failed = 0
    for name in names or tool.names():
        if "/" not in name and not tool.needed(name):
            write([f"{name}: not needed on this host, not checked"])
            continue
        complaint = tool.check(_read(name) if "/" in name else tool.text(name))
        failed += bool(complaint)
        write([printable(f"{name}: {complaint or 'parses'}")], to_error=bool(complaint))
    if failed:
        raise SystemExit(FAILED)


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None


def _as_root(verb: str, names: tuple[str, ...], module: str | None) -> None:
    tool = _module(module)
    unknown = [name for name in names if name not in tool.names()]
    if unknown:
        raise BadInput(f"hardrun ships no {module or _of_this_host()} profile {unknown[0]!r}",
                       hint="hardrun profile list")
    if os.geteuid() != 0:
        write([tool.command(verb, names)])
        write([f"hardrun: only root may {verb} profiles: run the line above as root"],
              to_error=True)
        raise SystemExit(NOT_ROOT)
    done = getattr(tool, verb)(names or tool.names())
    write([f"{name}: {verb.removesuffix('e')}ed" for name in done] or ["nothing to do"])


@command.command("install")
@_NAMES
@_MODULE
def install(names: tuple[str, ...], module: str | None) -> None:
    """Install and load profiles, all that ship by default; not as root: print root's command."""
    _as_root("install", names, module)


@command.command("remove")
@_NAMES
@_MODULE
def remove(names: tuple[str, ...], module: str | None) -> None:
    """Unload profiles and delete their files; not as root: print root's command."""
    _as_root("remove", names, module)
