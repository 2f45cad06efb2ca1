"""Debian's kernel (6.1, Landlock ABI 2) with user namespaces switched off: nothing is faked."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hardrun.kernel import landlock
from tests.installed import HARDRUN
from tests.sandbox.canaries import canaries, unreached, wrong

pytestmark = pytest.mark.vm("bare")


def hardrun(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HARDRUN, *words], capture_output=True, text=True,
                          check=False, **options)


def test_untrusted_is_refused_with_what_to_do() -> None:
    done = hardrun("run", "--", "true")
    assert done.returncode == 125
    problem, hint = done.stderr.splitlines()
    assert problem.startswith("hardrun: min_tier: full is the least (")
    assert "this host has the landlock tier: no user namespace: " in problem
    assert "sysctl" in hint
    assert "or a policy that accepts the landlock tier: " in hint


def test_an_agent_reaches_nothing_of_the_host(tmp_path: Path) -> None:
    report = tmp_path / "report"
    with canaries(tmp_path) as canary:
        done = hardrun("run", "--policy", "agent", *canary.grants(), "--report", str(report), "--",
                       *canary.command(), **canary.passed())
        assert done.returncode == 0, done.stderr
        assert wrong(canary, done.stdout, landlock.abi_version()) == {}
    document = json.loads(report.read_text())
    assert document["tier"] == "landlock"
    # what this kernel's Landlock can't hold is said, not left out
    shared = next(d for d in document["degraded"] if d["control"] == "namespaces.shared")
    assert "signals reach the caller's other processes" in shared["because"]


def test_the_unconfined_script_reaches_all_of_it(tmp_path: Path) -> None:
    with canaries(tmp_path) as canary:
        done = subprocess.run(canary.command(), capture_output=True, text=True, check=True,
                              **canary.passed())
        assert unreached(done.stdout) == set()


def test_what_holds_is_read_back() -> None:
    done = hardrun("run", "--policy", "agent", "--verify", "--", "echo", "ok")
    assert (done.stdout, done.returncode) == ("ok\n", 0), done.stderr


def test_a_stored_plan_starts_in_the_same_tier() -> None:
    for _ in range(2):
        done = hardrun("run", "--policy", "build", "--", "sh", "-c", "echo $HOME")
        assert done.stdout.startswith("/tmp/hardrun-0x"), done.stderr
        assert not Path(done.stdout.strip()).exists()
