"""An executor that stops between two operations, or lets one fail: for tests alone.

Its sources are the tree's with one line more where an operation begins; the shipped executor has
neither the line nor what it calls, so nothing that is installed can be told to stop.

    program = write(build(executor, directory), plan, directory)
    with Paused(tmp_path, operations.index("bind")) as paused:
        process = subprocess.Popen([program], env=paused.environment)
        paused.wait(process)
        ...                    # swap, kill, look
        paused.go()
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from tests.building import copy_sources, make
from tests.escape.careless import edit

VARIABLE = "HARDRUN_PAUSE"
SITE = "injected"
"""What a failure that was asked for names as the system call that failed."""
HERE = Path(__file__).parent / "paused"
_PLACES = ("launch.c", "mounts.c", "perform.c")  # wherever the operation under way is noted
_STEP = rf"""\1sandbox->current = i;
\1if (pause_before(i) < 0)
\1	return fail(sandbox, "{SITE}");"""
_BEGINS = re.compile(r"^(\t+)sandbox->current = i;$", re.MULTILINE)
_PAGE = struct.Struct("=IiI")
_RUNNING, _PAUSED, _GO = range(3)
_PATIENCE = 60.0  # seconds until a start that neither stops nor ends counts as hung


def build(executor: Path, directory: Path, careless: Iterable[str] = ()) -> Path:
    """Build the executor that stops, in a copy of its sources; one without some checks, if asked.
    """
    sources = copy_sources(executor, directory)
    edit(sources, *careless)
    for name in ("pause.c", "pause.h"):
        shutil.copy(HERE / name, sources)
    for name in _PLACES:
        path = sources / name
        text, count = _BEGINS.subn(_STEP, path.read_text(encoding="utf-8"))
        assert count == 1, f"{name}: {count} places where an operation begins"
        path.write_text(f'#include "pause.h"\n{text}', encoding="utf-8")
    return make(sources, "hardrun-exec", "CFLAGS=-O0")  # built often, started seldom


class Paused:
    """Where one start is to stop: before the operation of that number in the plan.

    With ``error`` that operation is not performed and fails with this errno instead, once it may
    go on; with ``stop`` False it does so at once. What the parent reads of the plan (time-out,
    report …) are no steps: nothing stops there.
    """

    def __init__(self, directory: Path, operation: int, error: int = 0, *, stop: bool = True
                 ) -> None:
        self._path = directory / f"pause-{operation}"
        self._path.write_bytes(_PAGE.pack(operation, error, _RUNNING if stop else _GO))
        self._path.chmod(0o666)  # an executor with other ids of its own has it open by then
        with self._path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), _PAGE.size)

    @property
    def environment(self) -> dict[str, str]:
        """What the executor has to be started with."""
        return {**os.environ, VARIABLE: str(self._path)}

    def next(self, operation: int, error: int = 0, *, stop: bool = True) -> None:
        """Stop before another operation from now on, or let it fail."""
        self._page[:] = _PAGE.pack(operation, error, _RUNNING if stop else _GO)

    @property
    def stopped(self) -> bool:
        """Whether it has come as far and waits."""
        return int(_PAGE.unpack(self._page[:])[2]) == _PAUSED

    def wait(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until it stops; False where it ended before: the operation is no step of it."""
        deadline = time.monotonic() + _PATIENCE
        while not self.stopped and time.monotonic() < deadline:
            if process.poll() is not None:
                return self.stopped
            time.sleep(0.0005)
        assert self.stopped, "neither stopped nor ended"
        return True

    def go(self) -> None:
        """Let it go on."""
        struct.pack_into("=I", self._page, 8, _GO)

    def __enter__(self) -> Paused:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.go()
        self._page.close()
        self._path.unlink()
