"""What root does in order not to run the suite as root: scripts/as-ordinary-user."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.house.tree import ROOT

USER = os.environ.get("HARDRUN_TEST_USER", "hardrun-test")

pytestmark = pytest.mark.root


def _as_ordinary_user(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(ROOT / "scripts" / "as-ordinary-user"), "sh", "-c", script],
                          env={**os.environ, "SECRET_OF_ROOT": "canary", "XDG_RUNTIME_DIR": "/run"},
                          capture_output=True, text=True, check=False)


def test_the_command_is_an_ordinary_users_in_a_copy_that_is_gone_afterwards() -> None:
    done = _as_ordinary_user("id -u; id -G; grep CapEff /proc/self/status; stat -c %U .; pwd; ls")
    uid, groups, capabilities, owner, directory, *names = done.stdout.splitlines()
    assert int(uid) != 0
    assert len(groups.split()) >= 3, "supplementary groups are there to be dropped"
    assert int(capabilities.split()[1], 16) == 0
    assert owner == USER
    assert {"Makefile", "hardrun", "tests"} <= set(names)
    assert not Path(directory).exists()


def test_nothing_of_roots_environment_gets_there() -> None:
    done = _as_ordinary_user("env")
    assert "canary" not in done.stdout
    assert "XDG_RUNTIME_DIR" not in done.stdout


def test_the_user_has_ranges_of_subordinate_ids() -> None:
    for path in ("/etc/subuid", "/etc/subgid"):
        _as_ordinary_user("true")
        assert f"{USER}:" in Path(path).read_text(encoding="ascii")


def test_the_status_is_the_commands_own() -> None:
    assert _as_ordinary_user("exit 3").returncode == 3


@pytest.mark.skipif("cgroup2" not in Path("/proc/mounts").read_text(encoding="utf-8"),
                    reason="no cgroup v2 to end a group of processes by")
def test_a_process_that_was_left_behind_ends_with_the_command() -> None:
    done = _as_ordinary_user("setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo $!")
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()
