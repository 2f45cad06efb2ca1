"""Rootless podman containers read three ways: the line, what podman says, and what is in force."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from hardrun.audit.model import Subject
from hardrun.audit.read import process
from hardrun.audit.rules import catalogue
from hardrun.audit.walk import Batch, read_text
from hardrun.kernel import procfs
from tests.sandbox.agreement import TOLD, disagreements, known_to_both
from tests.sandbox.containers import PODMAN, RUNC, Podman

pytestmark = pytest.mark.skipif(PODMAN is None or RUNC is None,
                                reason="podman or runc is not installed")
ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {
    "as it comes": [],
    "hardened": ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only",
                 "--user=1000:1000"],
    "capabilities": ["--cap-drop=ALL", "--cap-add=SYS_PTRACE", "--cap-add=NET_ADMIN"],
    "another user": ["--cap-add=SYS_PTRACE", "--user=1000"],
    "the caller's ids": ["--userns=keep-id"],
    "the host's names": ["--uts=host", "--cgroupns=host"],
    "the host's network": ["--network=host"],
    "no filter": ["--security-opt=seccomp=unconfined"],
    "no masks": ["--security-opt", "unmask=ALL"],
    "the host's settings": ["--volume=/etc:/h", "--mount=type=bind,source=/usr/bin,destination=/b"],
    "the host's secrets": ["--volume=/etc/ssh:/k:ro", "--tmpfs=/tmp", "--read-only"],
    "the whole file system": ["-v", "/:/mnt:rslave"],
    "privileged": ["--privileged"],
    "privileged, another user": ["--privileged", "--user", "1000"],
}


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Podman]:
    with Podman(tmp_path / "podman") as container:
        yield container


def _environment(podman: Podman) -> dict[str, str]:
    return {**{k: v for k, v in os.environ.items() if k in ("PATH", "HOME")}, **podman.environment}


def _read(text: str, name: str) -> Subject:
    batch = Batch()
    read_text(text.encode(), name, batch, named=True)
    assert not batch.problems
    (subject,) = batch.subjects
    return subject


@contextmanager
def _running(podman: Podman, name: str, options: list[str]) -> Iterator[list[str]]:
    """A container of that name while it runs; the line that started it."""
    network = "host" if "--network=host" in options else "none"
    words = [option for option in options if option != "--network=host"]
    line = [*podman.command("--interactive", f"--name={name}", "--volume=/usr:/usr:ro", *words,
                            network=network), "sh", "-c", "echo ready; read line"]
    child = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             env=_environment(podman))
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        yield line
    finally:
        child.stdin.close()
        child.wait(timeout=60)
        child.stdout.close()


def _inspected(podman: Podman, *names: str) -> str:
    return subprocess.run([str(PODMAN), "inspect", *names], env=_environment(podman),
                          capture_output=True, text=True, check=True).stdout


def _in_force(told: Any) -> Subject:
    pid = told["State"]["Pid"]
    assert procfs.statuses()[pid].name == "sh"
    return process.read(pid)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_line_what_podman_says_and_what_is_in_force_agree(podman: Podman, name: str) -> None:
    with _running(podman, "web", OPTIONS[name]) as line:
        told = _inspected(podman, "web")
        force = _in_force(json.loads(told)[0])
    paper = _read(told, "inspect.json")
    run = _read(shlex.join(["podman", *line[line.index("run"):]]), "run.sh")
    assert known_to_both(paper, force) >= TOLD
    assert known_to_both(run, force) >= TOLD - {"ids.user", "namespaces.shared"}
    assert disagreements(paper, force) == {}
    # Whether the cgroup namespace is the host's is for the host to say, where the line is silent.
    assert not disagreements(run, force).keys() - {"namespaces.shared", "host-cgroup"}


def test_the_command_asks_podman_and_says_what_its_own_output_says(podman: Podman,
                                                                   tmp_path: Path) -> None:
    chosen = ("as it comes", "hardened", "privileged", "the host's settings")
    names = {f"c{number}": OPTIONS[option] for number, option in enumerate(chosen)}
    with ExitStack() as stack:
        for name, options in names.items():
            stack.enter_context(_running(podman, name, options))
        told = _inspected(podman, *names)
        asked = _audited(podman, "--podman")
        live = {name: _audited(podman, "--live", str(item["State"]["Pid"]))
                for name, item in zip(names, json.loads(told), strict=True)}
    (tmp_path / "told.json").write_text(told)
    piped = _audited(podman, "-", told=told)
    assert _found(_audited(podman, str(tmp_path / "told.json"))) == _found(piped)
    # Only podman itself says that it is rootless, and that ids inside are others outside.
    of_root = {rule.id for rule in catalogue() if rule.unless} | {"host-user-namespace"}
    assert {(rule, name) for rule, name in _found(piped) if rule not in of_root} == _found(asked)
    assert ("privileged", "c2") in _found(asked)
    assert ("host-system-writable", "c3") in _found(asked)
    for name, document in live.items():
        (pid,) = {workload["name"] for workload in document["workloads"]}
        unsure = {entry["rule"] for entry in document["unknown"]} | {
            entry["rule"] for entry in asked["unknown"] if entry["workload"] == name}
        both = {rule.id for rule in catalogue() if {"process", "inspect"} <= rule.occurs} - unsure
        assert len(both) >= 20
        assert {rule for rule, other in _found(document) if other == pid} & both == {
            rule for rule, other in _found(asked) if other == name} & both


def _audited(podman: Podman, *words: str, told: str = "") -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "hardrun", "audit", "--format", "json", "--policy", "all", *words],
        cwd=ROOT, env={**_environment(podman), "PYTHONPATH": str(ROOT)}, input=told, text=True,
        capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def _found(document: Any) -> set[tuple[str, str]]:
    return {(rule, name) for f in document["findings"] for rule in (f["rule"], *f["also"])
            for name in f["workloads"]}


@pytest.mark.parametrize("bounding, held", [
    (["CAP_CHOWN", "CAP_KILL"], {"CAP_CHOWN", "CAP_KILL", "CAP_SYS_TIME"}),
    (None, {"CAP_SYS_TIME"})])
def test_what_podmans_configuration_makes_of_the_default_counts(
        bounding: list[str] | None, held: set[str]) -> None:
    subject = _read(json.dumps([{"Name": "web", "BoundingCaps": bounding, "HostConfig": {
        "CapAdd": ["CAP_SYS_TIME"], "CapDrop": [] if bounding else ["ALL"]}}]), "inspect.json")
    assert subject.values["capabilities"].value == held


@pytest.mark.parametrize("command, masks", [
    (["podman", "run", "--security-opt", "unmask=ALL", "a:1", "x"], "unmasked"),
    (["podman", "create", "a:1", "run", "--security-opt", "unmask=ALL"], "masked"),
    (None, None)])
def test_masks_are_known_by_the_command_that_podman_keeps(command: list[str] | None,
                                                          masks: str | None) -> None:
    subject = _read(json.dumps([{"Name": "web", "OCIRuntime": "crun", "HostConfig": {
        "CapDrop": []}, "Config": {"CreateCommand": command}}]), "inspect.json")
    seen = subject.values.get("proc_mount")
    assert (seen.value if seen else None) == masks
    assert ("proc_mount" in subject.unknown) is (masks is None)
