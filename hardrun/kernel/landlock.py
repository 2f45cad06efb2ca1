"""Landlock: what each version of its interface can restrict, and which version this kernel has.

Numbers are those of linux/landlock.h; landlock(7) tells which ABI brought which right. The version
is asked for with the system call: /sys/kernel/security is not mounted everywhere, and says nothing
under WSL2 although the system calls work.
"""

from __future__ import annotations

import enum


class FilesystemAccess(enum.IntFlag):
    """Rights over files: LANDLOCK_ACCESS_FS_*."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13  # ABI 2
    TRUNCATE = 1 << 14  # ABI 3
    IOCTL_DEV = 1 << 15  # ABI 5
    RESOLVE_UNIX = 1 << 16  # ABI 9


class NetworkAccess(enum.IntFlag):
    """Rights over TCP: LANDLOCK_ACCESS_NET_*, from ABI 4."""

    BIND_TCP = 1 << 0
    CONNECT_TCP = 1 << 1


class Scope(enum.IntFlag):
    """What can't be reached outside the domain: LANDLOCK_SCOPE_*, from ABI 6."""

    ABSTRACT_UNIX_SOCKET = 1 << 0
    SIGNAL = 1 << 1


HIGHEST_ABI = 9
"""The newest version that the tables here know. A kernel's newer one is used as this one."""

_FIRST = FilesystemAccess((1 << 13) - 1)
_LATER = {
    2: FilesystemAccess.REFER,
    3: FilesystemAccess.TRUNCATE,
    5: FilesystemAccess.IOCTL_DEV,
    9: FilesystemAccess.RESOLVE_UNIX,
}
_READ = FilesystemAccess.READ_FILE | FilesystemAccess.READ_DIR
_DEVICE = FilesystemAccess.READ_FILE | FilesystemAccess.WRITE_FILE
_NODES = FilesystemAccess.MAKE_CHAR | FilesystemAccess.MAKE_BLOCK
FILE_RIGHTS = (
    FilesystemAccess.EXECUTE
    | FilesystemAccess.WRITE_FILE
    | FilesystemAccess.READ_FILE
    | FilesystemAccess.TRUNCATE
    | FilesystemAccess.IOCTL_DEV
)
"""What a rule for something that is not a directory may carry; others give EINVAL."""


def filesystem_access(abi: int) -> FilesystemAccess:
    """Every right over files that an ABI can restrict: a ruleset handles all of them."""
    if abi < 1:
        return FilesystemAccess(0)
    known = _FIRST
    for since, right in _LATER.items():
        if abi >= since:
            known |= right
    return known


def network_access(abi: int) -> NetworkAccess:
    """Every right over TCP that an ABI can restrict."""
    return NetworkAccess.BIND_TCP | NetworkAccess.CONNECT_TCP if abi >= 4 else NetworkAccess(0)


def scopes(abi: int) -> Scope:
    """Every scope of an ABI."""
    return Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL if abi >= 6 else Scope(0)


_WORDS = ((2, "moves between directories (refused)"), (3, "truncation"), (4, "TCP"),
          (5, "ioctls of devices"), (6, "signals and abstract sockets"), (9, "sockets with a path"))


def lacking(abi: int) -> tuple[str, ...]:
    """In words, what later ABIs restrict and this one does not."""
    return tuple(words for since, words in _WORDS if since > abi)


def read_only(abi: int) -> FilesystemAccess:
    """The rights that reading files and listing directories needs."""
    return _READ & filesystem_access(abi)


def execute(abi: int) -> FilesystemAccess:
    """The rights that executing programs needs; reading them is part of it."""
    return (_READ | FilesystemAccess.EXECUTE) & filesystem_access(abi)


def read_write(abi: int) -> FilesystemAccess:
    """Reading and every change of files and directories, without execution.

    Device nodes can't be made and devices take no ioctl: a grant of a directory is no grant of what
    a device in it does.
    """
    excluded = _NODES | FilesystemAccess.EXECUTE | FilesystemAccess.IOCTL_DEV
    return filesystem_access(abi) & ~excluded


def device(abi: int, *, ioctl: bool = False) -> FilesystemAccess:
    """The rights for one device file; a terminal needs ``ioctl``."""
    wanted = _DEVICE | (FilesystemAccess.IOCTL_DEV if ioctl else FilesystemAccess(0))
    return wanted & filesystem_access(abi)


_NR_LANDLOCK_CREATE_RULESET = 444  # the same on every architecture
_LANDLOCK_CREATE_RULESET_VERSION = 1


def abi_version() -> int:
    """The ABI of the running kernel; 0 where Landlock is not built in, not enabled or filtered."""
    import ctypes

    libc = ctypes.CDLL(None)
    syscall = libc.syscall
    syscall.restype = ctypes.c_long
    syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32]
    version = syscall(_NR_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    return max(0, int(version))
