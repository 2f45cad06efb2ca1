"""A hostile program: ``SCENE.json ATTEMPT…``.

It runs with the system's plain python3 and knows nothing about sandboxes. Every attempt is made in
a process of its own, because some are answered with a signal; one JSON line tells how each ended.
An attempt counts as *through* only on evidence: bytes that were read, a call that succeeded.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from . import endless, files, kernel, others
from .system import Scene

PATIENCE = 20.0  # seconds for one attempt

ATTEMPTS: dict[str, Callable[[Scene], str]] = {
    **files.ATTEMPTS, **others.ATTEMPTS, **kernel.ATTEMPTS, **endless.ATTEMPTS}


def attempt(name: str, scene: Scene) -> dict[str, object]:
    """What one attempt came to, in this process."""
    try:
        return {"name": name, "through": True, "evidence": ATTEMPTS[name](scene)}
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "")
        return {"name": name, "through": False, "errno": code, "evidence": str(error)}
    except MemoryError:
        return {"name": name, "through": False, "errno": "ENOMEM", "evidence": "no memory"}


def in_a_child(name: str, scene: Scene) -> dict[str, object]:
    """Fork, attempt, and read the answer; a child that is killed or hangs is an answer too."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.close(reader)
        os.write(writer, json.dumps(attempt(name, scene)).encode())
        os._exit(0)
    os.close(writer)
    end = time.monotonic() + PATIENCE
    data = b""
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        part = os.read(reader, 65536)
        if not part:
            break
        data += part
    os.close(reader)
    with contextlib.suppress(ProcessLookupError):  # it may not have got as far as its own group
        os.killpg(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if data:
        answer: dict[str, object] = json.loads(data)
        return answer
    name_of_signal = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "exit"
    return {"name": name, "through": False, "errno": name_of_signal,
            "evidence": f"the process ended by {name_of_signal}"}


def main() -> None:
    """Make the attempts that the command line names, one after the other."""
    with open(sys.argv[1], encoding="utf-8") as file:
        scene = Scene(**json.load(file))
    for name in sys.argv[2:]:
        answer = attempt(name, scene) if name in endless.ATTEMPTS else in_a_child(name, scene)
        print(json.dumps(answer), flush=True)
