"""Doctor's memory: what it may keep it keeps, and who has repaired something hears no more of it.

Each scene's fault is told twice, repaired, and asked for a third time, with one cache and without
--fresh. Whether an answer came from memory shows in the file that it would have been written to.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hardrun.host import remembered
from tests.fake_kernel import FakeKernel
from tests.sandbox.hosts import HARDRUN, UNSHARE_ROOT, Host
from tests.sandbox.scenes import SCENES

# A namespace of the test's own for each doctor would be another host each time: one for all three.
ASK = f"{HARDRUN} doctor --json > $1; ls -i $HOME/.cache/hardrun/hosts > $1.files 2>/dev/null || :"
REPAIRED = [name for name, scene in SCENES.items() if scene.repair]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "home")


def _answers(host: Host, *names: str) -> list[tuple[dict[str, Any], str]]:
    """What doctor said each time, and the files that it remembered it in."""
    return [(json.loads((host.directory / name).read_text()),
             (host.directory / f"{name}.files").read_text()) for name in names]


def _causes(document: dict[str, Any]) -> set[str]:
    """Every cause told, but for those about cgroups, which are asked anew in any case."""
    return {fact["cause"] for name, fact in document.items() if isinstance(fact, dict)
            and fact.get("cause") and name not in ("cgroup", "cgroup_delegation")}


@pytest.mark.parametrize("name", REPAIRED)
def test_what_was_repaired_is_never_told_from_memory(host: Host, name: str) -> None:
    scene = SCENES[name]
    script = ["ask() {", ASK, "}", scene.before, scene.change, "ask first", "ask second",
              scene.repair, "ask third", ":"]
    assert host("\n".join(script), *scene.around).status == 0
    first, second, third = _answers(host, "first", "second", "third")
    assert first[0] == second[0]
    assert first[0][scene.fact]["cause"] == scene.cause
    assert third[0][scene.fact]["cause"] != scene.cause
    assert bool(first[1]) == (_causes(first[0]) <= remembered.SHOWN)
    assert second[1] == first[1]  # read, and not written anew


def test_most_of_what_can_be_repaired_here_is_remembered() -> None:
    assert {SCENES[name].cause for name in REPAIRED} & remembered.SHOWN >= {
        "max-user-namespaces", "proc-read-only", "proc-covered", "no-newuidmap",
        "newuidmap-unprivileged", "newuidmap-nosuid", "newuidmap-insecure", "no-subordinate-ids",
        "no-overlay"}


def test_this_host_is_remembered_and_its_cgroups_are_asked_anew(host: Host) -> None:
    script = ["ask() {", ASK, "}", "ask first", "ask second"]
    host("\n".join(script))
    (first, files), (second, same) = _answers(host, "first", "second")
    if not files and _causes(first) <= remembered.SHOWN:
        pytest.skip("a filter or profile around the tests: doctor remembers nothing below one")
    assert (first, files) == (second, same)
    assert bool(files) == (_causes(first) <= remembered.SHOWN)


def test_a_cgroup_that_changed_since_is_told_as_it_is(host: Host) -> None:
    scene = SCENES["read-only cgroups"]
    script = ["ask() {", ASK, "}", "ask first", scene.change, "ask second", scene.repair,
              "ask third", ":"]
    host("\n".join(script), *UNSHARE_ROOT)
    first, second, third = _answers(host, "first", "second", "third")
    assert second[0]["cgroup"]["cause"] == "cgroup-read-only"
    assert third[0]["cgroup"] == first[0]["cgroup"]
    assert first[1] == second[1] == third[1] != ""  # one memory for all three


def test_below_a_filter_nothing_is_remembered(host: Host) -> None:
    """Its content can't be read: the next container's would be taken for this one's."""
    kernel = FakeKernel(errors={"bdflush": 38})
    assert host(f"exec {HARDRUN} doctor --json", kernel=kernel).stdout
    assert not (host.home / ".cache/hardrun/hosts").exists()


@pytest.mark.parametrize("home", [None, "", "relative", "/nonexistent"])
def test_doctor_needs_neither_a_home_nor_a_working_directory(host: Host, home: str | None) -> None:
    found = host(f'mkdir gone; cd gone; rmdir "$PWD"; exec {HARDRUN} doctor --json',
                 environment={"HOME": home})
    assert json.loads(found.stdout)["uid"] == os.getuid(), found


def test_fresh_asks_anew_whatever_is_remembered(host: Host) -> None:
    host(f"{HARDRUN} doctor")
    directory = host.home / ".cache/hardrun/hosts"
    if not directory.exists():
        pytest.skip("a filter or profile around the tests: doctor remembers nothing below one")
    before = {entry.inode() for entry in os.scandir(directory)}
    host(f"{HARDRUN} doctor")
    assert {entry.inode() for entry in os.scandir(directory)} == before
    host(f"{HARDRUN} doctor --fresh")
    assert {entry.inode() for entry in os.scandir(directory)} != before
