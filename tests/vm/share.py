"""The disk that goes in with a run and comes back: wheel under test, tests, job, results."""

from __future__ import annotations

import compileall
import py_compile
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.vm.machines import Machine
from tests.vm.recipe import HERE, PYTHON, TREE, RigError, environment

SIZE = "512M"
TREE_FILES = ("pyproject.toml", "README.md", "profiles", "policies")  # beside tests/


@dataclass(frozen=True)
class Job:
    """What is to be done in a machine: a shell script, by whom, with which limits."""

    script: str
    root: bool = False
    seconds: float = 600


def unpacked_wheel(directory: Path) -> Path:
    """Build the wheel of this tree, unpack it as pip would; gives the directory.

    :raises RigError: it could not be built.
    """
    wheels, site = directory / "wheels", directory / "site"
    done = subprocess.run([sys.executable, "-m", "hatchling", "build", "--target", "wheel",
                           "--directory", str(wheels)],
                          cwd=TREE, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RigError(f"building the wheel failed:\n{done.stdout}{done.stderr}")
    found, = wheels.glob("*.whl")
    with zipfile.ZipFile(found) as archive:
        for member in archive.infolist():
            path = Path(archive.extract(member, site))
            path.chmod(0o755 if member.external_attr >> 16 & 0o100 else 0o644)
    if f"{sys.version_info.major}.{sys.version_info.minor}" == PYTHON:
        compileall.compile_dir(site, quiet=2, stripdir=str(site),
                               prependdir=f"/opt/venv/lib/python{PYTHON}/site-packages",
                               invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    return site


def make(directory: Path, site: Path, machine: Machine, job: Job) -> Path:
    """The share of one boot, as an ext4 image; needs neither root nor a loop device."""
    share, image = directory / "share", directory / "share.img"
    rig, tree = share / "rig", share / "tree"
    for path in (rig, tree, share / "out"):
        path.mkdir(parents=True)
    shutil.copytree(site, share / "site")
    (share / "wheels").mkdir()
    for wheel in (site.parent / "wheels").glob("*.whl"):
        shutil.copy2(wheel, share / "wheels")
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(TREE / "tests", tree / "tests", ignore=ignored)
    for name in TREE_FILES:
        source = TREE / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignored)
        else:
            shutil.copy2(source, tree / name)
    shutil.copy2(HERE / "inside" / "boot", rig / "boot")
    settings = {"AS": "root" if job.root else "tester", "PREPARE": machine.prepare or ":"}
    (rig / "settings").write_text("".join(f"{k}={shlex.quote(v)}\n" for k, v in settings.items()))
    (rig / "job").write_text(f"export HARDRUN_VM={machine.name}\n{job.script}\n")
    if next(site.glob("hardrun/**/*.pyc"), None):
        (rig / "compiled").touch()
    subprocess.run(["mke2fs", "-qq", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d",
                    str(share), str(image), SIZE],
                   check=True, stdout=subprocess.DEVNULL, env=environment())
    shutil.rmtree(share)
    return image


def results(image: Path, directory: Path) -> Path:
    """What the guest left in ``/share/out``: ``status`` if the job ended, what the job wrote."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["debugfs", "-R", f"rdump /out {directory}", str(image)], check=True,
                   capture_output=True, env=environment())
    return directory / "out"
