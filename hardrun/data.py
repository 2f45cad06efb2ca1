"""Where the files that ship with hardrun lie: in the wheel, or in the source tree."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_directory(kind: str) -> Path:
    """The directory of one kind of data.

    ``policies`` (YAML), ``profiles`` (``seccomp/``, ``apparmor/``, ``selinux/``), ``filters``
    (seccomp programs built ahead) and ``compiled`` (policies parsed ahead). The last two are
    written by ``make`` and by the wheel's build and may be absent: whoever reads them must be
    able to make them anew.

    A wheel has everything under ``hardrun/data/``. In a source tree policies/ and profiles/ are
    beside the package, readable as documentation.
    """
    packaged = _PACKAGE / "data" / kind
    beside = _PACKAGE.parent / kind
    return beside if not packaged.is_dir() and beside.is_dir() else packaged
