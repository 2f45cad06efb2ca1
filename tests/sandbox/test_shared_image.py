"""Sandboxes of one plan have one image while they run: the same bytes, and never anybody else's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from hardrun.executor import image

from .raw import Program

HOLDER = """
import fcntl, os, sys, time
root = os.open("/", os.O_RDONLY)
fcntl.lockf(root, fcntl.LOCK_SH)
os.set_inheritable(root, True)
if sys.argv[1:]:
    os.execve(int(sys.argv[1]), ["holder", "60"], {"PATH": "/usr/bin"})
time.sleep(60)
"""
"""Holds the place of every image there is, and executes what it was given."""


@pytest.fixture
def program(executor: Path, tmp_path: Path) -> Program:
    return Program(executor, tmp_path)


def waits(program: Program, word: str = "ready") -> str:
    """A program that says that it runs, and waits."""
    return program.write(["sh", "-c", f"echo {word}; read line"])


@contextmanager
def running(path: str) -> Iterator[os.stat_result]:
    """What the parent of a sandbox executes while its command waits."""
    pipe = subprocess.PIPE
    with subprocess.Popen([path], stdin=pipe, stdout=pipe) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            assert image.is_fixed(f"/proc/{process.pid}/exe")
            assert os.readlink(f"/proc/{process.pid}/exe").startswith("/memfd:")
            yield os.stat(f"/proc/{process.pid}/exe")
        finally:
            process.kill()


@contextmanager
def holding(content: bytes | bytearray | None) -> Iterator[os.stat_result]:
    """A process with the lock, and what it executes: sealed content, else a file on disk."""
    descriptor = None if content is None else image.seal(bytes(content), b"")
    given = [] if descriptor is None else [descriptor]
    with subprocess.Popen([sys.executable, "-c", HOLDER, *map(str, given)], pass_fds=given,
                          stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and not (
                    f"POSIX  ADVISORY  READ {process.pid} " in Path("/proc/locks").read_text()
                    and (content is None or "memfd" in os.readlink(f"/proc/{process.pid}/exe"))):
                time.sleep(0.01)
            yield os.stat(f"/proc/{process.pid}/exe")
        finally:
            process.kill()
            for each in given:
                os.close(each)


def test_all_that_run_at_once_have_one_image_and_the_last_takes_it_along(program: Program) -> None:
    path = waits(program)
    with running(path) as first, running(path) as second, running(path) as third:
        assert os.path.samestat(first, second)
        assert os.path.samestat(first, third)
    with running(path) as later:
        assert not os.path.samestat(first, later)


def test_it_is_found_when_the_first_of_them_has_ended(program: Program) -> None:
    path = waits(program)
    with ExitStack() as stack:
        with running(path) as first:
            stack.enter_context(running(path))
        assert os.path.samestat(first, stack.enter_context(running(path)))


def test_another_plan_has_another_image(program: Program) -> None:
    with running(waits(program)) as first, running(waits(program, "ready; true")) as second:
        assert not os.path.samestat(first, second)


def test_whoever_holds_the_lock_has_nothing_executed_that_is_not_the_same(program: Program) -> None:
    other = Path(waits(program, "other")).read_bytes()
    path = waits(program)
    own = Path(path).read_bytes()
    assert len(own) == len(other)
    elder = bytearray(own)
    elder[len(program.executor) - 1] ^= 1
    for content in (None, other, elder, Path("/usr/bin/sleep").read_bytes()):
        with holding(content) as held, running(path) as found:
            assert not os.path.samestat(held, found)
    with holding(own) as held, running(path) as found:  # and the control
        assert os.path.samestat(held, found)
