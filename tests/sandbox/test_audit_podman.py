"""One rootless podman container read three ways: its line, what podman says, what is in force."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hardrun.audit.facts import BOUNDABLE
from hardrun.audit.model import Subject
from hardrun.audit.read import process
from hardrun.audit.walk import Batch, read_text
from hardrun.kernel import procfs
from tests.sandbox.containers import PODMAN, RUNC, Podman

pytestmark = pytest.mark.skipif(PODMAN is None or RUNC is None,
                                reason="podman or runc is not installed")
COMPARED = ("capabilities", "no_new_privs", "seccomp_mode", "ids.user", "filesystem.read_only_root",
            "network_mode", "pid_namespace", "user_namespace", "namespaces.shared",
            "filesystem.writable")
NOT_SAID = ("user_namespace",)  # rootless or not: neither the line nor podman says so
OPTIONS = {
    "as it comes": [],
    "hardened": ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only",
                 "--user=1000:1000"],
    "capabilities": ["--cap-drop=ALL", "--cap-add=SYS_PTRACE", "--cap-add=NET_ADMIN"],
    "the host's": ["--uts=host", "--security-opt=seccomp=unconfined"],
    "privileged": ["--privileged"],
}


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Podman]:
    with Podman(tmp_path / "podman") as container:
        yield container


def _read(text: str, name: str) -> Subject:
    batch = Batch()
    read_text(text.encode(), name, batch, named=True)
    assert not batch.problems
    (subject,) = batch.subjects
    return subject


def _three(podman: Podman, options: list[str]) -> tuple[Subject, Subject, Subject]:
    """The subjects of the line, of podman's inspect output, and of the process."""
    words = podman.command("--interactive", "--name=web", "--volume=/usr:/usr:ro", *options)
    line = [*words, "sh", "-c", "echo ready; read line"]
    environment = {**{k: v for k, v in os.environ.items() if k in ("PATH", "HOME")},
                   **podman.environment}
    child = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             env=environment)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        told = subprocess.run([*words[:words.index("run")], "inspect", "web"], env=environment,
                              capture_output=True, text=True, check=True).stdout
        pid = json.loads(told)[0]["State"]["Pid"]
        assert procfs.statuses()[pid].name == "sh"
        force = process.read(pid)
    finally:
        child.stdin.close()
        child.wait(timeout=60)
        child.stdout.close()
    run = shlex.join(["podman", *line[line.index("run"):]])
    return _read(run, "run.sh"), _read(told, "inspect.json"), force


@pytest.mark.parametrize("name", OPTIONS)
def test_the_line_what_podman_says_and_what_is_in_force_agree(podman: Podman, name: str) -> None:
    line, told, force = _three(podman, OPTIONS[name])
    for control in COMPARED:
        shown = {s.source: BOUNDABLE[control].show(_in_force(s, control))
                 for s in (line, told, force) if control in s.values}
        assert "process" in shown, control
        assert len(shown) > 1 or control in NOT_SAID, control
        assert len(set(shown.values())) == 1, (control, shown)


def _in_force(subject: Subject, control: str) -> Any:
    """A value in the words of what is in force: podman sets a profile unasked; whether the cgroup
    namespace is the host's is for the host to say, where the line is silent."""
    value = subject.values[control].value
    if control == "seccomp_mode" and value == "unset":
        return "profile"
    return value - {"cgroup"} if control == "namespaces.shared" else value


@pytest.mark.parametrize("bounding, held", [
    (["CAP_CHOWN", "CAP_KILL"], {"CAP_CHOWN", "CAP_KILL", "CAP_SYS_TIME"}),
    (None, {"CAP_SYS_TIME"})])
def test_what_podmans_configuration_makes_of_the_default_counts(
        bounding: list[str] | None, held: set[str]) -> None:
    subject = _read(json.dumps([{"Name": "web", "BoundingCaps": bounding, "HostConfig": {
        "CapAdd": ["CAP_SYS_TIME"], "CapDrop": [] if bounding else ["ALL"]}}]), "inspect.json")
    assert subject.values["capabilities"].value == held
