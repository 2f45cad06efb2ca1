"""The filter of a run: one that was built ahead, or one built now.

A filter built ahead is found by a key over everything that it depends on: the profiles' bytes, the
architecture, those capabilities and kernel versions that the profiles mention, the system call
table and this package's own code. Finding one reads files and hashes them; the profile is not
parsed, and neither pydantic nor libseccomp is loaded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from hardrun.data import data_directory
from hardrun.errors import BadInput

_PACKAGE = Path(__file__).parent
# What a filter depends on besides its profiles; one by an older compiler is not found.
_SOURCES = ("actions.py", "assemble.py", "compile.py", "decision.py", "located.py", "profile.py",
            "rules.py", "syscalls.tbl", "tables.py", "widths.py")  # fmt: skip

_CAPABILITY = re.compile(rb"CAP_[A-Z0-9_]+")
_MINIMUM_KERNEL = re.compile(rb'"minKernel"\s*:\s*"(\d+)\.(\d+)"')
_MAXIMUM_SIZE = 8 * 4096
_SPEC_ALLOW = 4


class Filter(NamedTuple):
    """What seccomp(2) takes: struct sock_filter array, and SECCOMP_FILTER_FLAG_* bits."""

    program: bytes
    flags: int = 0


def filter_for(
    references: Iterable[str],
    *,
    architecture: str,
    capabilities: frozenset[str],
    kernel_release: str,
) -> Filter:
    """The filter for profiles given by reference (see ``find``), built ahead or built now.

    A flag holds when one profile sets it; SPEC_ALLOW, which loosens, only when all do. Profiles
    that are built ahead set none. Raises what ``profile.load`` and ``compile.build`` raise.
    """
    files = [find(reference) for reference in sorted(references)]
    ready = lookup(
        files, architecture=architecture, capabilities=capabilities, kernel_release=kernel_release
    )
    if ready is not None:
        return Filter(ready)
    from hardrun.kernel.seccomp.compile import build
    from hardrun.kernel.seccomp.profile import load

    profiles = [load(file) for file in files]
    program = build(
        profiles,
        architecture=architecture,
        capabilities=capabilities,
        kernel_release=kernel_release,
    )
    flags = 0
    for profile in profiles:
        flags |= profile.flags
    if not all(profile.flags & _SPEC_ALLOW for profile in profiles):
        flags &= ~_SPEC_ALLOW
    return Filter(program, flags)


def find(reference: str) -> Path:
    """The file of a profile: an absolute path, or the name of one that ships."""
    if reference.startswith("/"):
        return Path(reference)
    path = shipped_directory() / f"{reference}.json"
    if "/" in reference or not path.is_file():
        names = ", ".join(sorted(file.stem for file in shipped_directory().glob("*.json")))
        raise BadInput(
            f"no seccomp profile is called {reference!r}",
            hint=f"an absolute path, or one of: {names}",
        )
    return path


def shipped_directory() -> Path:
    """Where the profiles that ship lie."""
    return data_directory("profiles") / "seccomp"


def lookup(
    files: Sequence[Path],
    *,
    architecture: str,
    capabilities: frozenset[str],
    kernel_release: str,
    directory: Path | None = None,
) -> bytes | None:
    """A program built ahead for exactly this, or None."""
    where = directory or data_directory("filters")
    try:
        contents = [file.read_bytes() for file in files]
        name = key(
            contents,
            architecture=architecture,
            capabilities=capabilities,
            kernel_release=kernel_release,
        )
        program = (where / f"{name}.bpf").read_bytes()
    except OSError:
        return None
    return program if program and len(program) % 8 == 0 and len(program) <= _MAXIMUM_SIZE else None


def key(
    contents: Sequence[bytes],
    *,
    architecture: str,
    capabilities: frozenset[str],
    kernel_release: str,
) -> str:
    """The name of the filter for profiles of these contents, whatever their order."""
    mentioned = {match.decode() for text in contents for match in _CAPABILITY.findall(text)}
    kernel = _version(kernel_release)
    reached = sorted(
        (int(major), int(minor), kernel >= (int(major), int(minor)))
        for text in contents
        for major, minor in _MINIMUM_KERNEL.findall(text)
    )
    digest = hashlib.sha256(
        repr((architecture, sorted(mentioned & capabilities), reached)).encode()
    )
    for part in (*((_PACKAGE / source).read_bytes() for source in _SOURCES), *sorted(contents)):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:40]


def _version(release: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)
