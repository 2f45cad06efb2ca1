"""How hardrun verify tells its answers."""

from __future__ import annotations

from hardrun.cli.verify import all_hold, rows_of
from hardrun.verify import Check

HOLDS = Check("umask", "022", "0022", "holds", "/proc/PID/status")
DIFFERS = Check("umask", "022", "0000", "differs", "/proc/PID/status")
UNKNOWN = Check("keyring", "private", "", "unknown", "a reason")


def test_answers_that_are_the_same_are_one_row() -> None:
    rows = rows_of({7: (HOLDS,), 8: (HOLDS,)})
    assert [row[4] for row in rows] == ["all"]


def test_what_differs_comes_first_with_its_processes() -> None:
    rows = rows_of({7: (UNKNOWN, HOLDS), 8: (UNKNOWN, DIFFERS)})
    assert [(row[0], row[4]) for row in rows] == [
        ("differs", "8"), ("holds", "7"), ("unknown", "all")]


def test_many_processes_are_counted() -> None:
    rows = rows_of({pid: (HOLDS if pid else DIFFERS,) for pid in range(10)})
    assert rows[1][4] == "1, 2, 3, 4 and 5 more"


def test_only_a_difference_fails() -> None:
    assert all_hold({7: (HOLDS, UNKNOWN)})
    assert not all_hold({7: (HOLDS,), 8: (DIFFERS,)})
