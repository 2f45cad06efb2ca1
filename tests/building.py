"""Builds of the executor for tests, in a copy of its sources: the tree stays as it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def copy_sources(executor: Path, directory: Path) -> Path:
    """Copy what the executor of this tree is built from; answers where its C files are."""
    room = directory / "hardrun"
    shutil.copytree(executor.parent, room / "executor",
                    ignore=shutil.ignore_patterns("hardrun-exec*"))
    shutil.copytree(executor.parent.parent / "plan", room / "plan")
    return room / "executor"


def make(sources: Path, target: str, *variables: str) -> Path:
    """Make a target of such a copy; the plan's operations are those of the tree's own executor."""
    subprocess.run(["make", "-s", "-C", str(sources), "-o", "operations.h", *variables,
                    f"PYTHON={sys.executable}", target], check=True, capture_output=True)
    return sources / target
