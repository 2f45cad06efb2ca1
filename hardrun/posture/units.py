"""Sizes, durations and CPU shares as people write them. Sizes are powers of 1024."""

from __future__ import annotations

import re

from hardrun.posture.control import UNLIMITED

_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATIONS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
# [0-9], not \d: other scripts' digits would pass as numbers.
_SIZE = re.compile(r"([0-9]{1,18})([KMGT]?)(?:i?B)?", re.IGNORECASE)
_DURATION = re.compile(r"([0-9]{1,15})(ms|s|m|h)")
_CPU_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
LARGEST_CPU = 8191  # NR_CPUS of every kernel so far
ANY_CPU = -1
_CPUS = re.compile(r"([0-9]{1,6})(?:\.([0-9]{1,3}))?")


def parse_size(text: str) -> int:
    """Bytes from ``512M``, ``1G``, ``4096``; ValueError otherwise."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 512M or 1G")
    size = int(match[1]) * _SIZES[match[2].upper()]
    if size >= UNLIMITED:
        raise ValueError(f"{text!r} is too large a size")
    return size


def parse_duration(text: str) -> int:
    """Milliseconds from ``500ms``, ``10s``, ``10m``, ``1h``; ValueError otherwise."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 500ms, 10s or 5m")
    duration = int(match[1]) * _DURATIONS[match[2]]
    if duration >= UNLIMITED:
        raise ValueError(f"{text!r} is too long a duration")
    return duration


def parse_cpus(text: str) -> int:
    """Thousandths of a CPU from ``2`` or ``0.5``; ValueError otherwise."""
    match = _CPUS.fullmatch(text.strip())
    cpus = int(match[1]) * 1000 + int((match[2] or "").ljust(3, "0")) if match else 0
    if cpus == 0:
        raise ValueError(f"{text!r} is not a number of CPUs such as 2 or 0.5")
    return cpus


def parse_cpu_list(text: str) -> frozenset[int]:
    """Numbers of CPUs from ``0-3,6``, as cpuset.cpus has them; ValueError otherwise."""
    found: set[int] = set()
    for word in text.strip().split(","):
        match = _CPU_RANGE.fullmatch(word.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= LARGEST_CPU:
            raise ValueError(f"{text!r} is not a list of CPUs such as 0-3,6")
        found.update(range(first, last + 1))
    return frozenset(found)


def show_cpu_list(cpus: frozenset[int]) -> str:
    """``0-3,6``; empty for none."""
    words: list[str] = []
    for cpu in sorted(cpus):
        if cpu - 1 not in cpus:
            words.append(str(cpu))
        elif cpu + 1 not in cpus:
            words[-1] += f"-{cpu}"
    return ",".join(words)


def parse_count(text: str) -> int:
    """A whole number; ValueError otherwise."""
    if re.fullmatch(r"[0-9]{1,18}", text.strip()) is None:
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _unit(value: int, units: list[tuple[int, str]], space: str) -> str:
    for factor, name in units:
        if value >= factor and value % factor == 0:
            return f"{value // factor}{space}{name}"
    return f"{value}{space}{units[-1][1]}"


def show_size(value: int) -> str:
    """``1 GiB``, ``1536 MiB``, ``17 B``."""
    names = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")]
    return _unit(value, names, " ")


def spell_size(value: int) -> str:
    """``1G``, ``1536M``, ``17``: what a flag or a policy takes."""
    return _unit(value, [(_SIZES[n], n) for n in ("T", "G", "M", "K", "")], "")


def show_duration(value: int) -> str:
    """``10 min``, ``90 s``, ``250 ms``."""
    return _unit(value, [(3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms")], " ")


def spell_duration(value: int) -> str:
    """``10m``, ``90s``, ``250ms``: what a flag or a policy takes."""
    return _unit(value, [(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")], "")


def show_cpus(value: int) -> str:
    """``2``, ``0.5``."""
    whole, rest = divmod(value, 1000)
    return f"{whole}.{rest:03}".rstrip("0") if rest else str(whole)
