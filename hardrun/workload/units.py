"""Sizes, durations, CPU shares and ids as people write them.

Strict on purpose: a limit that is misread is a limit that is not there.
"""

from __future__ import annotations

import re

from hardrun.errors import BadInput

_SIZE = re.compile(r"([0-9]{1,19})(?:([KMGT])(?:iB)?)?", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,15})(ms|s|m|h)", re.ASCII)
_CPUS = re.compile(r"([0-9]{1,6})(?:\.([0-9]{1,3}))?", re.ASCII)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_SIZE_UNITS = {None: 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATION_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
LARGEST = 2**63 - 2
"""The largest limit that can be asked for; one more means unlimited."""
LARGEST_ID = 2**32 - 2
"""The largest uid and gid; (uid_t)-1 means "no change" to setresuid(2)."""


def _in_range(number: int, text: str, flag: str) -> int:
    if not 0 < number <= LARGEST:
        raise BadInput(f"{flag} {text}: out of range", hint=f"1 to {LARGEST}")
    return number


def parse_size(text: str, flag: str) -> int:
    """Bytes from ``512``, ``64K``, ``1G`` or ``1GiB``; units are powers of 1024."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise BadInput(f"{flag} {text}: not a size", hint="a number with K, M, G or T: 512M")
    return _in_range(int(match[1]) * _SIZE_UNITS[match[2]], text, flag)


def parse_duration(text: str, flag: str) -> int:
    """Milliseconds from ``500ms``, ``10s``, ``10m`` or ``1h``."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise BadInput(f"{flag} {text}: not a duration", hint="a number with ms, s, m or h: 10s")
    return _in_range(int(match[1]) * _DURATION_UNITS[match[2]], text, flag)


def parse_cpus(text: str, flag: str) -> int:
    """Thousandths of a CPU from ``2`` or ``0.5``."""
    match = _CPUS.fullmatch(text)
    if match is None:
        raise BadInput(f"{flag} {text}: not a number of CPUs", hint="such as 2 or 0.5")
    return _in_range(int(match[1]) * 1000 + int((match[2] or "0").ljust(3, "0")), text, flag)


def parse_count(text: str, flag: str) -> int:
    """A positive number."""
    if not _NUMBER.fullmatch(text):
        raise BadInput(f"{flag} {text}: not a number", hint="decimal digits only")
    return _in_range(int(text), text, flag)


def parse_user(text: str, flag: str = "--user") -> tuple[int, int]:
    """``UID[:GID]`` as (uid, gid); a missing gid is the same number.

    Nothing is looked up and nothing is guessed: a lenient parser once took ``1`` for root
    (CVE-2026-30892). Raises BadInput for signs, hexadecimal, spaces, leading zeros and (uid_t)-1.
    """
    words = text.split(":")
    if len(words) > 2 or not all(_NUMBER.fullmatch(w) and int(w) <= LARGEST_ID for w in words):
        raise BadInput(f"{flag} {text}: not UID or UID:GID",
                       hint=f"decimal numbers from 0 to {LARGEST_ID}, such as 1000:1000")
    return int(words[0]), int(words[-1])
