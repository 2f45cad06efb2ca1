"""Remove a tree that somebody hostile wrote: of any depth, with any modes and names."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from itertools import count

from hardrun.errors import HostUnsupported

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str) -> None:
    """Remove ``path`` and all beneath it; nothing when it is not there.

    No link is followed. A directory in a directory is emptied into the topmost one first, so that
    no depth costs depth, descriptors or long names here. Raises HostUnsupported in one line when
    something can't be removed.
    """
    directory, name = os.path.split(path)
    try:
        parent = os.open(directory, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        _remove(parent, name)
    except OSError as error:
        raise HostUnsupported(f"{path} can't be removed: {error.strerror}", fact="state",
                              hint="remove it by hand, and try again") from None
    finally:
        os.close(parent)


def _remove(parent: int, name: str) -> None:
    if _unlinked(parent, name):
        return
    top = _open(parent, name)
    # Names that nobody inside could foresee: a rename must not meet something of that name.
    free = (f"{secrets.token_hex(8)}-{number}" for number in count())
    try:
        while entries := os.listdir(top):
            for entry in entries:
                if not _unlinked(top, entry):
                    _flatten(top, entry, free)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _flatten(top: int, name: str, free: Iterator[str]) -> None:
    """Remove what a directory of ``top`` holds, and move its directories into ``top``."""
    inner = _open(top, name)
    try:
        for entry in os.listdir(inner):
            if _unlinked(inner, entry):
                continue
            os.close(_open(inner, entry))  # a directory that is moved is written: its ".."
            os.rename(entry, next(free), src_dir_fd=inner, dst_dir_fd=top)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _open(parent: int, name: str) -> int:
    """A directory of the caller's, who may have locked itself out of it."""
    if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        os.chmod(name, 0o700, dir_fd=parent)
    return os.open(name, _DIRECTORY, dir_fd=parent)


def _unlinked(parent: int, name: str) -> bool:
    """Whether it is gone: everything but a directory that holds something."""
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.rmdir(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            return False
        raise
    return True
