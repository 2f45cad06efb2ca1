"""The executor that stops: it does what tests rely on, and the shipped one has nothing of it."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import pytest

from tests.escape.conftest import Made
from tests.escape.paused import VARIABLE, Paused
from tests.escape.probe import call, words_of

pytestmark = pytest.mark.sandbox
STEPS = ("clone", "make_private", "bind", "pivot_root", "not_dumpable", "new_session",
         "load_seccomp", "execute")  # of all three processes


@pytest.mark.parametrize("name", STEPS)
def test_it_stops_before_an_operation_and_goes_on(sandbox: Made, pausing: Path, tmp_path: Path,
                                                  name: str) -> None:
    made = sandbox().by(pausing)
    with Paused(tmp_path, made.steps.index(name)) as paused:
        process = subprocess.Popen([made.write(), *words_of([[call("getpid")]])],
                                   env=paused.environment, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert paused.wait(process)
        assert process.poll() is None
        paused.go()
        output, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, b"")
    assert b'"steps"' in output


@pytest.mark.parametrize("name", STEPS)
def test_it_lets_an_operation_fail(sandbox: Made, pausing: Path, tmp_path: Path, name: str
                                   ) -> None:
    made = sandbox().by(pausing)
    number = made.steps.index(name)
    with Paused(tmp_path, number, errno.EXDEV, stop=False) as paused:
        done = made.start(words_of([[call("getpid")]]), env=paused.environment)
    assert done.stdout == b""
    assert b"injected: EXDEV (operation %d" % number in done.stderr


def test_the_shipped_executor_can_not_be_told_to_stop(executor: Path, pausing: Path) -> None:
    for word in (VARIABLE.encode(), b"injected"):
        assert word in pausing.read_bytes()
        assert word not in executor.read_bytes()
