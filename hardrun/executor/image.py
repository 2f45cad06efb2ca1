"""From a plan to a running program: the image.

An image is the executor with an artefact appended, in a memory file that nobody can write any
more. The sandboxed command can reach it (``#!/proc/self/exe`` re-enters it), so it must not be a
file that the caller could write (CVE-2019-5736); and ``hardrun verify`` reads the Decision from it.

This module is on the fast path and imports nothing that Python does not start with.
"""

from __future__ import annotations

import os

from hardrun.errors import HardrunError

RESTRICTED = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_F_GET_SEALS = 1034
_MFD_EXEC = 0x10  # memfd_create(2), Linux 6.3: needed where sysctl vm.memfd_noexec is 1
_F_ADD_SEALS = 1033
_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE
_F_SEAL_EXEC = 0x20  # Linux 6.3: the mode can't be changed either


def executor_path() -> str:
    """Where the executor lies: beside this module."""
    return os.path.join(os.path.dirname(__file__), "hardrun-exec")


def starts_by_path() -> bool:
    """Whether the executor has to be started by its path, to take on a profile attached there.

    Ubuntu gives user namespaces to programs with a profile; a memory file can't have one. What is
    executed from there keeps the label.
    """
    try:
        with open(RESTRICTED, "rb", buffering=0) as file:
            return file.read(2)[:1] == b"1"
    except OSError:
        return False


def command_of(descriptor: int, words: list[str]) -> tuple[str, list[str]]:
    """What to execute so that the image on ``descriptor`` runs with ``words``, and its argv.

    By path the descriptor has to be inherited; the executor closes it on the way.
    """
    if starts_by_path():
        return executor_path(), ["hardrun-exec", str(descriptor), *words]
    return f"/proc/self/fd/{descriptor}", words


def read_executor() -> bytes:
    """The executor's bytes. Raises HardrunError when it was not built."""
    try:
        with open(executor_path(), "rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        raise HardrunError(f"the executor can't be read: {executor_path()}: {error.strerror}",
                           hint="in a source tree: make -C hardrun/executor") from None


def seal(executor: bytes, artefact: bytes) -> int:
    """A sealed memory file that holds the image; the caller closes the descriptor.

    It is close-on-exec: executing it (execveat(2) with AT_EMPTY_PATH) leaves no descriptor behind.
    Raises HardrunError where memory files are not allowed to be executed.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        try:
            descriptor = os.memfd_create("hardrun", flags | _MFD_EXEC)
        except OSError:  # EINVAL before Linux 6.3, where every memory file can be executed
            descriptor = os.memfd_create("hardrun", flags)
    except OSError as error:
        raise HardrunError(f"can't make an executable memory file: {error.strerror}",
                           hint="sysctl vm.memfd_noexec must be 0 or 1") from None
    try:
        for part in (executor, artefact):
            _write_all(descriptor, part)
        _add_seals(descriptor)
    except OSError as error:
        os.close(descriptor)
        raise HardrunError(f"can't seal the image: {error.strerror}") from None
    return descriptor


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view):]


def _add_seals(descriptor: int) -> None:
    import fcntl

    try:
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEALS | _F_SEAL_EXEC)
    except OSError:  # EINVAL before Linux 6.3
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEALS)


def is_fixed(path: str) -> bool:
    """Whether nobody can write an image that runs: it is sealed, or root's and closed to others, or
    the kernel keeps it from being written as long as it is executed (execve(2), ETXTBSY).

    As image_is_safe() and is_out_of_reach() of the executor have it. Raises OSError.
    """
    import errno
    import fcntl
    import stat

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return fcntl.fcntl(descriptor, _F_GET_SEALS) & _SEALS == _SEALS
    except OSError:  # EINVAL: no memory file
        status = os.fstat(descriptor)
        if status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return True
    finally:
        os.close(descriptor)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.ETXTBSY
    return False


def execute(artefact: bytes, tail: list[str]) -> None:
    """Replace this process by the image; ``tail`` follows the plan's own arguments.

    Returns never. Raises HardrunError when the kernel refuses to execute it.
    """
    descriptor = seal(read_executor(), artefact)
    try:
        if starts_by_path():
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - takes no keyword
            os.execve(*command_of(descriptor, ["hardrun", *tail]), os.environ)
        os.execve(descriptor, ["hardrun", *tail], os.environ)
    except OSError as error:
        raise HardrunError(f"can't execute the executor: {error.strerror}",
                           hint="fewer or shorter arguments" if error.errno == 7 else None
                           ) from None
