"""The executor's report as a Result, an error, JSON and the meta file of isolate(1)."""

from __future__ import annotations

import errno
import json

import pytest

from hardrun.errors import (
    BadInput,
    CommandNotExecutable,
    CommandNotFound,
    ExecutorError,
    HostUnsupported,
    PolicyRefused,
)
from hardrun.executor import report
from hardrun.executor.report import Report, parse
from hardrun.executor.result import Result
from hardrun.plan.format import encode
from hardrun.plan.schema import Operation
from hardrun.policy.decision import Decision

DECISION = Decision(policies=("untrusted",), controls=(), workload={})
PLAN = encode([Operation("mount_proc", ("/proc", 1), "mounts.proc, untrusted.yaml:12"),
               Operation("execute", ("/usr/bin/ls", "/usr/bin"), "")])
LINES = (b"outcome signaled\nstarted 1\nstatus 11\nwall_ms 1500\nuser_us 250000\n"
         b"system_us 50000\nmax_rss_kib 2048\noutput_bytes 7\ntruncated 0\n")


def result(lines: bytes, returncode: int) -> Result:
    return report.result_of(parse(lines), argv=("ls",), returncode=returncode, decision=DECISION)


def test_a_report_becomes_a_result() -> None:
    got = result(LINES, 139)
    assert (got.outcome, got.returncode, got.signal, got.truncated) == ("signaled", 139, 11, False)
    assert (got.usage.wall, got.usage.user, got.usage.system) == (1.5, 0.25, 0.05)
    assert (got.usage.max_rss, got.usage.output) == (2 << 20, 7)


def test_a_result_is_frozen() -> None:
    with pytest.raises(AttributeError):
        result(LINES, 139).outcome = "exited"  # type: ignore[misc]


def test_a_killed_executor_is_an_internal_end_with_the_status_of_a_shell() -> None:
    got = result(b"", -9)
    assert (got.outcome, got.returncode) == ("internal", 137)


@pytest.mark.parametrize("lines", [b"\xff\xfe\n", b"outcome\n", b"status x\n", b"status -1\n",
                                   b"outcome nonsense\n", b"failed_operation\n"])
def test_a_damaged_report_is_an_internal_end(lines: bytes) -> None:
    assert parse(lines) == Report()


def test_a_failed_operation_names_call_errno_control_and_line() -> None:
    got = report.error_of(parse(b"outcome internal\nstarted 0\nfailed_operation 0\n"
                                b"failed_errno 1\nfailed_site mount\n"), PLAN)
    assert isinstance(got, ExecutorError)
    assert (got.operation, got.errno) == (0, errno.EPERM)
    assert got.message == ("mount proc on /proc: mount: EPERM "
                           "(operation 0, mounts.proc, untrusted.yaml:12)")


@pytest.mark.parametrize("number, kind", [
    (errno.ENOENT, CommandNotFound), (errno.ENOTDIR, CommandNotFound),
    (errno.EACCES, CommandNotExecutable), (errno.ENOEXEC, CommandNotExecutable),
])
def test_a_failed_exec_is_127_or_126(number: int, kind: type[Exception]) -> None:
    lines = f"outcome internal\nstarted 0\nfailed_operation 1\nfailed_errno {number}\n"
    assert isinstance(report.error_of(parse(lines.encode()), PLAN), kind)


def test_a_command_that_was_started_is_no_error() -> None:
    assert report.error_of(parse(LINES), PLAN) is None
    assert report.error_of(parse(b"outcome cancelled\nstarted 0\n"), PLAN) is None


def test_an_executor_without_a_word_is_an_error() -> None:
    assert isinstance(report.error_of(parse(b""), PLAN), ExecutorError)
    assert isinstance(report.error_of(parse(b"outcome internal\nfailed_operation 99\n"), PLAN),
                      ExecutorError)


def test_the_json_report_has_a_version_and_the_digest() -> None:
    document = json.loads(report.as_json(report.result_document(result(LINES, 139))))
    assert document["schema_version"] == 1
    assert document["decision"] == DECISION.digest
    assert document["usage"]["max_rss"] == 2 << 20


@pytest.mark.parametrize("error, outcome", [
    (PolicyRefused("limits.memory"), "refused"),
    (HostUnsupported("no user namespaces", fact="user_namespaces"), "unsupported"),
    (BadInput("--ro"), "internal"),
])
def test_a_run_that_never_started_has_a_verdict_too(error: BadInput, outcome: str) -> None:
    document = report.error_document(error)
    assert (document["outcome"], document["returncode"]) == (outcome, 125)
    assert b"\nstatus:XX\n" in b"\n" + report.as_isolate(document)


@pytest.mark.parametrize("outcome, status, meta", [
    ("exited", 0, {"exitcode": "0"}),
    ("exited", 3, {"exitcode": "3", "status": "RE", "message": "Exited with error status 3"}),
    ("signaled", 11, {"exitsig": "11", "status": "SG", "message": "Caught fatal signal 11"}),
    ("timeout", 0, {"killed": "1", "status": "TO",
                    "message": "Time limit exceeded (wall clock)"}),
    ("cpu-limit", 9, {"killed": "1", "status": "TO", "message": "Time limit exceeded"}),
    ("memory-limit", 9, {"killed": "1", "exitsig": "9", "status": "SG",
                         "message": "Memory limit exceeded"}),
    ("cancelled", 9, {"status": "XX", "message": "cancelled"}),
])
def test_the_meta_file_has_the_keys_of_isolate(outcome: str, status: int,
                                               meta: dict[str, str]) -> None:
    lines = LINES.replace(b"signaled", outcome.encode())
    lines = lines.replace(b"status 11", b"status %d" % status)
    returncode = status if outcome == "exited" else 137
    text = report.as_isolate(report.result_document(result(lines, returncode))).decode()
    got = dict(line.split(":", 1) for line in text.splitlines())
    assert got == {"time": "0.300", "time-wall": "1.500", "max-rss": "2048"} | meta
