"""Stored plans: what makes the second run of the same request fast.

A plan is stored under the exact text of the request, up to and including the command; the words
after the command are a late slot and are in no file. The executor checks at every start that all
the plan depended on is unchanged (``require_*`` operations) and else has it made anew.

A plan decides what a sandbox may do, so a file counts only if it belongs to the caller and nobody
else can write it, in directories of the same kind, reached without following a symlink. Nothing
here ever fails a run: whatever goes wrong, the plan is simply not found or not stored.

    file     header (24 bytes) | key | artefact

This module is on the fast path and imports nothing that Python does not start with, but for
``struct`` and ``zlib``.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib

from hardrun import __version__

# magic, key size, artefact size, CRC-32 of both (a torn or rotten file is a miss, not an error)
_HEADER = struct.Struct("<8sIII4x")
_MAGIC = b"HRCACHE1"
MAXIMUM_FILES = 256
MAXIMUM_BYTES = 32 << 20
_TEMPORARY = ".new"
# What a decision depends on besides the command line. LANG and the like are read at start.
_VARIABLES = ("HOME", "PATH", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")


def cache_home() -> str | None:
    """$XDG_CACHE_HOME, else ~/.cache; None where neither is an absolute path.

    The XDG base directory specification has relative paths ignored.
    """
    for base in (os.environ.get("XDG_CACHE_HOME", ""), os.environ.get("HOME", "")):
        if base.startswith("/"):
            return base if base == os.environ.get("XDG_CACHE_HOME") else base + "/.cache"
    return None


def plans_directory() -> str | None:
    """Where plans are stored, or None when there is no place for them."""
    home = cache_home()
    return None if home is None else home + "/hardrun/plans"


def split(arguments: list[str]) -> tuple[list[str], list[str]] | None:
    """``run OPTION... -- COMMAND`` and the words after it; None if there is no such form."""
    if "--" not in arguments:
        return None
    end = arguments.index("--") + 2
    return (arguments[:end], arguments[end:]) if end <= len(arguments) else None


def make_key(request: list[str], executor: os.stat_result) -> bytes | None:
    """The text that must be equal for a stored plan to answer this request.

    None where the working directory is gone: such a request is never stored.
    """
    try:
        directory = os.getcwd()
    except OSError:
        return None
    environment = [f"{name}={os.environ.get(name)}" for name in _VARIABLES]
    built = f"{executor.st_dev}:{executor.st_ino}:{executor.st_size}:{executor.st_mtime_ns}"
    caller = f"{os.geteuid()}:{os.getegid()}"
    words = [__version__, built, caller, directory, *environment, *request]
    return b"\0".join([os.fsencode(word) for word in words])


def _open_directory(path: str) -> int:
    """Open our directory and the one above it, and see that both are the caller's alone.

    Raises OSError, also when somebody else could have written there.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    above = os.open(os.path.dirname(path), flags)
    try:
        _check_owner(above)
        directory = os.open(os.path.basename(path), flags, dir_fd=above)
    finally:
        os.close(above)
    try:
        _check_owner(directory)
    except OSError:
        os.close(directory)
        raise
    return directory


def _check_owner(descriptor: int) -> os.stat_result:
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("not the caller's alone")
    return status


def _name(key: bytes) -> str:
    return f"{zlib.crc32(key):08x}.plan"


def load(key: bytes) -> bytes | None:
    """The artefact that was stored under ``key``, or None."""
    path = plans_directory()
    if path is None:
        return None
    try:
        directory = _open_directory(path)
        try:
            # O_NONBLOCK: a fifo in the place of a plan must not hang the run
            descriptor = os.open(_name(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                                 | os.O_NONBLOCK, dir_fd=directory)
        finally:
            os.close(directory)
        with open(descriptor, "rb", buffering=0) as file:
            status = _check_owner(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAXIMUM_BYTES:
                return None
            data = file.readall()
    except OSError:
        return None
    return _artefact_of(data, key)


def _artefact_of(data: bytes, key: bytes) -> bytes | None:
    if len(data) < _HEADER.size:
        return None
    magic, key_size, size, checksum = _HEADER.unpack_from(data)
    body = data[_HEADER.size:]
    if magic != _MAGIC or key_size + size != len(body) or body[:key_size] != key:
        return None
    return body[key_size:] if zlib.crc32(body) == checksum else None


def store(key: bytes, artefact: bytes) -> bool:
    """Store an artefact; whether that succeeded.

    The file appears whole or not at all, also when several processes store at once. The oldest
    files are removed when there are more than ``MAXIMUM_FILES`` or ``MAXIMUM_BYTES``.
    """
    path = plans_directory()
    if path is None:
        return False
    body = key + artefact
    data = _HEADER.pack(_MAGIC, len(key), len(artefact), zlib.crc32(body)) + body
    try:
        os.makedirs(os.path.dirname(os.path.dirname(path)), mode=0o700, exist_ok=True)
        for ours in (os.path.dirname(path), path):
            _make_directory(ours)
        directory = _open_directory(path)
    except OSError:
        return False
    try:
        _write(directory, _name(key), data)
        _evict(directory)
    except OSError:
        return False
    finally:
        os.close(directory)
    return True


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:  # whose it is gets checked when it is opened
        return


def _write(directory: int, name: str, data: bytes) -> None:
    temporary = f"{name}.{os.getpid()}.{os.urandom(4).hex()}{_TEMPORARY}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600,
                         dir_fd=directory)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(temporary, dir_fd=directory)
        raise


def _evict(directory: int) -> None:
    files: list[tuple[int, int, str]] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # removed by a run at the same time
                continue
            files.append((status.st_mtime_ns, status.st_size, entry.name))
    files.sort(reverse=True)
    total = 0
    for count, (_, size, name) in enumerate(files, 1):
        total += size
        if count > MAXIMUM_FILES or total > MAXIMUM_BYTES:
            _remove(directory, name)


def _remove(directory: int, name: str) -> None:
    """Remove a file that another process may be removing too."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
