"""Capabilities: their names, their numbers, and the masks that /proc shows.

Names and numbers are those of linux/capability.h as of Linux 6.18; none was added since 5.9. A
kernel with newer ones shows bits without a name, which ``names_of`` reports as ``CAP_41`` and so on
rather than passing over them: a right that nobody can name is still a right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

NUMBERS: Mapping[str, int] = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_LINUX_IMMUTABLE": 9,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_BROADCAST": 11,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_IPC_LOCK": 14,
    "CAP_IPC_OWNER": 15,
    "CAP_SYS_MODULE": 16,
    "CAP_SYS_RAWIO": 17,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_PACCT": 20,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_BOOT": 22,
    "CAP_SYS_NICE": 23,
    "CAP_SYS_RESOURCE": 24,
    "CAP_SYS_TIME": 25,
    "CAP_SYS_TTY_CONFIG": 26,
    "CAP_MKNOD": 27,
    "CAP_LEASE": 28,
    "CAP_AUDIT_WRITE": 29,
    "CAP_AUDIT_CONTROL": 30,
    "CAP_SETFCAP": 31,
    "CAP_MAC_OVERRIDE": 32,
    "CAP_MAC_ADMIN": 33,
    "CAP_SYSLOG": 34,
    "CAP_WAKE_ALARM": 35,
    "CAP_BLOCK_SUSPEND": 36,
    "CAP_AUDIT_READ": 37,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
    "CAP_CHECKPOINT_RESTORE": 40,
}
ALL: frozenset[str] = frozenset(NUMBERS)
LAST = 40
"""The highest number with a name here; the running kernel's is ``last_capability()``."""

_NAMES: Mapping[int, str] = {number: name for name, number in NUMBERS.items()}


def mask_of(names: Iterable[str]) -> int:
    """The bit mask of capability names. Raises ValueError for a name that does not exist."""
    mask = 0
    for name in names:
        number = NUMBERS.get(name)
        if number is None:
            raise ValueError(f"no such capability: {name}")
        mask |= 1 << number
    return mask


def names_of(mask: int) -> frozenset[str]:
    """The names of the capabilities in a mask; a bit without a name becomes ``CAP_<number>``."""
    if mask < 0:
        raise ValueError(f"a capability mask is not negative: {mask}")
    held = (number for number in range(mask.bit_length()) if mask >> number & 1)
    return frozenset(_NAMES.get(number, f"CAP_{number}") for number in held)


def parse_mask(text: str) -> int:
    """A mask as /proc/PID/status shows it (hexadecimal digits). Raises ValueError otherwise."""
    if not text or not all(c in "0123456789abcdefABCDEF" for c in text):
        raise ValueError(f"not a capability mask: {text!r}")
    return int(text, 16)


def last_capability() -> int:
    """The highest capability that this kernel knows (/proc/sys/kernel/cap_last_cap)."""
    try:
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):  # no /proc: what every kernel from 5.9 on has
        return LAST
