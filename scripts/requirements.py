"""Prints what pip is to install for .venv, from pyproject.toml: ``requirements.py [EXTRA]…``."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(extras: list[str]) -> list[str]:
    """Build requirements, dependencies and those of ``extras``, each once."""
    document = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    project = document["project"]
    names = [*document["build-system"]["requires"], *project["dependencies"]]
    for extra in extras:
        names += project["optional-dependencies"][extra]
    return list(dict.fromkeys(names))


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
