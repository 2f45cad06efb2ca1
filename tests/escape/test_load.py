"""A short load (`make load` puts a long one on): nothing is left of many sandboxes at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.house.tree import ROOT

pytestmark = pytest.mark.sandbox


def test_nothing_is_left_of_many_sandboxes() -> None:
    """In a process of its own, whose memory and descriptors are nobody else's."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.escape.load", "--seconds", "6", "--alive", "40"],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
