"""Locks that say whether something is held, whatever became of who took it.

A lock (fcntl(2), F_OFD_SETLK) on one byte of a file belongs to an open file description. Who takes
it hands the descriptor to the executor, which lives as long as its sandbox: the kernel lets go of
the lock when both are gone, however they went, and no process number has to be trusted.
"""

from __future__ import annotations

import fcntl
import os
import struct

from hardrun.errors import HostUnsupported

_F_OFD_GETLK, _F_OFD_SETLK = 36, 37
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit kernels


def open_file(path: str) -> int:
    """A file of locks; it is made when it is not there. Raises HostUnsupported."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostUnsupported(f"the state can't be locked: {path}: {error.strerror}", fact="state",
                              hint="make it a file that you may write") from None


def take(descriptor: int, number: int) -> bool:
    """Lock byte ``number`` for whoever has ``descriptor``; False when others hold it."""
    try:
        _lock(descriptor, _F_OFD_SETLK, number)
    except BlockingIOError:
        return False
    return True


def is_free(descriptor: int, number: int) -> bool:
    """Whether nobody but the holders of ``descriptor`` has locked byte ``number``."""
    answer = _lock(descriptor, _F_OFD_GETLK, number)
    return int(_FLOCK.unpack(answer)[0]) == fcntl.F_UNLCK


def _lock(descriptor: int, command: int, number: int) -> bytes:
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
    try:
        return fcntl.fcntl(descriptor, command, wanted)
    except BlockingIOError:
        raise
    except OSError as error:
        raise HostUnsupported(f"the state can't be locked: {error.strerror}", fact="state",
                              hint="a network file system needs its lock service") from None
