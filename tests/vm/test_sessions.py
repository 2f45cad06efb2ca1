"""Commands that come to a sandbox under a label: each has it from its first instruction on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import hardrun
from hardrun.errors import ExecutorError
from hardrun.profile import apparmor_host
from tests.vm.guest import as_root

SHOW = ["cat", "/proc/self/attr/current"]
APPARMOR = "hardrun-untrusted"


@contextmanager
def _installed() -> Iterator[None]:
    as_root("hardrun", "profile", "install", APPARMOR)
    try:
        yield
    finally:
        as_root("hardrun", "profile", "remove", APPARMOR)


def _label(result: hardrun.Result) -> str:
    assert (result.outcome, result.returncode) == ("exited", 0), result
    return str(result.stdout).strip("\0\n")


def _all_have(wanted: str) -> None:
    """A session's commands, one after another and at once, and those of a pool."""
    with hardrun.Sandbox(timeout=600) as sandbox:
        first = _label(sandbox.run(SHOW, capture_output=True, text=True))
        assert wanted in first
        fed = sandbox.run(["cat"], input="given\n", capture_output=True, text=True)
        assert fed.stdout == "given\n"
        with sandbox.spawn(["sh", "-c", "read line; cat /proc/self/attr/current"],
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE) as waits:
            assert _label(sandbox.run(SHOW, capture_output=True, text=True)) == first
            verified = subprocess.run(["hardrun", "verify", str(sandbox.pid)],
                                      capture_output=True, text=True, check=False)
            assert verified.returncode == 0, verified.stdout
            assert waits.stdin is not None
            assert waits.stdout is not None
            waits.stdin.write(b"\n")
            waits.stdin.flush()
            assert waits.stdout.read().decode().strip("\0\n") == first
        with pytest.raises(hardrun.CommandNotFound):
            sandbox.run(["no-such-program"])
        assert _label(sandbox.run(SHOW, capture_output=True, text=True)) == first
    with hardrun.Pool(size=1) as pool:
        for _ in range(2):
            assert wanted in _label(pool.run(SHOW, capture_output=True, text=True))


@pytest.mark.vm("apparmor")
def test_commands_that_come_later_have_the_profile() -> None:
    with _installed():
        _all_have(f"{APPARMOR} (enforce)")


@pytest.mark.vm("selinux")
def test_commands_that_come_later_have_the_type() -> None:
    _all_have(":hardrun_untrusted_t:")


@pytest.mark.vm("apparmor")
@pytest.mark.parametrize("change", ["complain", "gone"])
def test_a_command_that_would_not_have_it_is_not_started(change: str) -> None:
    """The first had it; what root changed since is found at the next."""
    with _installed(), hardrun.Sandbox(timeout=600) as sandbox:
        assert APPARMOR in _label(sandbox.run(SHOW, capture_output=True, text=True))
        if change == "gone":
            as_root("hardrun", "profile", "remove", APPARMOR)
        else:
            as_root("apparmor_parser", "--replace", "--skip-cache", "--complain",
                    stdin=apparmor_host.text(APPARMOR))
        with pytest.raises(hardrun.HardrunError) as refused:
            sandbox.run(["sh", "-c", "echo ran > /tmp/marker"])
        assert isinstance(refused.value, ExecutorError | hardrun.PolicyRefused)
        as_root("hardrun", "profile", "install", APPARMOR)
        found = sandbox.run(["cat", "/tmp/marker"], capture_output=True, text=True)
        assert (found.returncode, found.stdout) == (1, "")
