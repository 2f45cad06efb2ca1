"""Verification of real sandboxes: what holds, and that what does not is found."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hardrun.kernel import procfs
from hardrun.policy.decision import Decision
from hardrun.posture.registry import BY_ID
from hardrun.verify import (
    Check,
    Verification,
    compare,
    find_sandbox,
    observe,
    verify_at_gate,
    verify_sandbox,
)
from hardrun.verify.find import NotASandbox, Sandbox
from tests.installed import HARDRUN

ROOT = Path(__file__).resolve().parents[2]


class Running(NamedTuple):
    """A sandbox with a shell and a sleep in it, and what it may write."""

    process: subprocess.Popen[str]
    sandbox: Sandbox
    project: Path

    @property
    def workload(self) -> int:
        """The command itself."""
        children = procfs.statuses()
        return next(p for p in self.sandbox.processes[1:]
                    if children[p].parent == self.sandbox.init)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if os.geteuid() == 0:
        pytest.skip("sandboxes are started by an ordinary user")
    project = tmp_path_factory.mktemp("project")
    (project / "precious").mkdir()
    environment = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "PYTHONPATH")}
    process = subprocess.Popen(
        [HARDRUN, "run", "--rw", str(project), "--", "sh", "-c",
         "sleep 600 & echo ready; read line"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment | {"LANG": "C"})
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield Running(process, find_sandbox(process.pid), project)
    finally:
        process.terminate()
        process.communicate()


def results(checks: tuple[Check, ...], result: str) -> dict[str, str]:
    return {c.control: f"{c.observed} ({c.evidence})" for c in checks if c.result == result}


def answers(running: Running, pid: int) -> tuple[Check, ...]:
    found = verify_sandbox(running.sandbox, only=pid)
    return found.processes[0].checks


def with_value(decision: Decision, control_id: str, value: Any) -> Decision:
    """The same Decision with one control at another value."""
    control = BY_ID[control_id]
    controls = tuple(
        replace(c, value=control.dump(value), shown=control.show(value))
        if c.control == control_id else c for c in decision.controls)
    return replace(decision, controls=controls)


def test_every_process_of_a_sandbox_is_found(running: Running) -> None:
    names = [procfs.status(pid).name for pid in running.sandbox.processes]
    assert sorted(names[1:]) == ["sh", "sleep"]
    assert running.sandbox.launcher == running.process.pid
    assert procfs.status(running.sandbox.init).pids[-1] == 1


def test_the_sandbox_is_found_from_any_process_in_it(running: Running) -> None:
    for pid in running.sandbox.processes:
        assert find_sandbox(pid) == running.sandbox


def test_nothing_differs_in_a_sandbox_as_it_was_decided(running: Running) -> None:
    found = verify_sandbox(running.sandbox)
    assert [p.pid for p in found.processes] == list(running.sandbox.processes)
    assert (found.holds, found.missed) == (True, 0)
    for process in found.processes:
        assert results(process.checks, "differs") == {}
        assert all(c.evidence for c in process.checks)


def test_what_the_kernel_can_show_is_known(running: Running) -> None:
    known = results(answers(running, running.workload), "holds")
    assert {"landlock", "securebits", "keyring", "namespaces.nested", "mandatory",
            "limits.timeout", "limits.output", "network", "capabilities", "seccomp",
            "no_new_privs", "namespaces.shared", "ids.range", "filesystem.readable",
            "filesystem.writable", "filesystem.proc", "devices", "session", "terminal",
            "descriptors", "limits.memory", "limits.tmpfs"} <= known.keys()


STRICTER: list[tuple[str, Any]] = [
    ("limits.memory", 1 << 20), ("limits.pids", 1), ("limits.cpu_time", 1),
    ("limits.open_files", 8), ("limits.tmpfs", 1 << 16), ("limits.inodes", 64),
    ("umask", 0o777), ("devices", frozenset()), ("filesystem.proc", "none"),
    ("filesystem.visible", frozenset({"/etc"})), ("filesystem.writable", frozenset()),
    ("filesystem.protected", frozenset({"precious"})), ("environment", frozenset({"TZ"})),
]


@pytest.mark.parametrize("control,value", STRICTER)
def test_a_decision_that_the_sandbox_does_not_meet_is_found(
    running: Running, control: str, value: Any
) -> None:
    """The negative control of the tests above: each read-back can fail on a real process."""
    decision = with_value(running.sandbox.decision, control, value)
    found = results(compare(decision, observe(running.workload), at_gate=True), "differs")
    if control == "filesystem.visible":
        control = "filesystem.readable"  # it is there, and nothing grants it any more
    assert control in found


def test_an_ordinary_process_does_not_pass_for_a_sandboxed_one(running: Running) -> None:
    child = subprocess.Popen(["sleep", "600"])
    try:
        checks = compare(running.sandbox.decision, observe(child.pid))
    finally:
        child.terminate()
        child.wait()
    assert {"seccomp", "namespaces.shared", "network", "ids.range", "filesystem.readable",
            "filesystem.proc", "filesystem.read_only_root"} <= results(checks, "differs").keys()


def test_whoever_started_a_sandbox_is_told_its_number(running: Running) -> None:
    with pytest.raises(NotASandbox) as caught:
        find_sandbox(os.getpid())
    assert str(running.process.pid) in str(caught.value.hint)


def test_a_process_in_no_sandbox_is_said_to_be_in_none() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(NotASandbox, match="no process"):
        find_sandbox(child.pid)


def hardrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HARDRUN, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_command_line_tells_that_all_holds(running: Running) -> None:
    done = hardrun("verify", str(running.workload))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"decision sha256:{running.sandbox.decision.digest}" in done.stdout
    assert "0 differ" in done.stdout


def test_the_document_has_every_process_and_control(running: Running) -> None:
    done = hardrun("verify", "--json", str(running.process.pid))
    document = json.loads(done.stdout)
    assert document["holds"] is True
    assert [p["pid"] for p in document["processes"]] == list(running.sandbox.processes)
    workload = next(p for p in document["processes"] if p["pid"] == running.workload)
    assert {c["control"] for c in workload["checks"]} == set(BY_ID)


def test_outside_a_sandbox_the_command_line_fails() -> None:
    done = hardrun("verify", str(os.getpid()))
    assert done.returncode == 125
    assert "is in no sandbox of hardrun" in done.stderr


def test_a_workload_at_the_gate_is_exactly_as_decided(tmp_path: Path) -> None:
    from hardrun.executor import start
    from hardrun.request import decide

    request = decide(["true"], rw=[str(tmp_path)])
    seen: list[Verification] = []
    finished = start.run(start.Program.of(request), [], capture=True,
                         at_gate=lambda pid: seen.append(verify_at_gate(pid)))
    assert finished.returncode == 0
    init, command = seen[0].processes
    assert results(init.checks, "differs") == results(command.checks, "differs") == {}
    assert {"environment", "umask", "descriptors", "landlock", "securebits"} \
        <= results(command.checks, "holds").keys()
    assert {"landlock", "securebits", "descriptors", "namespaces.shared"} \
        <= results(init.checks, "holds").keys()
