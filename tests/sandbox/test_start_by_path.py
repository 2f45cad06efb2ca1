"""The executor started by its own path, as where a profile is attached to that."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import hardrun
from hardrun.executor import image
from hardrun.host.probe import probe
from hardrun.plan.format import Artefact, pack

from .raw import Program


@pytest.fixture
def _restricted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switch = tmp_path / "switch"
    switch.write_text("1\n")
    monkeypatch.setattr(image, "RESTRICTED", str(switch))


@pytest.mark.usefixtures("_restricted")
def test_what_runs_is_the_image_and_nothing_of_the_way_there_is_left() -> None:
    done = hardrun.run(["sh", "-c", "echo $0 $1; ls /proc/self/fd", "a", "b"],
                       capture_output=True, text=True, verify=True)
    assert (done.returncode, done.stdout.split()) == (0, ["a", "b", "0", "1", "2", "3"])


@pytest.mark.usefixtures("_restricted")
def test_the_trial_of_the_host_takes_the_same_way() -> None:
    assert probe().user_namespaces.available


def _execute(executor: Path, descriptor: int, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["hardrun-exec", str(descriptor), *words], executable=executor, text=True,
                          pass_fds=[descriptor], capture_output=True, check=False)


def test_by_its_path_the_executor_executes_nothing_but_itself_with_a_plan(
        executor: Path, tmp_path: Path) -> None:
    other = image.seal(Path("/usr/bin/true").read_bytes(), pack(Artefact(b"")))
    try:
        with open("/usr/bin/true", "rb") as program, \
                open(Program(executor, tmp_path).write(["true"]), "rb") as unsealed:
            done = [_execute(executor, descriptor, "true")
                    for descriptor in (other, program.fileno(), unsealed.fileno())]
    finally:
        os.close(other)
    assert [(d.returncode, d.stderr) for d in done] == [
        (125, "hardrun: this is not an image of this program\n")] * 3


@pytest.mark.parametrize("words", [["99"], ["x"], ["-1"], ["99999999999999999999"]])
def test_a_descriptor_that_is_none_is_refused(executor: Path, words: list[str]) -> None:
    done = subprocess.run(["hardrun-exec", *words, "true"], executable=executor, text=True,
                          capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (
        125, "hardrun: the descriptor of the image is not open\n")
