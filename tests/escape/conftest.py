"""The probe, and sandboxes with it in them."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.escape import paused
from tests.escape import probe as probes
from tests.escape.canary import Canary
from tests.escape.sandbox import Sandbox

Made = Callable[..., Sandbox]
Careless = Callable[..., Path]


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that attacks, compiled once."""
    directory = tmp_path_factory.mktemp("probe")
    directory.chmod(0o755)
    return probes.build(directory)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where plans are made and sandboxes started: in ``shared``, which some of them may write."""
    directory = tmp_path_factory.mktemp("place")
    (directory / "shared").mkdir()
    before = Path.cwd()
    os.chdir(directory / "shared")
    yield directory
    os.chdir(before)


@pytest.fixture(scope="session")
def pausing(executor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An executor that stops between two operations (paused.py), built once."""
    return paused.build(executor, tmp_path_factory.mktemp("pausing"))


@pytest.fixture(scope="session")
def careless(executor: Path, tmp_path_factory: pytest.TempPathFactory) -> Careless:
    """Executors without some checks (careless.py), each built once; they can be paused, too."""
    @functools.cache
    def built(*names: str) -> Path:
        return paused.build(executor, tmp_path_factory.mktemp("careless"), names)
    return built


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    """What no sandbox may touch."""
    return Canary(tmp_path)


@pytest.fixture
def image(tmp_path: Path, probe: Path) -> Path:
    """A root file system of somebody else's, with the probe in it and a directory to mount on."""
    root = tmp_path / "image"
    for name in ("proc", "dev", "sys", "etc", "tmp", "usr", "run", "vol", "other"):
        (root / name).mkdir(parents=True)
    shutil.copy(probe, root / "probe")
    return root


@pytest.fixture
def sandbox(probe: Path, tmp_path: Path) -> Made:
    """Makes sandboxes: ``sandbox("judge", rw=[…])``."""
    def made(policy: str = "untrusted", **options: Any) -> Sandbox:
        return Sandbox(probe, tmp_path, policy, **options)
    return made
