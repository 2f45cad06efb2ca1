"""Named containers for tests: the command line, a root for them, and nothing left behind."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HARDRUN = (sys.executable, "-m", "hardrun")


def make_image(root: Path) -> Path:
    """A root whose programs are the host's, shown read-only."""
    for name in ("usr", "proc", "dev", "sys", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    return root


class Containers:
    """The command line for containers of one test, whose names no other test has."""

    def __init__(self, image: Path) -> None:
        self.image = image
        self._mark = f"t{secrets.token_hex(6)}-"
        self._made: list[str] = []

    def name(self, short: str) -> str:
        """The full name of a container of this test."""
        full = self._mark + short
        if full not in self._made:
            self._made.append(full)
        return full

    def call(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Any command of hardrun."""
        given: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60,
                                 "stdin": subprocess.DEVNULL, **options}
        return subprocess.run([*HARDRUN, *words], check=False, **given)

    def options(self, writable: str = "persistent", policy: str = "contained") -> list[str]:
        """The flags of a container over the image."""
        return ["--policy", policy, "--rootfs", str(self.image), "--ro", "/usr",
                "--writable", writable]

    def run(self, short: str, script: str, *flags: str, writable: str = "persistent",
            policy: str = "contained") -> subprocess.CompletedProcess[str]:
        """``hardrun run --name`` of a shell script."""
        return self.call("run", "--name", self.name(short), *flags,
                         *self.options(writable, policy), "--", "sh", "-c", script)

    def inspect(self, short: str) -> dict[str, Any]:
        """What is known of a container."""
        done = self.call("inspect", self.name(short))
        assert done.returncode == 0, done.stderr
        [found] = json.loads(done.stdout)
        return dict(found)

    def state(self, short: str) -> str:
        """``created``, ``running`` or ``exited``."""
        return str(self.inspect(short)["state"])


@contextmanager
def containers(directory: Path) -> Iterator[Containers]:
    """Containers that are gone afterwards, whatever became of them."""
    made = Containers(make_image(directory / "image"))
    try:
        yield made
    finally:
        for name in made._made:
            made.call("rm", "-f", name)


def until(condition: Any, seconds: float = 20.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.02)
