"""What ``--toolchain CMD`` grants: exactly the trees that one installed program needs.

uv, pyenv, nvm, conda and virtual environments live in hidden directories of the home, are reached
through chains of symlinks, and lie beside settings and credentials that must stay unseen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from hardrun.errors import BadInput, CommandNotFound

MAXIMUM_LINKS = 40  # as path_resolution(7) has it


class Toolchain(NamedTuple):
    """Trees and files to show read-only, and symlinks (path, target) that lead to them."""

    paths: tuple[str, ...]
    links: dict[str, str]


def find_command(command: str, search_path: str, directory: str) -> str | None:
    """The absolute path of a command as execvp(3) would find it, or None."""
    if "/" in command:
        path = os.path.normpath(os.path.join(directory, command))
        return path if os.path.isfile(path) else None
    for entry in search_path.split(":"):
        path = os.path.join(directory, entry, command)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return os.path.normpath(path)
    return None


def interpreter_of(path: str) -> list[str]:
    """The words of a script's ``#!`` line, or an empty list (execve(2): 256 bytes are read)."""
    try:
        with open(path, "rb") as file:
            line = file.read(256).split(b"\n", 1)[0]
    except OSError:
        return []
    if not line.startswith(b"#!"):
        return []
    return os.fsdecode(line[2:].split(b"\0", 1)[0]).strip().split(maxsplit=1)


def virtual_environment_base(prefix: str) -> str | None:
    """The ``home`` of pyvenv.cfg in ``prefix``: the directory of the Python it was made from."""
    try:
        with open(os.path.join(prefix, "pyvenv.cfg"), encoding="utf-8",
                  errors="surrogateescape") as file:
            for line in file.read(65536).splitlines():
                key, _, value = line.partition("=")
                if key.strip().lower() == "home":
                    return value.strip()
    except OSError:
        return None
    return None


def walk(path: str) -> Iterator[tuple[str, str]]:
    """The symlinks met on the way to ``path``, as (absolute path, target), then (end, "").

    Raises BadInput after :data:`MAXIMUM_LINKS`.
    """
    todo = path.strip("/").split("/")
    here = "/"
    links = 0
    while todo:
        name = todo.pop(0)
        if name in ("", "."):
            continue
        here = os.path.dirname(here) if name == ".." else os.path.join(here, name)
        if not os.path.islink(here):
            continue
        links += 1
        if links > MAXIMUM_LINKS:
            raise BadInput(f"{path}: too many symbolic links")
        target = os.readlink(here)
        yield here, target
        todo[:0] = target.split("/")
        here = "/" if target.startswith("/") else os.path.dirname(here)
    yield here, ""


def resolve(command: str, *, search_path: str, home: str, directory: str) -> Toolchain:
    """Find what ``command`` needs in order to run.

    What lies below /usr is left out: every root shows it. Raises CommandNotFound.
    """
    path = find_command(command, search_path, directory)
    if path is None:
        raise CommandNotFound(f"--toolchain {command}: no such command",
                              hint="name a command of your PATH, or its path")
    paths: dict[str, None] = {}
    links: dict[str, str] = {}
    todo, seen = [path], set[str]()
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        for step, target in walk(current):
            if target:
                links[step] = target
            if os.path.isdir(step):
                continue
            prefix = _prefix(step, home)
            if prefix is not None:
                paths[prefix] = None
                base = virtual_environment_base(prefix)
                if base:
                    todo.append(os.path.join(base, "python3"))
            elif not target:
                paths[step] = None
            if not target:
                todo += [word for word in interpreter_of(step)[:1] if word.startswith("/")]
    outside = [d for d in paths if d != "/usr" and not d.startswith("/usr/")]
    kept = [d for d in outside
            if not any(d.startswith(other + "/") for other in outside)]
    return Toolchain(tuple(sorted(kept)),
                     {p: t for p, t in links.items() if p.startswith(home + "/")
                      and not any(p.startswith(d + "/") for d in kept)})


def _prefix(program: str, home: str) -> str | None:
    """The tree that a program was installed as, or None when it stands alone.

    ``~/.local/bin`` and the like are shared by everything a user installs, and a dot directory of
    the home keeps credentials beside its programs (~/.cargo/credentials.toml): there it is the
    ``bin`` directory, or nothing, but never the whole.
    """
    directory = os.path.dirname(program)
    parent = os.path.dirname(directory)
    name = os.path.basename(directory)
    if name == "shims":  # pyenv, rbenv: scripts that run the version that applies
        return parent
    if name not in ("bin", "sbin", "Scripts"):
        return None
    if parent in ("/", home, os.path.join(home, ".local")) or (home + "/").startswith(parent + "/"):
        return None
    if os.path.dirname(parent) == home and os.path.basename(parent).startswith("."):
        return parent if os.path.exists(os.path.join(parent, "pyvenv.cfg")) else directory
    return parent
