"""What is executed later, outside the sandbox, and must not be planted from inside.

A tool with the project writable could write .git/hooks, .envrc or an editor's tasks and wait for
the user to run them (policy control ``filesystem.protected``).
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator

from hardrun.errors import BadInput
from hardrun.plan.view import Entry, Kind, Use, View

PROTECTED = "filesystem.protected"
MAXIMUM_ENTRIES = 200_000
MAXIMUM_PATHS = 2048


def find_protected(directory: str, names: Iterable[str]) -> list[str]:
    """Paths at any depth beneath ``directory`` that match one of ``names``, parents first.

    A name is a file name, a glob, or several joined by slashes (``.git/hooks``). Symlinks are not
    followed; what lies beneath a match is not looked at. Raises BadInput when there are too many
    entries to look at, since what was not looked at would not be protected.
    """
    patterns = [name.strip("/").split("/") for name in sorted(names)]
    found: list[str] = []
    left = MAXIMUM_ENTRIES
    pending = [directory]
    while pending:
        for entry in _scan(pending.pop()):
            left -= 1
            if left < 0 or len(found) > MAXIMUM_PATHS:
                raise BadInput(f"{directory}: more than {MAXIMUM_ENTRIES} entries, or "
                               f"{MAXIMUM_PATHS} protected ones: they can't all be protected",
                               hint="grant a smaller directory with --rw")
            if _matches(entry.path, directory, patterns):
                found.append(entry.path)
            elif entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
    return sorted(found, key=lambda path: path.split("/"))


def absent(directory: str, names: Iterable[str]) -> list[str]:
    """The protected names that ``directory`` itself does not have, as paths.

    They can't be bound over; whoever ran the sandbox looks for them, and for new ones deeper down
    by :func:`find_protected`, when it has ended.
    """
    paths = (os.path.join(directory, name) for name in sorted(names) if not _is_glob(name))
    return [path for path in paths if not os.path.lexists(path)]


def add_protected(view: View, names: frozenset[str]) -> list[str]:
    """Bind what is protected beneath each writable grant read-only over itself.

    Every directory on the way to it is bound over itself too: a mount point can't be renamed
    (EBUSY), whereas its parent could be moved away, protection and all, and a new one made in its
    place. Returns the paths, of the host, that are protected but do not exist. Raises BadInput as
    :func:`find_protected` does.
    """
    missing: list[str] = []
    grants = [e for e in view.entries() if e.kind is Kind.BIND and e.use is Use.BUILD]
    for grant in grants if names else []:
        if not os.path.isdir(grant.source):
            continue
        missing += absent(grant.source, names)
        for path in find_protected(grant.source, names):
            for directory in ancestors_between(path, grant.source):
                _bind_over_itself(view, grant, directory, Use.BUILD)
            _bind_over_itself(view, grant, path, Use.RUN)
    return missing


def _bind_over_itself(view: View, grant: Entry, source: str, use: Use) -> None:
    path = grant.path + source[len(grant.source):]
    if os.path.islink(source) or path in view.mounts or view.host_path(path) != source:
        return  # hidden by a grant of its own, or a symlink, which can't be a mount point
    view.add(Entry(Kind.BIND, path, PROTECTED, use, source=source))


def ancestors_between(path: str, directory: str) -> Iterator[str]:
    """Directories below ``directory`` that lead to ``path``, outermost first."""
    relative = os.path.relpath(os.path.dirname(path), directory)
    here = directory
    for name in [] if relative == "." else relative.split("/"):
        here = os.path.join(here, name)
        yield here


def _scan(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except (NotADirectoryError, FileNotFoundError):
        return []
    except PermissionError as error:
        raise BadInput(f"{directory}: {error.strerror}: what can't be listed can't be protected",
                       hint="grant a directory that you may list") from None


def _matches(path: str, directory: str, patterns: list[list[str]]) -> bool:
    words = os.path.relpath(path, directory).split("/")
    return any(len(pattern) <= len(words)
               and all(fnmatch.fnmatchcase(word, glob)
                       for word, glob in zip(words[-len(pattern):], pattern, strict=True))
               for pattern in patterns)


def _is_glob(name: str) -> bool:
    return any(character in name for character in "*?[")
