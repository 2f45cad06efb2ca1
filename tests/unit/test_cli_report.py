"""The executor's report as a Result, an error, JSON and the meta file of isolate(1)."""

from __future__ import annotations

import errno
import json
from typing import get_args

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
from hardrun.executor.result import Outcome, Result
from hardrun.plan.format import encode
from hardrun.plan.schema import Operation
from hardrun.policy.decision import ControlDecision, Decision
from hardrun.posture.control import Enforcement

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


LIMITS = {"limits.memory": 256 << 20, "limits.pids": 64, "limits.cpu_time": 10_000,
          "limits.timeout": 1500, "limits.output": 1 << 20}
UNKNOWN = Decision(policies=("untrusted",), controls=(), workload={})


def limited(**values: int | None) -> Decision:
    """A decision about limits, as it is stored: None for unlimited."""
    given = LIMITS | {f"limits.{name}": value for name, value in values.items()}
    return Decision(policies=("untrusted",), workload={}, controls=tuple(
        ControlDecision(control=name, value=value, shown="", decided_by="untrusted.yaml:1",
                        enforcement=Enforcement(kind="enforced", by=("cgroup",)))
        for name, value in given.items()))


def message(outcome: str, decision: Decision) -> str:
    got = report.result_of(parse(b"outcome %s\nstarted 1\n" % outcome.encode()), argv=("x",),
                           returncode=137, decision=decision)
    return str(report.result_document(got)["message"])


@pytest.mark.parametrize("outcome, control, told, bare", [
    ("memory-limit", "memory", "killed: memory limit 256M", "killed: memory limit"),
    ("pids-limit", "pids", "processes were refused: pids limit 64",
     "processes were refused: pids limit"),
    ("cpu-limit", "cpu_time", "killed: cpu time limit 10s", "killed: cpu time limit"),
    ("timeout", "timeout", "killed: time-out 1500ms", "killed: time-out"),
    ("output-limit", "output", "killed: output limit 1M", "killed: output limit")])
def test_what_ended_it_is_told_with_the_limit_as_a_flag_says_it(outcome: str, control: str,
                                                                told: str, bare: str) -> None:
    assert message(outcome, limited()) == told
    assert message(outcome, UNKNOWN) == bare
    # an outer container's limit, for one, which the kernel counts in the sandbox's group as well
    assert message(outcome, limited(**{control: None})) == bare


@pytest.mark.parametrize("outcome", ["exited", "signaled", "cancelled", "internal"])
def test_what_ends_by_itself_needs_no_message(outcome: str) -> None:
    assert message(outcome, limited()) == ""


def test_every_outcome_of_a_limit_has_a_message() -> None:
    ends = {name for name in get_args(Outcome) if name.endswith("-limit") or name == "timeout"}
    assert {name for name in get_args(Outcome) if message(name, limited())} == ends


@pytest.mark.parametrize("error, outcome", [
    (PolicyRefused("limits.memory"), "refused"),
    (HostUnsupported("no user namespaces", fact="user_namespaces", cause="outer-seccomp"),
     "unsupported"),
    (BadInput("--ro"), "internal"),
])
def test_a_run_that_never_started_has_a_verdict_too(error: BadInput, outcome: str) -> None:
    document = report.error_document(error)
    assert (document["outcome"], document["returncode"]) == (outcome, 125)
    assert document["error"]["cause"] == ("outer-seccomp" if outcome == "unsupported" else "")
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
