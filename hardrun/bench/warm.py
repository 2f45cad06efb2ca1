"""A warm pool's start, timed by a program in C, as is the plain start that it is compared with.

A client (probe.c) stays, so that both are started by the same process, which starts the program
once plainly right before. It speaks the pool's protocol with one sandbox at a time, which has
waited for a moment as those of a pool do.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hardrun import session
from hardrun.bench import clock
from hardrun.bench.contender import Contender
from hardrun.bench.scene import PROBE, Scene
from hardrun.errors import ExecutorError
from hardrun.executor.serve import Served
from hardrun.plan.serve import ServeMode

PLAIN, VFORK = "fork + exec, from C", "vfork + exec, from C"
POOL, FLOOR = "hardrun.Pool, from C", "pool floor, from C"
SUBPROCESS = "subprocess.run"
WAIT = 0.03  # seconds
_NANOSECONDS = struct.Struct("=Q")


class Client:
    """The program that starts, and measures."""

    def __init__(self, scene: Scene) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(clock.PATIENCE)
        [program] = scene.outside((PROBE,))
        with other:
            self._process = subprocess.Popen([program, "client", program, PROBE],
                                             stdin=other.fileno())

    def start(self, *to: int, by: bytes = b"f") -> float:
        """Seconds of a start: in the sandbox behind a socket, or without any, by fork or vfork."""
        socket.send_fds(self._socket, [by], to)
        [taken] = _NANOSECONDS.unpack(self._socket.recv(_NANOSECONDS.size))
        if not taken:
            raise ExecutorError("the program was not run, or did not end well")
        return float(taken / 1e9)

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait()


def contenders(scene: Scene, level: str, filter_of: Callable[[Scene], Path],
               options: Any) -> Iterator[Contender]:
    """Plain, in a sandbox of a pool, and with the necessary system calls alone."""
    client = Client(scene)
    program = session.program_of(session.standing_of(options).request)

    def in_sandbox() -> float:
        sandbox = Served(program, ServeMode.ONCE)
        try:
            sandbox.is_ready()
            time.sleep(WAIT)
            taken = client.start(sandbox.at.fileno())
            sandbox.finish()
            return taken
        finally:
            sandbox.end()

    def at_floor() -> float:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, subprocess.Popen(
                [str(scene.floor), str(filter_of(scene)), str(scene.rootfs), "-",
                 str(theirs.fileno())], pass_fds=(theirs.fileno(),)):
            theirs.close()
            time.sleep(WAIT)
            return client.start(ours.fileno())

    def plain(by: bytes) -> float:
        time.sleep(WAIT)
        return client.start(by=by)

    note = "request to reaped, by its protocol"
    for name, its_level, its_note, start in (
            (PLAIN, "", "no sandbox; by the same program", partial(plain, b"f")),
            (VFORK, "", "no sandbox; by the same program", partial(plain, b"v")),
            (FLOOR, "L4+", "the necessary system calls alone, nothing checked; no sandbox",
             at_floor),
            (POOL, level, note, in_sandbox)):
        yield Contender(name, its_level, its_note, lambda _: [], rows=("startup",),
                        timed=lambda _, start=start: start(),  # type: ignore[misc]
                        close=client.close if name == POOL else os.getpid)


def by_subprocess(scene: Scene) -> Contender:
    """What Python itself takes to start the program."""
    command = scene.outside(scene.command)
    return Contender(SUBPROCESS, "", "no sandbox; from this Python process", lambda _: [],
                     call=lambda _: subprocess.run(command, check=True, capture_output=True),
                     rows=("startup",))
