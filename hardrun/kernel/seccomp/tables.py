"""System call numbers, by ABI.

The numbers are our own data (``syscalls.tbl``) because libseccomp's end with the kernel it was
released for: a name it does not know would silently be missing from a filter. Tests compare the
table with the kernel's headers and with libseccomp where those are installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hardrun.errors import BadInput

TABLE = Path(__file__).with_name("syscalls.tbl")

# x86_64 kernels take the x32 ABI's calls under the same AUDIT_ARCH with this bit set.
X32_SYSCALL_BIT = 0x40000000
# seccomp(2): a tracer that skips a call leaves -1 in the number; it is no ABI's call.
SKIPPED = 0xFFFFFFFF


class Abi(NamedTuple):
    """How programs of one kind call the kernel. ``audit`` is AUDIT_ARCH_* of <linux/audit.h>."""

    name: str
    audit: int
    bits: int
    big_endian: bool = False

    @property
    def argument_mask(self) -> int:
        """The bits that an argument register has."""
        return (1 << self.bits) - 1


ABIS: Mapping[str, Abi] = {
    abi.name: abi
    for abi in (
        Abi("x86_64", 0xC000003E, 64),
        Abi("i386", 0x40000003, 32),
        Abi("aarch64", 0xC00000B7, 64),
        Abi("arm", 0x40000028, 32),
        Abi("riscv64", 0xC00000F3, 64),
        Abi("s390x", 0x80000016, 64, big_endian=True),
        Abi("ppc64le", 0xC0000015, 64),
    )
}

# The ABIs that a kernel of an architecture serves besides its own.
COMPATIBLE: Mapping[str, tuple[str, ...]] = {"x86_64": ("i386",), "aarch64": ("arm",)}

_MACHINES = {"i486": "i386", "i586": "i386", "i686": "i386", "armv6l": "arm", "armv7l": "arm",
             "armv8l": "arm", "arm64": "aarch64", "amd64": "x86_64"}  # fmt: skip


def architecture_of(machine: str) -> str:
    """The architecture's name here of what uname(2) calls ``machine``; BadInput if unknown."""
    name = _MACHINES.get(machine, machine)
    if name not in ABIS:
        raise BadInput(
            f"seccomp: no system call table for architecture {machine!r}",
            hint=f"known: {', '.join(ABIS)}",
        )
    return name


@cache
def _table() -> tuple[Mapping[str, Mapping[str, int]], frozenset[str]]:
    lines = [
        line.split()
        for line in TABLE.read_text(encoding="ascii").splitlines()
        if not line.startswith("#")
    ]
    _, *abis = lines[0]
    numbers: dict[str, dict[str, int]] = {abi: {} for abi in abis}
    for name, *columns in lines[1:]:
        for abi, number in zip(abis, columns, strict=True):
            if number != "-":
                numbers[abi][name] = int(number)
    return numbers, frozenset(name for name, *_ in lines[1:])


def numbers(abi: str) -> Mapping[str, int]:
    """Name to number, for one ABI."""
    return _table()[0][abi]


@cache
def names(abi: str) -> Mapping[int, tuple[str, ...]]:
    """Number to its names (arm has two names for one number), for one ABI."""
    found: dict[int, tuple[str, ...]] = {}
    for name, number in numbers(abi).items():
        found[number] = found.get(number, ()) + (name,)
    return found


def known_names() -> frozenset[str]:
    """Every name that some Linux architecture has, also those without a table here."""
    return _table()[1]
