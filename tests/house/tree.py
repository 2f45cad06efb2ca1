"""The files of the project, without git: the suite also runs in a copy that has none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
_BUILT = {".git", ".venv", ".make", "build", "dist", "__pycache__", ".mypy_cache", ".ruff_cache",
          ".pytest_cache", ".hypothesis", ".cache"}


def files(*suffixes: str, below: str = "") -> Iterator[Path]:
    """Files with one of these suffixes (all without any), relative order stable."""
    for directory, names, found in os.walk(ROOT / below):
        names[:] = sorted(set(names) - _BUILT)
        if Path(directory) == ROOT / "hardrun":
            names[:] = [name for name in names if name != "data"]
        for name in sorted(found):
            if not suffixes or name.endswith(suffixes):
                yield Path(directory, name)


def relative(path: Path) -> str:
    """A path as messages show it."""
    return str(path.relative_to(ROOT))
