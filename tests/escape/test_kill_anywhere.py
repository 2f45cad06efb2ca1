"""SIGKILL between every two operations: of the parent, of PID 1, of the command, of the front-end.

Whoever dies, and wherever the others are then: a moment later there is no process, mount, group,
descriptor or file of the sandbox, its ids are free, and nobody takes a sandbox that was killed for
a command that has run. A process of ids that are not the caller's can be killed by root alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hardrun import api
from hardrun.errors import ExecutorError
from hardrun.executor import image as images
from hardrun.executor import start
from hardrun.executor.report import error_of
from hardrun.plan.format import decode, encode
from hardrun.plan.schema import BY_NAME, Operation, Phase
from tests.escape import remains
from tests.escape.paused import VARIABLE, Paused
from tests.escape.plans import plans
from tests.escape.probe import AT_FDCWD, call, words_of
from tests.escape.sandbox import Sandbox

pytestmark = pytest.mark.sandbox
EVERY = "HARDRUN_EVERY_FAULT" in os.environ  # make faults: at every operation, not one of each kind
NAMES = ("untrusted", "agent", "image", "layer", "ids of its own", "landlock tier")
VICTIMS = ("parent", "PID 1", "command")
KILLED = b"hardrun: the sandbox was killed before its command started\n"
NETWORK = b"join the network namespace, which was made meanwhile"


@pytest.fixture(scope="module")
def made(probe: Path, place: Path, pausing: Path) -> dict[str, Sandbox]:
    return {name: sandbox.by(pausing) for name, sandbox in plans(probe, place).items()
            if name in NAMES}


def points(steps: list[str], *phases: Phase) -> list[int]:
    """The operations that are stopped before: the first and last of each name, or all of them."""
    performed = [i for i, name in enumerate(steps) if BY_NAME[name].phase in phases]
    chosen = {steps[i]: i for i in performed} | {steps[i] + " first": i for i in performed[::-1]}
    return performed if EVERY else sorted(set(chosen.values()))


def children(pid: int) -> list[int]:
    return [p.pid for p in remains.processes() if p.parent == pid and p.name == "hardrun"]


def victim_of(parent: int, who: str) -> int:
    """The process to be killed; 0 where it is not there yet."""
    found = [parent]
    for _ in range(VICTIMS.index(who)):
        found = children(found[0]) if found else []
    return found[0] if found else 0


def until_dead(pid: int) -> None:
    """What goes on before the kernel has ended it may run to its end."""
    deadline = time.monotonic() + 30
    while any(p.pid == pid for p in remains.processes()) and time.monotonic() < deadline:
        time.sleep(0.002)


def words(place: Path) -> list[str]:
    marker = str(place / "shared/ran")
    return words_of([[call("openat", AT_FDCWD, marker, os.O_CREAT | os.O_WRONLY, 0o600)]])


@pytest.mark.parametrize("who", VICTIMS)
@pytest.mark.parametrize("name", NAMES)
def test_a_sandbox_ends_with_any_of_its_processes(
    made: dict[str, Sandbox], place: Path, tmp_path: Path, name: str, who: str
) -> None:
    sandbox = made[name]
    program = sandbox.write()
    before = remains.take(place / "shared", place)
    killed = set()
    early = (Phase.LAUNCH,) if who == "parent" else ()
    for number in points(sandbox.steps, *early, Phase.INIT, Phase.WORKLOAD):
        with Paused(tmp_path, number) as paused, subprocess.Popen(
                [program, *words(place)], env=paused.environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            if paused.wait(process) and (victim := victim_of(process.pid, who)) \
                    and may_kill(victim):
                os.kill(victim, signal.SIGKILL)
                until_dead(victim)
                killed.add(number)
                if ends_where_it_stands(sandbox, number, name, who):
                    assert not remains.living(before), sandbox.steps[number]
            paused.go()
            output, error = process.communicate(timeout=60)
        if number not in killed or (name, who) == ("landlock tier", "parent"):
            # Without namespaces a reaper ends what it finds when it hears of its parent's death.
            (place / "shared/ran").unlink(missing_ok=True)
        if number in killed:
            status = -signal.SIGKILL if who == "parent" else 125
            told = b"" if who == "parent" else KILLED
            found = (process.returncode, output, error)
            network = made_the_network(sandbox, number, name, who)
            assert (found == (status, b"", told) or (network and NETWORK in error)
                    or (network and process.returncode == 0)), sandbox.steps[number]
            if network:
                (place / "shared/ran").unlink(missing_ok=True)
        assert not remains.left(before, place / "shared", place), sandbox.steps[number]
    assert killed or (name, who) in UNREACHABLE


def ends_where_it_stands(sandbox: Sandbox, number: int, name: str, who: str) -> bool:
    """Whether it needs no step more. Before there is a process of the command's, PID 1 looks for
    its parent at the end of its own operations (the kernel forgets PR_SET_PDEATHSIG where
    credentials change); without namespaces it is a reaper, and waits for the exec first.
    """
    if BY_NAME[sandbox.steps[number]].phase is not Phase.WORKLOAD:
        return False
    return (name, who) != ("landlock tier", "parent")


def made_the_network(sandbox: Sandbox, number: int, name: str, who: str) -> bool:
    """Whether what was killed is the process that makes the network namespace: the only child that
    PID 1 has before the command's. It may have done its work."""
    return (who == "command" and name != "landlock tier"
            and BY_NAME[sandbox.steps[number]].phase is Phase.INIT)


UNREACHABLE = {("ids of its own", "command")}
"""Whose ids are others' already when they come to be: nobody but root may kill them."""


def may_kill(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False
    return True


def test_the_api_tells_a_killed_start_from_a_killed_command(
    front_end: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = api.prepare(["sleep", "60"], policy="untrusted")
    number = steps_of(prepared).index("pivot_root")
    with ThreadPoolExecutor(1) as pool, Paused(tmp_path, number) as paused:
        monkeypatch.setenv(VARIABLE, paused.environment[VARIABLE])
        run = pool.submit(prepared.run, capture_output=True)
        os.kill(init_below(os.getpid(), lambda: paused.stopped), signal.SIGKILL)
        with pytest.raises(ExecutorError, match="killed before its command started"):
            run.result(60)
        monkeypatch.delenv(VARIABLE)
        run = pool.submit(prepared.run, capture_output=True)
        os.kill(init_below(os.getpid(), is_sleeping), signal.SIGKILL)
        result = run.result(60)
    assert (result.outcome, result.returncode) == ("signaled", 128 + signal.SIGKILL)


def test_a_sandbox_that_is_killed_at_the_gate_has_not_run() -> None:
    """The kernel keeps its PID 1 until whoever traces the command has reaped it."""
    prepared = api.prepare(["sleep", "60"], policy="untrusted")

    def kill(workload: int) -> None:
        os.kill(init_below(os.getpid(), lambda: True), signal.SIGKILL)
        deadline = time.monotonic() + remains.PATIENCE
        while any(p.pid == workload for p in remains.processes()) and time.monotonic() < deadline:
            time.sleep(0.001)

    finished = start.run(prepared._program, ["60"], stdin=subprocess.DEVNULL, at_gate=kill)
    assert finished.returncode == 125
    error = error_of(finished.report, finished.plan)
    assert error is not None
    assert "killed before its command started" in error.message


def init_below(pid: int, ready: Callable[[], bool]) -> int:
    """PID 1 of the one sandbox that a process has, once it is as far."""
    deadline = time.monotonic() + remains.PATIENCE
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.001)
    [parent] = children(pid)
    [init] = children(parent)
    return init


def is_sleeping() -> bool:
    return any(p.name == "sleep" for p in remains.processes())


# -- the front-end --------------------------------------------------------------------------------


@pytest.fixture
def front_end(pausing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API starts the executor that stops."""
    executor = pausing.read_bytes()
    monkeypatch.setattr(images, "read_executor", lambda: executor)


def steps_of(prepared: api.Prepared) -> list[str]:
    """The operations of its plan, with those that a start adds."""
    program = prepared._program
    more = [Operation(name, (9,)) for name in ("lifeline", "report")]
    plan = encode([*program.operations, *more], program.unsafe)
    return [o.name for o in decode(plan).operations]


def started_by_a_child(prepared: api.Prepared, paused: Paused) -> int:
    """A front-end of its own, which is to be killed: its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            os.environ.update(paused.environment)
            prepared.run(capture_output=True)
        finally:
            os._exit(0)
    return pid


@pytest.mark.parametrize("userns", [None, "auto"])
def test_a_sandbox_ends_with_whoever_started_it(front_end: None, tmp_path: Path,
                                                userns: str | None) -> None:
    prepared = api.prepare(["sleep", "60"], policy="untrusted", userns=userns)
    steps = steps_of(prepared)
    assert remains.all_ids_are_freed()
    before = remains.take(tmp_path)
    for number in points(steps, Phase.LAUNCH, Phase.INIT, Phase.WORKLOAD):
        with Paused(tmp_path, number) as paused:
            pid = started_by_a_child(prepared, paused)
            deadline = time.monotonic() + remains.PATIENCE
            while not paused.stopped and time.monotonic() < deadline:
                time.sleep(0.001)
            stopped = paused.stopped
            held = not remains.all_ids_are_free()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        assert stopped, steps[number]
        assert held == (userns == "auto")
        assert not remains.left(before, tmp_path), steps[number]
        assert remains.all_ids_are_freed(), steps[number]
