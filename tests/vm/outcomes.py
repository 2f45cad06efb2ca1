"""What became of each test in each place, and that none is skipped in all of them.

A place is a run of the suite: the ordinary user's on the host, root's, each machine. It writes a
JSON file if the environment names one; ``python -m tests.vm.outcomes DIRECTORY`` reads them all.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

VARIABLE = "HARDRUN_OUTCOMES"
PASSED, SKIPPED, FAILED = "passed", "skipped", "failed"
REASON_SIZE = 600  # characters


class Recorder:
    """A pytest plugin that writes ``{test id: [outcome, reason]}``, the reason a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test passes by its call, may be skipped in its set-up, and fails anywhere."""
        if report.failed:
            self.found[report.nodeid] = (FAILED, _reason(report))
        elif report.skipped and not hasattr(report, "wasxfail"):
            self.found[report.nodeid] = (SKIPPED, _reason(report))
        elif report.when == "call":
            self.found.setdefault(report.nodeid, (PASSED, ""))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that skips itself as a whole."""
        if report.skipped:
            self.found[report.nodeid] = (SKIPPED, _reason(report))

    def pytest_sessionfinish(self) -> None:
        """Write it down."""
        self.path.write_text(json.dumps(self.found, indent=0, sort_keys=True))


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else \
        crash.message if crash else str(report.longrepr)
    return " ".join(text.removeprefix("Skipped: ").split())[:REASON_SIZE]


def recorder() -> Recorder | None:
    """One for the file that the environment names."""
    path = os.environ.get(VARIABLE)
    return Recorder(Path(path).resolve()) if path else None


def skipped_everywhere(places: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, str]]:
    """Tests that ran in no place where they were collected: place and reason of each."""
    ran = {test for found in places.values() for test, (outcome, _) in found.items()
           if outcome != SKIPPED}
    files = {test.split("::")[0] for test in ran}
    idle: dict[str, dict[str, str]] = {}
    for place, found in places.items():
        for test, (_, reason) in found.items():
            if test not in ran and test not in files:
                idle.setdefault(test, {})[place] = reason
    return idle


def read(directory: Path) -> dict[str, dict[str, list[str]]]:
    """The outcomes of all places, by place."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))}


def main(directory: Path) -> int:
    """Print what failed and what was skipped everywhere; 1 if anything was that."""
    places = read(directory)
    if not places:
        print(f"no outcomes in {directory}: nothing ran")
        return 1
    idle = skipped_everywhere(places)
    for test, reasons in sorted(idle.items()):
        print(f"SKIPPED EVERYWHERE {test}: " + "; ".join(f"{p}: {r}" for p, r in reasons.items()))
    failed = [(place, test, reason) for place, found in places.items()
              for test, (outcome, reason) in sorted(found.items()) if outcome == FAILED]
    for place, test, reason in failed:
        print(f"FAILED on {place}: {test}: {reason}")
    counts = ", ".join(f"{place} {sum(o != SKIPPED for o, _ in found.values())}"
                       for place, found in places.items())
    print(f"tests that ran: {counts}; failed: {len(failed)}; "
          f"skipped everywhere: {len(idle)}")
    return 1 if idle or failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
