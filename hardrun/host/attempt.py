"""Try a plan in a throw-away child and learn how far the kernel let it go.

The child is the executor itself, started by posix_spawn(3): no Python runs after a fork, so this is
safe in a program with threads. Its plan ends with the execution of ``CANARY``, a file that is not
there or is no program; arriving there means that everything before it worked, and nothing was run.
Where the file is there, Landlock has to refuse it: one that stops nothing is found.

A plan's schema and format are the only things of ``hardrun.plan`` that this room knows.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable
from typing import NamedTuple

from hardrun.executor.image import command_of
from hardrun.plan.format import Artefact, encode, pack
from hardrun.plan.schema import BY_NAME, Operation, Unsafe

_EVERY_DEFENCE = Unsafe(sum(Unsafe))
CANARY = "/hardrun-canary"
NOT_ENFORCED = "landlock_canary"
_MFD_EXEC = 0x10  # Linux 6.3
_SEALS = 0x1 | 0x2 | 0x4 | 0x8


class Failure(NamedTuple):
    """The operation that failed, with what errno, in which system call."""

    operation: str
    errno: int
    site: str = ""

    def __str__(self) -> str:
        name = errno.errorcode.get(self.errno, str(self.errno))
        site = f" ({self.site})" if self.site else ""
        return f"{self.operation}{site}: {name}"


class ExecutorUnusable(OSError):
    """The executor could not be started at all, or ended without a word.

    ``filename`` names the step: the executor's path, ``memory file`` or ``execution``.
    """


class Attempt:
    """Operations on trial in a child that runs beside the caller until ``result`` is asked for."""

    def __init__(self, executor: str, operations: Iterable[Operation]) -> None:
        """Start the executor at the path ``executor``. Raises ExecutorUnusable."""
        self._report, write_end = map(_above_standard, os.pipe2(os.O_CLOEXEC))
        try:
            plan = [*operations, Operation("report", (write_end,)),
                    Operation("execute", (CANARY, ""))]
            self._plan = sorted(plan, key=_place)
            image = _image(executor, encode(self._plan, _EVERY_DEFENCE))
            try:
                self._pid = _spawn(image, write_end)
            finally:
                os.close(image)
        except BaseException:
            os.close(self._report)
            raise
        finally:
            os.close(write_end)

    def result(self) -> Failure | None:
        """Wait for the child; None when every operation worked. To be called once."""
        try:
            with open(self._report, "rb") as file:
                report = file.read()
        finally:
            with contextlib.suppress(ChildProcessError):  # a caller that ignores SIGCHLD
                os.waitpid(self._pid, 0)
        return self._failure(report)

    def _failure(self, report: bytes) -> Failure | None:
        fields = dict(line.partition(b" ")[::2] for line in report.splitlines())
        try:
            name = self._plan[int(fields[b"failed_operation"])].name
            number = int(fields[b"failed_errno"])
        except (KeyError, ValueError, IndexError):
            raise ExecutorUnusable(0, "it ended without a report", "execution") from None
        if name == "execute":  # ENOEXEC: it was let through to an empty file
            names = {operation.name for operation in self._plan}
            if "set_exec_label" in names and number in (errno.EACCES, errno.EPERM):
                return Failure(name, number, "execve")
            domain = "landlock_restrict" in names
            unheld = domain and number == errno.ENOEXEC
            return Failure(NOT_ENFORCED, number, "execve") if unheld else None
        return Failure(name, number, fields.get(b"failed_site", b"").decode("ascii", "replace"))


def _place(operation: Operation) -> tuple[int, int]:
    kind = BY_NAME[operation.name]
    return kind.phase, kind.rank


def _image(executor: str, plan: bytes) -> int:
    descriptor = _memory_file()
    try:
        source = os.open(executor, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while os.sendfile(descriptor, source, None, 1 << 20):
                pass
        finally:
            os.close(source)
        os.write(descriptor, pack(Artefact(plan)))
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        os.close(descriptor)
        raise ExecutorUnusable(error.errno, error.strerror, executor) from None
    return descriptor


def _memory_file() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        try:
            return _above_standard(os.memfd_create("hardrun-probe", flags | _MFD_EXEC))
        except OSError as error:
            if error.errno != errno.EINVAL:  # before Linux 6.3 every memory file can be executed
                raise
            return _above_standard(os.memfd_create("hardrun-probe", flags))
    except OSError as error:
        raise ExecutorUnusable(error.errno, error.strerror, "memory file") from None


def _above_standard(descriptor: int) -> int:
    """Move a descriptor above 2: where those are closed, the child would open its own over it."""
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


def _spawn(image: int, report: int) -> int:
    # A descriptor duplicated onto itself loses its close-on-exec flag, in the child alone.
    actions = [
        *((os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)),
        (os.POSIX_SPAWN_DUP2, report, report),
    ]
    path, words = command_of(image, ["hardrun-probe"])
    if len(words) > 1:
        actions.append((os.POSIX_SPAWN_DUP2, image, image))
    try:
        return os.posix_spawn(path, words, {}, file_actions=actions)
    except OSError as error:
        raise ExecutorUnusable(error.errno, error.strerror, "execution") from None


def attempt(executor: str, operations: Iterable[Operation]) -> Failure | None:
    """Perform operations in a child and wait for it. Raises ExecutorUnusable."""
    return Attempt(executor, operations).result()
