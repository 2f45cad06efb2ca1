"""The executor's report: read it, turn it into a Result or an error, and write it for others."""

from __future__ import annotations

import errno
import json
import signal
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

from hardrun.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ExecutorError,
    HardrunError,
    HostUnsupported,
    PolicyRefused,
)
from hardrun.executor.result import Outcome, Result, Usage
from hardrun.plan.format import decode
from hardrun.plan.schema import BY_NAME, Kind, Operation

if TYPE_CHECKING:
    from hardrun.policy.decision import Decision

SCHEMA_VERSION = 1
_NUMBERS = ("status", "wall_ms", "user_us", "system_us", "max_rss_kib", "output_bytes", "truncated",
            "started")


class Failure(NamedTuple):
    """The operation that failed before the command's first instruction."""

    operation: int
    errno: int
    site: str


class Report(NamedTuple):
    """What the executor wrote. Its fields are those of the ``report`` operation."""

    outcome: Outcome = "internal"
    status: int = 0
    wall_ms: int = 0
    user_us: int = 0
    system_us: int = 0
    max_rss_kib: int = 0
    output_bytes: int = 0
    truncated: int = 0
    started: int = 0
    failure: Failure | None = None


def parse(data: bytes) -> Report:
    """Read ``key value`` lines; an empty report (a killed executor) has the outcome internal."""
    fields: dict[str, str] = {}
    for line in data.decode("ascii", "replace").splitlines():
        key, _, value = line.partition(" ")
        fields[key] = value
    numbers = {name: int(fields[name]) for name in _NUMBERS if fields.get(name, "").isdigit()}
    outcome = fields.get("outcome", "internal")
    failure = None
    if fields.get("failed_operation", "").isdigit():
        failure = Failure(int(fields["failed_operation"]), int(fields.get("failed_errno", "0")),
                          fields.get("failed_site", ""))
    known = cast(Outcome, outcome if outcome in get_args(Outcome) else "internal")
    return Report(outcome=known, failure=failure, **numbers)


def describe(operation: Operation) -> str:
    """An operation's sentence with its values in it."""
    kind = BY_NAME[operation.name]
    values = {a.name: v for a, v in zip(kind.arguments, operation.values, strict=True)
              if a.kind is not Kind.BLOB}
    return kind.sentence.format(**values)


def error_of(report: Report, plan: bytes) -> HardrunError | None:
    """The error that a report tells of, or None when the command was started."""
    if report.started or report.outcome not in ("internal", "refused", "unsupported"):
        return None
    failure = report.failure
    operations = decode(plan).operations
    if failure is None or failure.operation >= len(operations):
        return ExecutorError("the executor ended without a word",
                             hint="was it killed? the kernel's log may know")
    operation = operations[failure.operation]
    name = errno.errorcode.get(failure.errno, str(failure.errno))
    if operation.name == "execute":
        return _command_error(str(operation.values[0]), failure.errno, name)
    site = f"{failure.site}: " if failure.site else ""
    reason = f", {operation.reason}" if operation.reason else ""
    return ExecutorError(
        f"{describe(operation)}: {site}{name} (operation {failure.operation}{reason})",
        operation=failure.operation, errno=failure.errno)


def _command_error(command: str, number: int, name: str) -> HardrunError:
    if number in (errno.ENOENT, errno.ENOTDIR):
        return CommandNotFound(
            f"{command}: not found in the sandbox, or its interpreter is not",
            hint=f"--toolchain {command} shows an installed program, --ro PATH any other file")
    return CommandNotExecutable(f"{command}: can't be executed: {name}",
                                hint="is it a program for this machine, with the x bit?")


def result_of(report: Report, *, argv: tuple[str, ...], returncode: int, decision: Decision,
              stdout: Any = None, stderr: Any = None, created: tuple[str, ...] = ()) -> Result:
    """The Result of a report; ``returncode`` as subprocess has it (-N for a killed executor)."""
    status = returncode if returncode >= 0 else 128 - returncode
    return Result(
        argv=argv, outcome=report.outcome, returncode=status,
        signal=report.status if report.outcome == "signaled" else None,
        stdout=stdout, stderr=stderr, truncated=bool(report.truncated),
        usage=Usage(wall=report.wall_ms / 1e3, user=report.user_us / 1e6,
                    system=report.system_us / 1e6, max_rss=report.max_rss_kib << 10,
                    output=report.output_bytes),
        decision=decision, created=created)


def outcome_of_error(error: HardrunError) -> Outcome:
    """The outcome under which a report tells of an error."""
    if isinstance(error, PolicyRefused):
        return "refused"
    return "unsupported" if isinstance(error, HostUnsupported) else "internal"


def result_document(result: Result) -> dict[str, Any]:
    """A run's end as a JSON-ready document."""
    degraded = [{"control": c.control, "kind": c.enforcement.kind, "because": c.enforcement.because,
                 "fix": c.enforcement.fix}
                for c in result.decision.controls if c.enforcement.kind != "enforced"]
    usage = result.usage
    return {
        "schema_version": SCHEMA_VERSION, "outcome": result.outcome,
        "returncode": result.returncode, "signal": result.signal, "truncated": result.truncated,
        "usage": {"wall": usage.wall, "user": usage.user, "system": usage.system,
                  "max_rss": usage.max_rss, "output": usage.output},
        "decision": result.decision.digest, "degraded": degraded, "created": list(result.created),
    }


def error_document(error: HardrunError) -> dict[str, Any]:
    """A run that never started as a JSON-ready document."""
    failed = {"operation": error.operation, "errno": error.errno} if isinstance(
        error, ExecutorError) else None
    return {
        "schema_version": SCHEMA_VERSION, "outcome": outcome_of_error(error),
        "returncode": error.exit_code, "error": {"code": error.code, "message": error.message,
                                                 "hint": error.hint, "failed": failed},
    }


def as_json(document: dict[str, Any]) -> bytes:
    """One line of JSON, in ASCII: names with any bytes survive as lone surrogates."""
    return json.dumps(document).encode("ascii") + b"\n"


def as_isolate(document: dict[str, Any]) -> bytes:
    """The meta file of isolate(1), which contest systems read.

    Times in seconds, ``max-rss`` in KiB; ``status`` is RE, SG, TO or XX and absent after success.
    """
    outcome, usage = document["outcome"], document.get("usage")
    lines: list[tuple[str, object]] = []
    if usage:
        lines += [("time", f"{usage['user'] + usage['system']:.3f}"),
                  ("time-wall", f"{usage['wall']:.3f}"), ("max-rss", usage["max_rss"] >> 10)]
    lines += _isolate_verdict(outcome, document)
    return "".join(f"{key}:{value}\n" for key, value in lines).encode("utf-8", "backslashreplace")


def _isolate_verdict(outcome: Outcome, document: dict[str, Any]) -> list[tuple[str, object]]:
    status, number = document["returncode"], document.get("signal")
    if outcome == "exited":
        failed = [("status", "RE"), ("message", f"Exited with error status {status}")]
        return [("exitcode", status), *(failed if status else [])]
    if outcome == "signaled":
        return [("exitsig", number), ("status", "SG"),
                ("message", f"Caught fatal signal {number}")]
    if outcome in ("timeout", "cpu-limit"):
        wall = " (wall clock)" if outcome == "timeout" else ""
        return [("killed", 1), ("status", "TO"), ("message", f"Time limit exceeded{wall}")]
    if outcome in ("memory-limit", "pids-limit", "output-limit"):
        return [("killed", 1), ("exitsig", int(signal.SIGKILL)), ("status", "SG"),
                ("message", f"{outcome.split('-')[0].capitalize()} limit exceeded")]
    message = document["error"]["message"] if "error" in document else outcome
    return [("status", "XX"), ("message", " ".join(str(message).split()))]
