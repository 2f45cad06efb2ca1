"""Files that are written for the caller where a sandbox may have planted a symlink before."""

from __future__ import annotations

import errno
import os
import stat


def open_output(path: str, flags: int, mode: int) -> int:
    """Open a file to be written; the caller closes the descriptor.

    A log, report or page is often put into the directory that a sandbox may write, or that came
    from somebody else. A symlink in its place would have another file of the caller's overwritten,
    or what a command prints run by a shell (CWE-59). Links below /dev and those of root, where
    that is somebody else, are the system's (/dev/stdout). Raises OSError (ELOOP).
    """
    flags |= os.O_CLOEXEC | os.O_NOCTTY
    try:
        return os.open(path, flags | os.O_NOFOLLOW, mode)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        target = _of_the_system(path)
        if target is None:
            raise OSError(errno.ELOOP, "it is a symlink: name the file itself") from None
    return os.open(target, flags, mode)


def _of_the_system(path: str) -> str | None:
    """Where a symlink leads that no sandbox of the caller's can have made."""
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISLNK(status.st_mode):
            return None
        directory = os.path.realpath(os.path.dirname(path) or ".")
        if directory != "/dev" and (status.st_uid or not os.geteuid()):
            return None
        return os.path.join(directory, os.readlink(b"", dir_fd=descriptor).decode(
            errors="surrogateescape"))
    finally:
        os.close(descriptor)


def write_output(path: str, data: bytes) -> None:
    """Write a whole file. Raises as ``open_output``."""
    with open(open_output(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), "wb") as file:
        file.write(data)
