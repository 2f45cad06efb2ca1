"""Stored plans: what makes the second run of the same request fast.

A plan is stored under the exact text of the request, up to and including the command; the words
after the command are a late slot and are in no file. It is read by the native front-end alone
(executor/frontend.c), with no interpreter; the executor checks at every start that all the plan
depended on is unchanged (``require_*`` operations) and else has it made anew.

A plan decides what a sandbox may do, so a file counts only if it belongs to the caller and nobody
else can write it, in directories of the same kind, reached without following a symlink. Nothing
here ever fails a run: whatever goes wrong, the plan is simply not found or not stored.

    file     header (24 bytes) | key | content
    content  of a plan: path of the executor, NUL, artefact

Doctor's answers are kept under the same rules, and are read here.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib

from hardrun import __version__

# magic, key size, artefact size, CRC-32 of both (a torn or rotten file is a miss, not an error)
HEADER = struct.Struct("<8sIII4x")
MAGIC = b"HRCACHE2"
MAXIMUM_FILES = 256
MAXIMUM_BYTES = 32 << 20
_TEMPORARY = ".new"
SERVICE = "service"
"""The socket of the decision service (hardrun/serve), in the directory above the plans."""
# What a decision depends on besides the command line. LANG and the like are read at start.
VARIABLES = ("HOME", "PATH", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")


def cache_home() -> str | None:
    """$XDG_CACHE_HOME, else ~/.cache; None where neither is an absolute path.

    The XDG base directory specification has relative paths ignored.
    """
    for base in (os.environ.get("XDG_CACHE_HOME", ""), os.environ.get("HOME", "")):
        if base.startswith("/"):
            return base if base == os.environ.get("XDG_CACHE_HOME") else base + "/.cache"
    return None


def plans_directory(kind: str = "plans") -> str | None:
    """Where plans (or files of another kind) are stored, None when there is no place for them."""
    home = cache_home()
    return None if home is None else f"{home}/hardrun/{kind}"


def split(arguments: list[str]) -> tuple[list[str], list[str]] | None:
    """``run OPTION... -- COMMAND`` and the words after it; None if there is no such form."""
    if "--" not in arguments:
        return None
    end = arguments.index("--") + 2
    return (arguments[:end], arguments[end:]) if end <= len(arguments) else None


def identity(schema: int) -> str:
    """What wrote a plan: the version, and the schema that its operations are encoded by."""
    return f"{__version__}:{schema}"


def make_key(request: list[str], schema: int) -> bytes | None:
    """The text that must be equal for a stored plan to answer this request: words, each with a NUL.

    make_key() of executor/frontend.c makes the same. None where the working directory is gone:
    such a request is never stored.
    """
    try:
        directory = os.getcwd()
    except OSError:
        return None
    environment = [f"{name}={os.environ[name]}" if name in os.environ else name
                   for name in VARIABLES]
    caller = f"{os.geteuid()}:{os.getegid()}"
    words = [identity(schema), caller, directory, *environment, *request]
    return b"".join([os.fsencode(word) + b"\0" for word in words])


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


def open_private(path: str, *, make: bool) -> int:
    """Open a directory of ours (``plans_directory``), made where that is asked for.

    Raises OSError, also when somebody else could have written there.
    """
    if make:
        _make_directories(path)
    return _open_directory(path)


def _check_owner(descriptor: int) -> os.stat_result:
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("not the caller's alone")
    return status


def _name(key: bytes) -> str:
    return f"{zlib.crc32(key):08x}.plan"


def load(key: bytes, kind: str = "plans") -> bytes | None:
    """The artefact that was stored under ``key``, or None."""
    path = plans_directory(kind)
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
    if len(data) < HEADER.size:
        return None
    magic, key_size, size, checksum = HEADER.unpack_from(data)
    body = data[HEADER.size:]
    if magic != MAGIC or key_size + size != len(body) or body[:key_size] != key:
        return None
    return body[key_size:] if zlib.crc32(body) == checksum else None


def store(key: bytes, artefact: bytes, kind: str = "plans") -> bool:
    """Store an artefact; whether that succeeded.

    The file appears whole or not at all, also when several processes store at once. The oldest
    files are removed when there are more than ``MAXIMUM_FILES`` or ``MAXIMUM_BYTES``.
    """
    path = plans_directory(kind)
    if path is None:
        return False
    body = key + artefact
    data = HEADER.pack(MAGIC, len(key), len(artefact), zlib.crc32(body)) + body
    try:
        _make_directories(path)
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


def refused(kind: str = "plans") -> OSError | None:
    """Why nothing can be stored; None where something was stored on trial, and removed."""
    path = plans_directory(kind)
    if path is None:
        return FileNotFoundError(2, "no absolute HOME or XDG_CACHE_HOME")
    try:
        _make_directories(path)
        directory = _open_directory(path)
        try:
            name = f"trial.{os.getpid()}.{os.urandom(4).hex()}"
            _write(directory, name, MAGIC)
            _remove(directory, name)
        finally:
            os.close(directory)
    except OSError as error:
        return error if error.strerror else OSError(1, str(error))
    return None


def make_directory(path: str) -> bool:
    """Make our directory and the one above it; whether both are there and the caller's alone."""
    try:
        _make_directories(path)
        os.close(_open_directory(path))
    except OSError:
        return False
    return True


def _make_directories(path: str) -> None:
    """Make a directory and those above it, each for the caller alone, whatever the umask."""
    if os.path.isdir(path):  # whose it is gets checked when it is opened
        return
    _make_directories(os.path.dirname(path))
    try:
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)
    except FileExistsError:
        return


def _write(directory: int, name: str, data: bytes) -> None:
    temporary = f"{name}.{os.getpid()}.{os.urandom(4).hex()}{_TEMPORARY}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600,
                         dir_fd=directory)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
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
