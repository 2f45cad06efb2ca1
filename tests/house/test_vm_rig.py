"""The rig of virtual machines itself, without booting one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.tree import ROOT
from tests.vm import outcomes, recipe
from tests.vm.__main__ import marked_files
from tests.vm.image import KEPT, find_or_build
from tests.vm.machines import MACHINES
from tests.vm.recipe import RigError

RAN, IDLE = ["passed", ""], ["skipped", "no such thing here"]


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    return Path(shutil.copytree(recipe.HERE, tmp_path / "vm"))


@pytest.mark.parametrize("name", ["recipe.py", "inside/provision", "inside/assemble"])
def test_an_image_is_another_when_what_makes_it_changes(scripts: Path, name: str) -> None:
    assert recipe.manifest(scripts) == recipe.manifest()
    with (scripts / name).open("a") as script:
        script.write("# changed\n")
    assert recipe.manifest(scripts) != recipe.manifest()


def test_an_image_is_the_same_when_only_tests_or_the_boot_change(scripts: Path) -> None:
    for name in ("inside/boot", "qemu.py", "machines.py"):
        (scripts / name).write_text("")
    assert recipe.manifest(scripts) == recipe.manifest()


def test_the_image_has_hardruns_dependencies_but_not_hardrun() -> None:
    names = [line.split("~")[0].split(">")[0] for line in recipe.requirements()]
    assert {"pydantic", "click", "pytest"} <= set(names)
    assert not {"hardrun", "ruff", "mypy"} & set(names)


def test_an_image_that_can_not_be_built_is_one_line_and_leaves_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(recipe, "PACKAGES", ())
    monkeypatch.setattr("tests.vm.image.environment", lambda: {"PATH": str(tmp_path)})
    with pytest.raises(RigError, match=r"missing mmdebstrap mke2fs"):
        find_or_build()
    assert not [path for path in (tmp_path / "hardrun-vm").iterdir() if path.is_dir()]


def test_images_that_nobody_uses_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "hardrun-vm"
    for number in range(KEPT + 2):
        (cache / f"{number:016x}").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("tests.vm.image.fill", lambda new: (new / "root.img").touch())
    monkeypatch.setattr("tests.vm.image.environment", lambda: recipe.environment())
    monkeypatch.setattr("shutil.which", lambda name, path=None: f"/usr/bin/{name}")
    found = find_or_build()
    assert found.root.exists()
    assert len([path for path in cache.iterdir() if path.is_dir()]) == KEPT


def test_a_test_that_ran_anywhere_is_not_idle() -> None:
    places = {"user": {"a.py::test_x": IDLE, "a.py::test_y": RAN, "b.py": IDLE},
              "apparmor": {"a.py::test_x": RAN, "b.py::test_z": RAN}}
    assert outcomes.skipped_everywhere(places) == {}


def test_a_test_that_is_skipped_in_every_place_is_found_with_its_reasons() -> None:
    places = {"user": {"a.py::test_x": IDLE}, "bare": {"a.py::test_x": IDLE, "a.py::test_y": RAN}}
    assert outcomes.skipped_everywhere(places) == {
        "a.py::test_x": {"user": IDLE[1], "bare": IDLE[1]}}


def test_outcomes_are_written_where_the_environment_says(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from tests.vm.outcomes import recorder\n"
        "def pytest_configure(config): config.pluginmanager.register(recorder())\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert not 1\n"
        "def test_idle(): pytest.skip('not here')\n")
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
                   cwd=tmp_path, check=False, capture_output=True,
                   env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT),
                        outcomes.VARIABLE: str(tmp_path / "out.json")})
    (tmp_path / "outcomes").mkdir()
    shutil.copy(tmp_path / "out.json", tmp_path / "outcomes" / "user.json")
    assert outcomes.read(tmp_path / "outcomes") == {"user": {
        "test_it.py::test_good": ["passed", ""], "test_it.py::test_bad": ["failed", "assert not 1"],
        "test_it.py::test_idle": ["skipped", "not here"]}}


def test_every_mark_names_machines_that_there_are() -> None:
    """A misspelled machine would leave its test out everywhere, silently."""
    marks = [mark for name in marked_files()
             for mark in re.findall(r"mark\.vm\((.*?)\)", (ROOT / name).read_text())]
    named = {name for mark in marks for name in re.findall(r'"(\w+)"', mark)}
    assert named == set(MACHINES)


def test_a_machine_that_is_not_there_is_one_line() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.vm", "amiga"], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no machine amiga: there are apparmor, selinux, bare" in done.stderr
