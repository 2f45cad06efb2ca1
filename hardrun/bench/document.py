"""The results of one run of the harness: series of raw samples, so that anybody can count again.

Written as JSON of its own and, for times, in the format of hyperfine's ``--export-json``, which
other tools read.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hardrun.bench import law
from hardrun.errors import BadInput

SCHEMA = "hardrun-bench/1"
SECONDS = "s"


@dataclass(frozen=True)
class Series:
    """What was measured of one contender.

    ``at`` is the count that it belongs to (containers, processes at once), None where there is
    none. ``level`` is how much isolation that is (docs/bench.md). ``failure`` is why there are no
    samples: such a series is in no ratio. ``limit`` marks an upper bound, where the kernel shows
    no more.
    """

    suite: str
    contender: str
    quantity: str
    unit: str
    samples: tuple[float, ...] = ()
    at: int | None = None
    level: str = ""
    note: str = ""
    failure: str = ""
    limit: bool = False

    @property
    def median(self) -> float:
        """In ``unit``. Raises ValueError where it failed."""
        return law.median(self.samples)


@dataclass(frozen=True)
class Peer:
    """A runtime that was looked for; ``install`` is how to get it where ``version`` is empty."""

    name: str
    version: str = ""
    install: str = ""


@dataclass(frozen=True)
class Document:
    """Everything of one run."""

    machine: dict[str, str]
    series: tuple[Series, ...]
    peers: tuple[Peer, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    schema: str = SCHEMA

    def find(self, suite: str, contender: str, quantity: str, at: int | None = None
             ) -> Series | None:
        """The series with these names that has samples."""
        for one in self.series:
            if (one.suite, one.contender, one.quantity, one.at) == (
                    suite, contender, quantity, at) and one.samples:
                return one
        return None

    def of(self, suite: str, quantity: str | None = None) -> list[Series]:
        """Every series of a suite."""
        return [one for one in self.series
                if one.suite == suite and quantity in (None, one.quantity)]


def dumps(document: Document) -> str:
    """The document as JSON, a line for each series: two of them can be compared by eye."""
    whole = asdict(document)
    series = ",\n".join(json.dumps(one) for one in whole.pop("series"))
    return f"{json.dumps(whole, indent=1)[:-2]},\n \"series\": [\n{series}\n]}}\n"


def loads(text: str, origin: str) -> Document:
    """Read what :func:`dumps` wrote, or hyperfine's format. Raises BadInput that names the file."""
    from pydantic import TypeAdapter, ValidationError

    try:
        raw = json.loads(text)
        if isinstance(raw, dict) and "results" in raw:
            return _of_hyperfine(raw)
        if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
            raise BadInput(f"{origin}: not results of this version ({SCHEMA})",
                           hint="hardrun bench --output DIR writes them as DIR/results.json")
        return TypeAdapter(Document).validate_python(raw)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise BadInput(f"{origin}: not results of a benchmark: {detail}",
                       hint="hardrun bench --output DIR writes them as DIR/results.json") from None


def load(path: str) -> Document:
    """Read a file of results. Raises BadInput."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise BadInput(f"{path}: {reason}", hint="name a results.json") from None
    return loads(text, path)


def _of_hyperfine(raw: dict[str, Any]) -> Document:
    return Document(machine={}, series=tuple(
        Series("startup", str(one["command"]), "exit", SECONDS,
               tuple(float(sample) for sample in one["times"])) for one in raw["results"]))


def hyperfine(series: Iterable[Series]) -> str:
    """Times in the format of ``hyperfine --export-json``; what failed is left out."""
    results = []
    for one in series:
        if one.unit != SECONDS or not one.samples:
            continue
        name = one.contender if one.quantity == "exit" else f"{one.contender}, {one.quantity}"
        results.append({
            "command": name if one.at is None else f"{name}, {one.at}",
            "mean": statistics.fmean(one.samples),
            "stddev": statistics.stdev(one.samples) if len(one.samples) > 1 else None,
            "median": one.median, "user": None, "system": None,
            "min": min(one.samples), "max": max(one.samples), "times": list(one.samples),
            "exit_codes": [0] * len(one.samples)})
    return json.dumps({"results": results}, indent=2) + "\n"
