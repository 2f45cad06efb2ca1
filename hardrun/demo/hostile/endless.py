"""Without end: disk, processes, memory, files, time, output; and living on afterwards.

``scene.rude`` is set in the sandbox. Without one, a harmless amount has to do as evidence that
nothing would have stopped more.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import time
from collections.abc import Callable

from .system import Scene

MIB = 1 << 20


def fill_disk(scene: Scene) -> str:
    """Everywhere that is not the granted directory and can be written."""
    wanted = 4096 if scene.rude else 1
    path = "/tmp/hardrun-demo-filler"
    block = bytes(MIB)
    written = 0
    try:
        with open(path, "wb", buffering=0) as file:
            for _ in range(wanted):
                written += file.write(block)
    finally:
        os.unlink(path)
    return f"wrote {written // MIB} MiB, nothing stopped it"


def fork_bomb(scene: Scene) -> str:
    wanted = 5000 if scene.rude else 50
    children = []
    try:
        for _ in range(wanted):
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            children.append(pid)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)
    return f"{wanted} processes, nothing stopped it"


def eat_memory(scene: Scene) -> str:
    wanted = 2048 if scene.rude else 64
    maps = []
    for _ in range(wanted // 16):
        piece = mmap.mmap(-1, 16 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(0, 16 * MIB, mmap.PAGESIZE):
            piece[page] = 1
        maps.append(piece)
    return f"{wanted} MiB, nothing stopped it"


def open_files(scene: Scene) -> str:
    wanted = 100_000 if scene.rude else 900
    held = []
    try:
        for _ in range(wanted):
            held.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for descriptor in held:
            os.close(descriptor)
    return f"{wanted} open files, nothing stopped it"


def spread_memory(scene: Scene) -> str:
    """Each process stays below its own limit; all of them together do not."""
    pieces = 12 if scene.rude else 2
    size = 160 * MIB if scene.rude else 8 * MIB
    children = []
    for _ in range(pieces):
        pid = os.fork()
        if pid == 0:
            piece = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for page in range(0, size, mmap.PAGESIZE):
                piece[page] = 1
            time.sleep(10 if scene.rude else 0.1)
            os._exit(0)
        children.append(pid)
    failed = sum(os.waitpid(pid, 0)[1] != 0 for pid in children)
    if failed:
        raise OSError(12, f"{failed} of {pieces} processes got no memory")
    return f"{pieces * size // MIB} MiB in {pieces} processes, nothing stopped it"


def spin(scene: Scene) -> str:
    """Ignore every polite signal and compute for ever."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    wanted = 60 if scene.rude else 1
    end = time.monotonic() + wanted
    while time.monotonic() < end:
        pass
    return f"computed for {wanted} s, nothing stopped it"


def flood(scene: Scene) -> str:
    """More output than whoever captures it has memory for."""
    wanted = 1024 if scene.rude else 1
    line = b"x" * 65535 + b"\n"
    for _ in range(wanted * 16):
        sys.stdout.buffer.write(line)
    sys.stdout.flush()
    return f"{wanted} MiB, nothing stopped it"


def outlive(scene: Scene) -> str:
    """A daemon: two forks and a session of its own; it writes when everything should be over."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            null = os.open("/dev/null", os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            time.sleep(1.0)
            with open(f"{scene.project}/outlived", "w", encoding="ascii") as file:
                file.write("still here")
        os._exit(0)
    return "left a process behind that wrote a file later"


# Each in a sandbox of its own, and judged by how that ended, too.
ATTEMPTS: dict[str, Callable[[Scene], str]] = {
    "fill-disk": fill_disk,
    "fork-bomb": fork_bomb,
    "eat-memory": eat_memory,
    "spread-memory": spread_memory,
    "open-files": open_files,
    "spin": spin,
    "flood": flood,
    "outlive": outlive,
}
