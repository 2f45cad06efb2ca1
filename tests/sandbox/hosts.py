"""Odd hosts made by an ordinary user: what stands around hardrun is changed, hardrun is not.

A script of a shell sets the scene (limits, mounts in a namespace of its own) and ends by becoming
hardrun. Every answer is either the command's own, or one line and a hint with exit status 125.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests import installed
from tests.fake_kernel import FakeKernel

ROOT = Path(__file__).resolve().parents[2]
HARDRUN = shlex.quote(installed.HARDRUN)
RUN = f"exec {HARDRUN} run --refresh"
# Where nobody could drop groups (a user namespace with one id), these policies still run.
NESTED = f"{RUN} --policy contained"
GREETING = "echo hello"
UNSHARE = ("unshare", "--user", "--map-current-user", "--mount", "--keep-caps")
UNSHARE_ROOT = ("unshare", "--user", "--map-root-user", "--mount")


class Outcome(NamedTuple):
    """How hardrun ended."""

    status: int
    stdout: str
    stderr: str

    def greeted(self) -> bool:
        """The sandboxed command ran and nothing else was said."""
        return (self.status, self.stdout, self.stderr) == (0, "hello\n", "")

    def refused(self, *words: str) -> bool:
        """One line, which has these words, and a hint; nothing ran."""
        lines = self.stderr.splitlines()
        return (self.status == 125 and not self.stdout and 1 <= len(lines) <= 2
                and lines[0].startswith("hardrun: ")
                and all(line.startswith("  hint: ") for line in lines[1:])
                and all(word in self.stderr for word in words))


class Host:
    """A home, a working directory, and a clean environment."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.directory = home / "work"
        self.directory.mkdir(parents=True)
        self.environment: dict[str, str] = {
            "HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}

    def __call__(self, script: str, *around: str,
                 environment: Mapping[str, str | None] | None = None,
                 home: str | None = None, kernel: FakeKernel | None = None) -> Outcome:
        """Run a script by sh(1), started through ``around``; None removes a variable.

        ``kernel`` is what it runs on, ``around`` as well; without one the real kernel.
        """
        variables = {**self.environment, **(environment or {})}
        if home is not None:
            variables["HOME"] = home
        argv = [*around, "/bin/sh", "-c", script]
        environ = {name: value for name, value in variables.items() if value is not None}
        if kernel is not None:
            done = kernel.run(argv, cwd=self.directory, env=environ)
        else:
            done = subprocess.run(argv, cwd=self.directory, text=True, check=False, env=environ,
                                  stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
        return Outcome(done.returncode, done.stdout, done.stderr)


def over(directory: str, what: str) -> str:
    """Script lines that mount ``what`` on a directory that may hold this tree and its Python."""
    kept = sorted({str(ROOT), sys.prefix, sys.base_prefix, os.path.dirname(sys.executable)})
    below = [path for path in kept if path.startswith(directory + "/")]
    outermost = [path for path in below if not any(path.startswith(other + "/") for other in below)]
    lines = ["set -e", f"mount --rbind {directory} /mnt"] if outermost else ["set -e"]
    lines.append(f"{what} {directory}")
    for path in outermost:
        kept_at = "/mnt" + path[len(directory):]
        lines += [f"mkdir -p {shlex.quote(path)}",
                  f"mount --rbind {shlex.quote(kept_at)} {shlex.quote(path)}"]
    return "\n".join([*lines, ""])
