"""``python -m hardrun.kernel.seccomp.prebuild OUTDIR``: build the shipped profiles' filters ahead.

For no capabilities, a current kernel, and every architecture that wheels are made for.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hardrun.errors import BadInput
from hardrun.kernel.seccomp import prebuilt
from hardrun.kernel.seccomp.compile import build
from hardrun.kernel.seccomp.profile import load

ARCHITECTURES = ("x86_64", "aarch64")
# Meets every minKernel condition of the shipped profiles, as does any kernel hardrun runs on.
KERNEL = "6.18"


def write(directory: Path) -> int:
    """Write every filter into an existing directory; returns how many."""
    files = sorted(prebuilt.shipped_directory().glob("*.json"))
    for file in files:
        for architecture in ARCHITECTURES:
            program = build(
                [load(file)],
                architecture=architecture,
                capabilities=frozenset(),
                kernel_release=KERNEL,
            )
            name = prebuilt.key(
                [file.read_bytes()],
                architecture=architecture,
                capabilities=frozenset(),
                kernel_release=KERNEL,
            )
            (directory / f"{name}.bpf").write_bytes(program)
    return len(files) * len(ARCHITECTURES)


def main(arguments: list[str]) -> None:
    """The command line: one existing directory."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        raise BadInput("prebuild: give one directory that exists")
    write(Path(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
