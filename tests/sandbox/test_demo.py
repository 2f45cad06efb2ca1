"""`hardrun demo`, for real."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.escape.outer import needs_unshare
from tests.installed import HARDRUN

# Whatever a host forbids an ordinary user already, these it does not: without them the table
# would show nothing.
ALWAYS_POSSIBLE = {
    "read-private-key", "write-startup-file", "climb-out", "leftover-descriptors",
    "environment-secret", "make-setuid", "see-processes", "read-process", "signal-process",
    "tcp-connect", "unix-connect", "abstract-connect", "shared-memory", "fill-disk",
    "fork-bomb", "eat-memory", "spread-memory", "open-files", "spin", "flood", "outlive"}


@pytest.fixture(scope="module")
def demonstration() -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run([HARDRUN, "demo", "--json"],
                          capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_nothing_gets_through_the_sandbox(
    demonstration: tuple[int, list[dict[str, Any]]]
) -> None:
    status, rows = demonstration
    assert [f"{r['attempt']}: {r['evidence']}" for r in rows if r["through"]] == []
    assert status == 0


def test_every_refusal_names_who_stopped_it(
    demonstration: tuple[int, list[dict[str, Any]]]
) -> None:
    assert all(row["stopped_by"] for row in demonstration[1])


def test_without_a_sandbox_the_same_script_gets_through(
    demonstration: tuple[int, list[dict[str, Any]]]
) -> None:
    """The control: an attempt that fails everywhere would show nothing."""
    through = {row["attempt"] for row in demonstration[1] if row["without_sandbox"]}
    assert ALWAYS_POSSIBLE - through == set()


@needs_unshare
def test_root_would_run_the_script_free_and_is_refused() -> None:
    done = subprocess.run(["unshare", "--user", "--map-root-user", HARDRUN, "demo"],
                          capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (125, "")
    assert "not as root" in done.stderr
