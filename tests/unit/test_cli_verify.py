"""How hardrun verify tells its answers."""

from __future__ import annotations

from hardrun.cli.verify import document_of, rows_of, summary
from hardrun.verify import Check, Sandbox, Verification, Verified
from tests.planning import decision, facts, workload

HOLDS = Check("umask", "022", "0022", "holds", "/proc/PID/status")
DIFFERS = Check("umask", "022", "0000", "differs", "/proc/PID/status")
UNKNOWN = Check("keyring", "private", "", "unknown", "a reason")


def processes(answers: dict[int, tuple[Check, ...]]) -> tuple[Verified, ...]:
    return tuple(Verified(pid, 0, "sh", checks) for pid, checks in answers.items())


def verification(*found: Verified, threads: int = 0, missed: int = 0) -> Verification:
    sandbox = Sandbox(5, 7, (7, 8), decision(workload(), facts()))
    return Verification(sandbox, found, threads, missed)


def test_answers_that_are_the_same_are_one_row() -> None:
    rows = rows_of(processes({7: (HOLDS,), 8: (HOLDS,)}))
    assert [row[4] for row in rows] == ["all"]


def test_what_differs_comes_first_with_its_processes() -> None:
    rows = rows_of(processes({7: (UNKNOWN, HOLDS), 8: (UNKNOWN, DIFFERS)}))
    assert [(row[0], row[4]) for row in rows] == [
        ("differs", "8"), ("holds", "7"), ("unknown", "all")]


def test_what_holds_is_left_out_where_not_everything_is_wanted() -> None:
    rows = rows_of(processes({7: (UNKNOWN, HOLDS), 8: (DIFFERS,)}), everything=False)
    assert [row[0] for row in rows] == ["differs", "unknown"]


def test_many_processes_are_counted() -> None:
    rows = rows_of(processes({pid: (HOLDS if pid else DIFFERS,) for pid in range(10)}))
    assert rows[1][4] == "1, 2, 3, 4 and 5 more"


def test_a_thread_has_its_own_row_where_it_differs() -> None:
    rows = rows_of([Verified(8, 0, "java", (HOLDS,)), Verified(8, 9, "gc", (DIFFERS,))])
    assert [(row[0], row[4]) for row in rows] == [("differs", "8/9"), ("holds", "8")]


def test_only_a_difference_fails() -> None:
    assert verification(*processes({7: (HOLDS, UNKNOWN)})).holds
    assert not verification(*processes({7: (HOLDS,), 8: (DIFFERS,)})).holds


def test_every_process_has_a_line_and_what_was_not_read_is_said() -> None:
    lines = list(summary(verification(*processes({7: (HOLDS,), 8: (HOLDS, UNKNOWN)}), threads=3,
                                      missed=2)))
    assert lines[0] == "7 sh PID 1: 1 hold, 0 differ, 0 unknown"
    assert lines[1] == "8 sh: 1 hold, 0 differ, 1 unknown"
    assert "2 processes and 3 more threads, 2 that started meanwhile were not read" in lines[2]


def test_the_document_says_the_same() -> None:
    document = document_of(verification(*processes({7: (HOLDS,)}), threads=3, missed=2))
    assert (document["holds"], document["threads"], document["missed"]) == (True, 3, 2)
    assert document["processes"] == [
        {"pid": 7, "thread": 0, "name": "sh", "checks": [HOLDS._asdict()]}]


def test_no_process_writes_the_answer_by_its_name() -> None:
    """PR_SET_NAME takes any bytes: it could clear the screen and say that all holds."""
    found = verification(Verified(8, 0, "\x1b[2J\nx", (DIFFERS,)))
    assert next(iter(summary(found))) == "8 \\x1b[2J\\x0ax: 0 hold, 1 differ, 0 unknown"
