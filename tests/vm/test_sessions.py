"""Commands that come to a sandbox under a label: each has it from its first instruction on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import hardrun
from hardrun import session
from hardrun.executor import serve
from hardrun.plan.serve import ServeMode, Told
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
@pytest.mark.parametrize("mode", [ServeMode.ALONE, ServeMode.ONCE])
@pytest.mark.parametrize("change, site", [("complain", f"it has {APPARMOR} ("),
                                          ("gone", "write")])
def test_a_command_that_would_not_have_it_is_not_started(mode: ServeMode, change: str,
                                                         site: str) -> None:
    """What root changed since the start is found by PID 1: nobody decides anew here."""
    with _installed():
        program = session.program_of(session.standing_of({"timeout": 600}).request)
        sandbox = serve.Served(program, mode)
        try:
            assert sandbox.is_ready()
            if change == "gone":
                as_root("hardrun", "profile", "remove", APPARMOR)
            else:
                as_root("apparmor_parser", "--replace", "--skip-cache", "--complain",
                        stdin=apparmor_host.text(APPARMOR))
            command = serve.Command(sandbox.at, serve.Asked(("/bin/echo", "ran")))
            reply = command.reply(60)
            assert command.stdout is not None
            assert os.read(command.stdout, 100) == b""
            command.close()
            assert reply is not None
            assert (reply.kind, reply.site[:len(site)]) == (Told.FAILED, site)
        finally:
            sandbox.end()
            as_root("hardrun", "profile", "install", APPARMOR)
