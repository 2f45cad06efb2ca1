"""Sandboxes and the cgroups that they have, in a machine: read and changed from outside."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
HOLD = "echo ready; read line"
DIRECT = ("systemd-run", "--user", "--scope", "--quiet", "-p", "Delegate=yes", "--")
"""A command in a scope that is delegated to it."""
PATIENT = ("--timeout", "10m")
"""For what is looked at from outside: a busy machine needs longer than a policy's minute."""


def groups() -> list[Path]:
    """Walked with ``os.walk``: ``rglob`` raises where a group of anybody's ends meanwhile."""
    return [Path(top) / name for top, names, _ in os.walk(ROOT) for name in names
            if name.startswith("hardrun-") and name != "hardrun-supervisor"]


def members(group: Path) -> list[int]:
    return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]


class Held:
    """A sandbox that waits for a line; ``files`` are those of its group, read from outside."""

    def __init__(self, *options: str, prefix: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*prefix, "hardrun", "run", *PATIENT, *options, "--", "sh", "-c", HOLD],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate("go\n", timeout=60)

    @property
    def group(self) -> Path:
        [group] = [path for path in groups() if not path.name.endswith(".scope")]
        return group

    def read(self, file: str) -> str:
        return (self.group / file).read_text().strip()

    @contextmanager
    def changed(self, files: dict[str, str]) -> Iterator[None]:
        before = {file: self.read(file).splitlines() for file in files}
        for file, text in files.items():
            (self.group / file).write_text(text)
        yield
        for file, lines in before.items():
            for line in lines:
                (self.group / file).write_text(line)

    @property
    def members(self) -> list[int]:
        return members(self.group)


def none_left() -> None:
    """Every scope and every group goes with its sandbox."""
    deadline = time.monotonic() + 20
    while (left := groups()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left
    units = subprocess.run(["systemctl", "--user", "list-units", "--all", "--no-legend",
                            "hardrun-*"], capture_output=True, text=True, check=True).stdout
    assert units == ""
