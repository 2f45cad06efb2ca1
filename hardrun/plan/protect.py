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

    A name is a file name, a glob, or several joined by slashes (``.git/hooks``); upper and lower
    case match each other, as they do in a directory that folds case. A symlink in such a place
    protects what it leads to beneath ``directory`` as well: a ``.git`` or a hook that lies under
    another name is no less run. So is a file in the place of a directory: git takes its hooks from
    where a file ``.git`` says. Raises BadInput when there are too many entries to look at, since
    what was not looked at would not be protected.
    """
    patterns = [name.casefold().strip("/").split("/") for name in sorted(names)]
    search = _Search(directory, os.path.realpath(directory))
    pending = [directory]
    while pending:
        for entry in search.entries(pending.pop()):
            words = os.path.relpath(entry.path, directory).casefold().split("/")
            rest = [end for pattern in patterns for end in _rest(words, pattern)]
            if not all(rest):
                search.add(entry.path)
            elif rest and not entry.is_dir(follow_symlinks=False):
                search.add_stand_in(entry.path, rest)
            elif entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
    return sorted(search.found, key=lambda path: path.split("/"))


class _Search:
    """What was found beneath one directory, within the budget of what is looked at."""

    def __init__(self, directory: str, resolved: str) -> None:
        self.directory, self.resolved = directory, resolved
        self.found: set[str] = set()
        self.left = MAXIMUM_ENTRIES

    def entries(self, directory: str) -> Iterator[os.DirEntry[str]]:
        for entry in _scan(directory):
            self.left -= 1
            if self.left < 0 or len(self.found) > MAXIMUM_PATHS:
                raise BadInput(f"{self.directory}: more than {MAXIMUM_ENTRIES} entries, or "
                               f"{MAXIMUM_PATHS} protected ones: they can't all be protected",
                               hint="grant a smaller directory with --rw")
            yield entry

    def add(self, path: str) -> None:
        """A protected path, and what it and the symlinks beneath it lead to."""
        self.found.add(path)
        self._add_target(path)
        pending = [] if os.path.islink(path) else [path]
        while pending:
            for entry in self.entries(pending.pop()):
                if entry.is_symlink():
                    self._add_target(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)

    def add_stand_in(self, path: str, rest: Iterable[list[str]]) -> None:
        """A file or symlink where a directory with protected names is expected."""
        self.found.add(path)
        target = self._target(path)
        if target is None:
            return
        for pattern in rest:
            here = [target]
            for glob in pattern:
                here = [entry.path for directory in here for entry in self.entries(directory)
                        if fnmatch.fnmatchcase(entry.name.casefold(), glob)]
            for found in here:
                self.add(found)

    def _add_target(self, path: str) -> None:
        target = self._target(path)
        if target is not None:
            self.found.add(target)

    def _target(self, path: str) -> str | None:
        """Where a symlink leads, if that lies beneath the directory and does not contain it."""
        if not os.path.islink(path):
            return None
        target = os.path.realpath(path)
        if not target.startswith(self.resolved + "/") or not os.path.exists(target):
            return None
        target = self.directory + target[len(self.resolved):]
        return None if path.startswith(target + "/") else target


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


def _rest(words: list[str], pattern: list[str]) -> Iterator[list[str]]:
    """What is left of a pattern for each beginning of it that ``words`` end in."""
    for size in range(1, min(len(pattern), len(words)) + 1):
        if all(fnmatch.fnmatchcase(word, glob)
               for word, glob in zip(words[-size:], pattern[:size], strict=True)):
            yield pattern[size:]


def _is_glob(name: str) -> bool:
    return any(character in name for character in "*?[")
