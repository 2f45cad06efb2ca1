"""The table of properties: read, checked, and printed with what came of their tests.

    python -m tests.escape.properties DIRECTORY [PAGE]   the table, from the outcomes of all places
    python -m tests.escape.properties --tests            the files of all tests, for pytest
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter
from ruamel.yaml import YAML

from tests.escape.registry import ATTACKS
from tests.vm import outcomes

FILE = Path(__file__).parent / "properties.yaml"
TABLE_TESTS = "tests/escape/test_attacks.py"
CONTROL = f"{TABLE_TESTS}::test_it_works_without_the_defences"


class Property(BaseModel):
    """One entry of properties.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    severity: Literal["S1", "S2", "S3"]
    title: str
    source: str
    tests: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    gate: str = ""
    pending: str = ""
    control: str = ""
    given_up: Mapping[str, str] = {}

    @property
    def attacks(self) -> tuple[str, ...]:
        """The names of the attacks of this property."""
        return tuple(a.id for a in ATTACKS if a.property == self.id)

    @property
    def defences(self) -> tuple[str, ...]:
        """What holds it: the layers of its attacks, and those that are named."""
        names = [layer for a in ATTACKS if a.property == self.id for layer in a.layers]
        return tuple(dict.fromkeys([*self.layers, *names]))

    def is_shown_by(self, test: str) -> bool:
        """Whether a test id is one of this property's."""
        if test.startswith(f"{TABLE_TESTS}::"):
            return "attacks" in self.tests and f"[{self.id} " in test
        return any(test.startswith(prefix) for prefix in self.tests if prefix != "attacks")


class Row(NamedTuple):
    """A property and what became of it."""

    property: Property
    result: str
    control: str


def read() -> tuple[Property, ...]:
    """All properties, in order. Raises pydantic.ValidationError for one that is malformed."""
    document = YAML(typ="safe").load(FILE.read_text(encoding="utf-8"))
    return TypeAdapter(tuple[Property, ...]).validate_python(document)


def judge(found: Property, places: Mapping[str, Mapping[str, tuple[str, ...]]]) -> Row:
    """What the tests of a property came to, over all places where the suite ran."""
    if found.pending:
        return Row(found, "pending", found.pending)
    words = {(test, outcome[0]) for tests in places.values() for test, outcome in tests.items()
             if found.is_shown_by(test)}
    ran = {test for test, outcome in words if outcome != outcomes.SKIPPED}
    failed = sum(outcome == outcomes.FAILED for _, outcome in words)
    result = f"{failed} FAILED" if failed else f"holds ({len(ran)})" if ran else "not run"
    return Row(found, result, _control(found, {test for test, outcome in words
                                               if outcome == outcomes.PASSED}))


def _control(found: Property, passed: Iterable[str]) -> str:
    if found.control:
        return found.control
    inconclusive = [a for a in ATTACKS if a.property == found.id and a.inconclusive]
    shown = sum(test.startswith(CONTROL) for test in passed)
    words = [f"{shown} succeed without"] if shown else []
    words += [f"{len(inconclusive)} inconclusive: {inconclusive[0].inconclusive}"
              ] if inconclusive else []
    return "; ".join(words) or "in the test"


def lines_of(rows: Iterable[Row]) -> list[str]:
    """The table as Markdown."""
    lines = ["| property | | what has to hold | held by | result | negative control |",
             "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        found = row.property
        given = "".join(f"; {policy} gives it up: {why}" for policy, why in found.given_up.items())
        elsewhere = f"; {found.gate}" if found.gate else ""
        cells = (found.id, found.severity, found.title + given, ", ".join(found.defences),
                 row.result + elsewhere, row.control)
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return lines


def main(arguments: list[str]) -> int:
    """Print the table; 1 where a property does not hold or was not tried."""
    known = read()
    if arguments == ["--tests"]:
        tests = {t for p in known for t in p.tests if t != "attacks"}
        print("\n".join(sorted({TABLE_TESTS, *(t.split("::")[0] for t in tests)})))
        return 0
    places = outcomes.read(Path(arguments[0]))
    rows = [judge(found, {place: {test: tuple(o) for test, o in tests.items()}
                          for place, tests in places.items()}) for found in known]
    table = lines_of(rows)
    print("\n".join(table))
    missing = [row.property.id for row in rows
               if not row.result.startswith(("holds", "pending"))]
    held = sum(row.result.startswith("holds") for row in rows)
    pending = sum(row.result == "pending" for row in rows)
    counts = f"{len(rows)} properties: {held} hold, {pending} pending, {len(missing)} neither"
    print(f"\n{counts}" + (f": {', '.join(missing)}" if missing else ""))
    if arguments[1:]:
        write(Path(arguments[1]), "properties", [*table, "", f"{counts}."])
    return 1 if missing else 0


def write(page: Path, what: str, lines: list[str]) -> None:
    """Put what was measured between its marks on a page."""
    begin, end = f"<!-- measured: {what} -->\n", "<!-- end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin, 1)
    after = rest[rest.index(end):]
    page.write_text(before + begin + "\n".join(lines) + "\n" + after, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
