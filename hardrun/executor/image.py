"""From a plan to a running program: the image.

An image is the executor with an artefact appended, in a memory file that nobody can write any
more. The sandboxed command can reach it (``#!/proc/self/exe`` re-enters it), so it must not be a
file that the caller could write (CVE-2019-5736); and ``hardrun verify`` reads the Decision from it.

This module is on the fast path and imports nothing that Python does not start with.
"""

from __future__ import annotations

import os

from hardrun.errors import HardrunError

_MFD_EXEC = 0x10  # memfd_create(2), Linux 6.3: needed where sysctl vm.memfd_noexec is 1
_F_ADD_SEALS = 1033
_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE
_F_SEAL_EXEC = 0x20  # Linux 6.3: the mode can't be changed either


def executor_path() -> str:
    """Where the executor lies: beside this module."""
    return os.path.join(os.path.dirname(__file__), "hardrun-exec")


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


def execute(artefact: bytes, tail: list[str]) -> None:
    """Replace this process by the image; ``tail`` follows the plan's own arguments.

    Returns never. Raises HardrunError when the kernel refuses to execute it.
    """
    descriptor = seal(read_executor(), artefact)
    try:
        os.execve(descriptor, ["hardrun", *tail], os.environ)
    except OSError as error:
        raise HardrunError(f"can't execute the executor: {error.strerror}",
                           hint="fewer or shorter arguments" if error.errno == 7 else None
                           ) from None
