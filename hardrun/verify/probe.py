"""Ask PID 1 of a sandbox to try from inside what does not show from outside.

The questions are written into the memory that the executor's parent shares with PID 1, which a
signal wakes; a child of PID 1 tries them and writes what came of each. Opening that memory takes
what tracing the parent takes: no sandbox can. One verifier at a time holds its lock, and no probe
is left when it lets go. See hardrun/executor/probe.c.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from hardrun.plan.probe import (
    FILTERED,
    HEADER,
    MEMORY,
    MOST,
    OFFSET,
    QUESTION,
    REACHED,
    TEXT_SIZE,
    Answered,
    Ask,
)

_LINK = f"/memfd:{MEMORY} (deleted)"
_PATIENCE = 30.0  # seconds for all questions; the probe itself has five for each
_SIZE = OFFSET + HEADER.size + MOST * QUESTION.size


class Question(NamedTuple):
    """One thing to try; ``filtered``: after the workload's filter is loaded."""

    ask: Ask
    text: str = ""
    value: int = 0
    filtered: bool = False


class Told(NamedTuple):
    """What came of a question: ``error`` is 0 where it worked, else an errno."""

    error: int
    value: int
    text: str

    @property
    def worked(self) -> bool:
        """Whether the kernel did what was asked."""
        return not self.error

    @property
    def shown(self) -> str:
        """The outcome in a word: ``EACCES``, ``worked``."""
        return errno.errorcode.get(self.error, str(self.error)) if self.error else "worked"


@dataclass(frozen=True)
class Inside:
    """What a probe told; ``missing`` says why there is no answer to what was not answered."""

    told: Mapping[Question, Told] = field(default_factory=dict)
    missing: str = "nobody was asked inside"


class NoProbe(Exception):
    """Nobody could be asked inside; the message is the written reason."""


def started(launcher: int) -> float | None:
    """When a sandbox was started, by the clock of file times; None where that does not show."""
    try:
        return os.stat(_path(launcher)).st_ctime
    except (NoProbe, OSError):
        return None


def executed(launcher: int) -> bool:
    """Whether an exec was asked for in a sandbox, as its executor notes before; True: unknown."""
    try:
        with open(_path(launcher), "rb", buffering=0) as memory:
            return bool(REACHED.unpack(memory.read(REACHED.size))[0])
    except (NoProbe, OSError, struct.error):
        return True


@contextmanager
def asking(launcher: int, init: int) -> Iterator[Callable[[Sequence[Question]], Inside]]:
    """A function that has questions tried inside; while it is held, no other verifier's probe is.

    It never raises: what stays without an answer has its reason.
    """
    with ExitStack() as stack:
        try:
            memory = stack.enter_context(_memory(launcher))
        except (NoProbe, OSError) as error:
            reason = str(error) if isinstance(error, NoProbe) else \
                f"the executor's memory can't be opened: {error.strerror}"
            yield lambda _questions: Inside({}, reason)
            return
        yield lambda questions: _ask(memory, init, questions)


def _ask(memory: mmap.mmap, init: int, questions: Sequence[Question]) -> Inside:
    asked = [q for q in questions if len(os.fsencode(q.text)) < TEXT_SIZE][:MOST]
    try:
        told = dict(zip(asked, _request(memory, init, asked), strict=True))
    except NoProbe as reason:
        return Inside({}, str(reason))
    except OSError as error:
        return Inside({}, f"PID 1 can't be asked: {error.strerror}")
    return Inside({question: answer for question, answer in told.items() if answer is not None},
                  "the probe gave no answer: it could not be started, or was stopped or killed")


@contextmanager
def _memory(launcher: int) -> Iterator[mmap.mmap]:
    descriptor = os.open(_path(launcher), os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size < _SIZE:
            raise NoProbe("the executor's memory has another size than this hardrun's")
        _lock(descriptor)
        with mmap.mmap(descriptor, _SIZE) as memory:
            yield memory
    finally:
        os.close(descriptor)


def _path(launcher: int) -> str:
    directory = f"/proc/{launcher}/fd"
    for name in os.listdir(directory):
        try:
            if os.readlink(f"{directory}/{name}") == _LINK:
                return f"{directory}/{name}"
        except FileNotFoundError:
            continue
    raise NoProbe("the executor has no memory in which to ask")


def _lock(descriptor: int) -> None:
    for _ in _waiting():
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
    raise NoProbe("another verifier holds the probe")


def _waiting() -> Iterator[None]:
    """Turns of waiting, short ones first, until patience ends."""
    end, pause = time.monotonic() + _PATIENCE, 0.0001
    while time.monotonic() < end:
        yield
        time.sleep(pause)
        pause = min(pause * 1.5, 0.01)


def _header(memory: mmap.mmap) -> tuple[int, int, int]:
    asked, answered, count = HEADER.unpack_from(memory, OFFSET)
    return asked, answered, count


def _request(memory: mmap.mmap, init: int, questions: Iterable[Question]) -> Iterator[Told | None]:
    before = _settled(memory)
    number, count = before + 1 & 0xFFFFFFFF, 0
    for count, question in enumerate(questions, 1):
        kind = question.ask | (FILTERED if question.filtered else 0)
        QUESTION.pack_into(memory, _place(count - 1), kind, Answered.NOT, 0, question.value,
                           os.fsencode(question.text))
    # the number last: PID 1 may look at any time
    HEADER.pack_into(memory, OFFSET, before, before, count)
    HEADER.pack_into(memory, OFFSET, number, before, count)
    pidfd = os.pidfd_open(init)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGCHLD)
    finally:
        os.close(pidfd)
    if _settled(memory) != number:
        raise NoProbe("the number of the request was changed by another")
    return iter([_told(memory, index) for index in range(count)])


def _settled(memory: mmap.mmap) -> int:
    """The number of the last request, which has been answered."""
    for _ in _waiting():
        asked, answered, _count = _header(memory)
        if asked == answered:
            return asked
    raise NoProbe("the probe did not end: was it stopped from inside?")


def _place(index: int) -> int:
    return OFFSET + HEADER.size + index * QUESTION.size


def _told(memory: mmap.mmap, index: int) -> Told | None:
    _kind, answered, error, value, text = QUESTION.unpack_from(memory, _place(index))
    if answered != Answered.TRIED:
        return None  # a signal may have come from a filter, and from anybody inside as well
    return Told(error, value, os.fsdecode(text.partition(b"\0")[0]))
