"""Limits and ids as people write them in flags.

Strict on purpose: a limit that is misread is a limit that is not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from hardrun.errors import BadInput
from hardrun.posture import units

T = TypeVar("T")

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
LARGEST_ID = 2**32 - 2
"""The largest uid and gid; (uid_t)-1 means "no change" to setresuid(2)."""


def _flag(parse: Callable[[str], T], example: str, *, may_be_none: bool = False
          ) -> Callable[[str, str], T]:
    def parse_flag(text: str, flag: str) -> T:
        try:
            value = parse(text)
        except ValueError as error:
            raise BadInput(f"{flag}: {error}", hint=f"such as {flag} {example}") from None
        if value == 0 and not may_be_none:
            raise BadInput(f"{flag} {text}: nothing runs with none at all",
                           hint=f"such as {flag} {example}")
        return value

    return parse_flag


parse_size = _flag(units.parse_size, "512M")
parse_duration = _flag(units.parse_duration, "10s")
parse_cpus = _flag(units.parse_cpus, "0.5")
parse_count = _flag(units.parse_count, "64")
parse_swap = _flag(units.parse_size, "512M", may_be_none=True)
parse_cpu_list = _flag(units.parse_cpu_list, "0-3,6")


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
