"""The program that attacks from inside: how it is built, what it is told, what it answers.

Calls are spelled out in Python and made by a static C program (probe/probe.c), with arguments that
do no harm where a defence is missing: a descriptor that is not open, an address that is none. Then
EPERM or ENOSYS says that the call was refused, EBADF or EFAULT that the kernel got as far as the
arguments.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hardrun.kernel.seccomp import tables

SOURCE = Path(__file__).parent / "probe" / "probe.c"
MACHINE = tables.architecture_of(os.uname().machine)
NUMBERS = tables.numbers(MACHINE)
BAD_FD, BAD_ADDRESS = -1, 1
AT_FDCWD = -100


class Result(NamedTuple):
    """What the step of that number returned, as an argument of a later one."""

    step: int


class Out(NamedTuple):
    """So many bytes for the kernel to write to, read back afterwards."""

    size: int


class Inside(NamedTuple):
    """An address in the ``Out`` of an earlier step."""

    step: int
    offset: int


Argument = int | str | bytes | Result | Out | Inside


class Call(NamedTuple):
    """One system call, or (``@race``, ``@fork``, ``@memory``, ``@hold``, ``@poke``) a behaviour."""

    name: str | int
    arguments: tuple[Argument, ...] = ()
    int80: bool = False

    def spelled(self) -> str:
        """As the probe takes it."""
        name = self.name
        if isinstance(name, str) and not name.startswith("@"):
            table = tables.numbers("i386") if self.int80 else NUMBERS
            name = table[name]
        return ",".join([("i" if self.int80 else "") + str(name), *map(_spelled, self.arguments)])


def call(name: str | int, *arguments: Argument, int80: bool = False) -> Call:
    """One step."""
    return Call(name, arguments, int80)


def contents(path: str, size: int = 4096) -> tuple[Call, ...]:
    """The steps that read the beginning of a file."""
    return (call("openat", AT_FDCWD, path, 0, 0), call("read", Result(0), Out(size), size))


def _spelled(argument: Argument) -> str:
    if isinstance(argument, Result):
        return f"r{argument.step}"
    if isinstance(argument, Out):
        return f"o{argument.size}"
    if isinstance(argument, Inside):
        return f"p{argument.step}:{argument.offset}"
    if isinstance(argument, str):
        argument = os.fsencode(argument)
    return f"s{argument.hex()}" if isinstance(argument, bytes) else str(argument)


class Step(NamedTuple):
    """What one call came to."""

    value: int
    errno: int
    out: bytes

    @property
    def word(self) -> str:
        """``ok`` or the name of the errno."""
        return errno.errorcode.get(self.errno, str(self.errno)) if self.errno else "ok"


class Answer(NamedTuple):
    """What one program of calls came to, in a process of its own."""

    steps: tuple[Step, ...]
    signal: int = 0

    @property
    def word(self) -> str:
        """How the last step ended: ``ok``, an errno, or the signal that ended the process."""
        if self.signal:
            return signal.Signals(self.signal).name
        return self.steps[-1].word if self.steps else "nothing"

    @property
    def out(self) -> bytes:
        """What the last step wrote."""
        return self.steps[-1].out if self.steps else b""

    @property
    def text(self) -> str:
        """The text that the last step wrote, up to the first NUL."""
        return os.fsdecode(self.out.split(b"\0", 1)[0])


def words_of(programs: Iterable[Iterable[Call]]) -> list[str]:
    """The probe's arguments."""
    return [";".join(step.spelled() for step in steps) for steps in programs]


def answers_of(output: bytes) -> list[Answer]:
    """The probe's answers, in the order of its arguments."""
    found = []
    for line in output.splitlines():
        document = json.loads(line)
        steps = tuple(Step(step["value"], step["errno"], bytes.fromhex(step["out"]))
                      for step in document["steps"])
        found.append(Answer(steps, document["signal"]))
    return found


def build(directory: Path) -> Path:
    """Compile the probe, static, with the compiler that the executor is built with."""
    program = directory / "probe"
    musl = shutil.which("musl-gcc")
    compiler = [musl] if musl else [sys.executable, "-m", "ziglang", "cc", "-target",
                                    f"{os.uname().machine}-linux-musl"]
    subprocess.run([*compiler, "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
                    "-static", "-Os", "-s", "-o", str(program), str(SOURCE)], check=True)
    return program
