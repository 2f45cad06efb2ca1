"""Finds and reads policies. The one place of the policy room that touches the file system.

Each layer is a directory of ``*.yaml`` files; ``--policy FILE`` adds single files. What was read,
and what was looked for and is absent, is returned with it: a stored plan is stale when any of it
changes.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hardrun.data import data_directory
from hardrun.errors import PolicyError
from hardrun.policy.loaded import Catalogue, Layer, LoadedPolicy, unbounded

DEFAULT = "untrusted"
SYSTEM = "/etc/hardrun/policy.d"
COMPILED = "policies.json"
SUFFIXES = (".yaml", ".yml")


class Dependency(NamedTuple):
    """A path that was looked at, as it was: all zero when it did not exist (``exists`` False)."""

    path: str
    exists: bool
    device: int = 0
    inode: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0


class Directories(NamedTuple):
    """Where the layers lie. ``system_owner`` is who must own the system layer."""

    builtin: Path
    system: Path | None
    user: Path | None
    compiled: Path | None = None
    system_owner: int = 0

    @classmethod
    def standard(cls, environment: Mapping[str, str] | None = None) -> Directories:
        """The places that design and XDG name, for this user."""
        variables = os.environ if environment is None else environment
        configuration = variables.get("XDG_CONFIG_HOME", "")
        if not configuration.startswith("/"):
            home = variables.get("HOME", "")
            configuration = f"{home}/.config" if home.startswith("/") else ""
        user = Path(configuration, "hardrun/policy.d") if configuration else None
        return cls(data_directory("policies"), Path(SYSTEM), user, data_directory("compiled"))


_UNREAD = ("a policy there may tighten what is run, so nothing is started: make it readable; "
           "XDG_CONFIG_HOME names another place for your own")


class Loaded(NamedTuple):
    """Policies with their parents, ready for the engine; all documents; and what was looked at."""

    policies: tuple[LoadedPolicy, ...]
    catalogue: Catalogue
    dependencies: tuple[Dependency, ...]


def look(path: str | Path) -> Dependency:
    """The state of a path now, symlinks not followed."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Dependency(str(path), exists=False)
    except OSError as error:
        raise PolicyError(f"can't be read: {error.strerror}", file=str(path),
                          hint=_UNREAD) from None
    return Dependency(str(path), exists=True, device=found.st_dev, inode=found.st_ino,
                      mtime_ns=found.st_mtime_ns, ctime_ns=found.st_ctime_ns)


def check_trusted(path: Path, owners: Sequence[int]) -> None:
    """PolicyError unless the file, and every directory above it, can be changed by its owner alone.

    A writable directory above is as good as a writable file: it can be renamed away. Directories
    with the sticky bit (/tmp) let nobody rename what is not theirs.
    """
    real = Path(os.path.realpath(path))
    for part in (real, *real.parents):
        found = os.stat(part)
        sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        if found.st_uid not in (*owners, 0):
            raise PolicyError(f"{part} is owned by uid {found.st_uid}, not by uid {owners[0]}",
                              file=str(path), hint=f"chown {owners[0]} {part}")
        if found.st_mode & 0o022 and not sticky:
            raise PolicyError(f"{part} can be written by others (mode {found.st_mode & 0o7777:o})",
                              file=str(path), hint=f"chmod go-w {part}")


def read_policy(path: Path, layer: Layer, label: str | None = None) -> LoadedPolicy:
    """The policy in one file, without its parents."""
    from hardrun.policy.document import parse
    from hardrun.policy.tree import MAXIMUM_SIZE, read_yaml

    file = label or str(path)
    try:
        with path.open("rb") as stream:  # it may be a device or a pipe that never ends
            text = stream.read(MAXIMUM_SIZE + 1)
    except OSError as error:
        raise PolicyError(f"can't be read: {error.strerror}", file=file) from None
    return parse(read_yaml(text, file), file, layer)


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(p for p in directory.iterdir() if p.suffix in SUFFIXES)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise PolicyError(f"can't be read: {error.strerror}", file=str(directory)) from None


def builtin_label(path: Path) -> str:
    """How messages cite a policy that ships, wherever it is installed."""
    return f"policies/{path.name}"


def read_builtin(directory: Path, compiled: Path | None = None) -> list[LoadedPolicy]:
    """The policies that ship: from what was parsed ahead where that is of the same text."""
    from hardrun.policy.compiled import revive

    ahead = {}
    if compiled is not None:
        try:
            ahead = json.loads((compiled / COMPILED).read_bytes())
        except (OSError, ValueError):
            ahead = {}
    policies = []
    for path in _files(directory):
        try:
            text = path.read_bytes()
        except OSError as error:
            raise PolicyError(f"can't be read: {error.strerror}", file=str(path)) from None
        label = builtin_label(path)
        policy = revive(ahead, label, zlib.crc32(text))
        policies.append(policy or read_policy(path, "built-in", label))
    return policies


class Reader:
    """Reads policies; one that has kept what it read may be passed instead."""

    def policy(self, path: Path, layer: Layer, label: str | None = None) -> LoadedPolicy:
        """As :func:`read_policy`."""
        return read_policy(path, layer, label)

    def builtin(self, directory: Path, compiled: Path | None,
                seen: Sequence[Dependency]) -> list[LoadedPolicy]:
        """As :func:`read_builtin`; ``seen`` is the directory and its files as they were before."""
        del seen
        return read_builtin(directory, compiled)


def _layer(directory: Path | None, layer: Layer, owners: Sequence[int],
           dependencies: list[Dependency], reader: Reader) -> list[LoadedPolicy]:
    if directory is None:
        return []
    dependencies.append(look(directory))
    policies = []
    for path in _files(directory):
        dependencies.append(look(path))
        check_trusted(path, owners)
        policies.append(reader.policy(path, layer))
    return policies


def is_file(chosen: str) -> bool:
    """Whether a choice is a file and no name."""
    return "/" in chosen or chosen.endswith(SUFFIXES)


def load_policies(chosen: Sequence[str] = (), *, directories: Directories | None = None,
                  complete: bool = True, reader: Reader | None = None) -> Loaded:
    """Every policy of every layer, those in ``chosen`` (names or files) marked as chosen.

    Without a choice ``untrusted`` is chosen. Raises PolicyError for a document that is wrong, a
    system or user layer that others can write, a name that doesn't exist, and (``complete``) for a
    choice that leaves something that matters without any bound.
    """
    reader = reader or Reader()
    places = directories or Directories.standard()
    dependencies = [look(path) for path in _files(places.builtin)]
    dependencies.append(look(places.builtin))
    policies = reader.builtin(places.builtin, places.compiled, dependencies)
    policies += _layer(places.system, "system", [places.system_owner], dependencies, reader)
    policies += _layer(places.user, "user", [os.getuid()], dependencies, reader)
    names: list[str] = []
    for choice in chosen or (DEFAULT,):
        if is_file(choice):
            path = Path(os.path.abspath(choice))
            dependencies.append(look(path))
            policy = reader.policy(path, "workload", choice)
            policies.append(policy)
            names.append(policy.name)
        else:
            names.append(choice)
    catalogue = Catalogue(policies)
    for name in names:
        if not catalogue.own(name):
            from hardrun.posture.orders import nearest

            raise PolicyError(f"there is no such policy{nearest(name, catalogue.names)}",
                              file=name, hint="hardrun policy list")
    resolved = catalogue.resolved(names)
    if complete:
        check_complete([p for p in resolved if p.chosen])
    return Loaded(resolved, catalogue, tuple(dict.fromkeys(dependencies)))


def check_complete(policies: Sequence[LoadedPolicy]) -> None:
    """PolicyError when these policies together leave unbounded what keeps a command in."""
    missing = unbounded(policies)
    if missing:
        first = policies[0]
        raise PolicyError(f"nothing bounds {', '.join(missing)}", file=first.file,
                          hint="write 'within: [contained]', or add --policy contained")
