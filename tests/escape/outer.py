"""Hosts with other mounts: made by an ordinary user in namespaces around the sandbox.

The mounts are those of an outer user namespace, so that to the sandbox they are the host's: their
flags are locked, and what is mounted there later is somebody else's doing.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence

import pytest

from tests.escape.layers import single_id
from tests.escape.probe import Answer, answers_of
from tests.escape.sandbox import Sandbox

_OUTER = ("unshare", "--user", "--map-root-user", "--mount")
_INNER = ("unshare", "--user", f"--map-user={os.getuid()}", f"--map-group={os.getgid()}")

needs_unshare = pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")


def command(made: Sandbox, words: Sequence[str]) -> str:
    """The shell's words that start a sandbox there, as the ordinary user that it was made for."""
    return shlex.join([*_INNER, str(made.removed(single_id).write()), *words])


def on_host(scene: str, ending: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script that sets a scene, and then the rest."""
    return subprocess.run([*_OUTER, "sh", "-euc", f"{scene}\n{ending}"], check=False,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=60)


def attack(made: Sandbox, scene: str, words: Sequence[str]) -> list[Answer]:
    """What programs come to in a sandbox on such a host."""
    done = on_host(scene, f"exec {command(made, words)}")
    found = answers_of(done.stdout)
    assert len(found) == len(words), done
    return found
