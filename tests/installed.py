"""The program as it is installed: the native front-end, with the command line beside it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HARDRUN = str(Path(sys.executable).parent / "hardrun")


def without_python(directory: Path, instead: str = "") -> str:
    """A copy of the front-end in a new directory: without its other half, or with a shell script.

    What it starts it has started from a stored plan.
    """
    directory.mkdir()
    if instead:
        script = directory / "hardrun-cli"
        script.write_text(f"#!/bin/sh\n{instead}\n")
        script.chmod(0o755)
    return str(shutil.copy2(HARDRUN, directory / "hardrun"))
