"""The executor's report: read it, turn it into a Result or an error, and write it for others."""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Mapping
from types import MappingProxyType
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
from hardrun.posture.control import UNLIMITED
from hardrun.posture.registry import BY_ID
from hardrun.values import plain

if TYPE_CHECKING:
    from hardrun.policy.decision import Decision

SCHEMA_VERSION = 1
_NUMBERS = ("status", "wall_ms", "user_us", "system_us", "max_rss_kib", "output_bytes", "truncated",
            "started", "killed")
_DISKS_V1 = "blkio.throttle.io_service_bytes"


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
    killed: int = 0
    failure: Failure | None = None
    cgroup: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Lines of the files of the sandbox's cgroup, by file."""


def _is_number(text: str) -> bool:
    """Whether it is one of 64 bits, about: a report may be torn anywhere."""
    return text.isdecimal() and len(text) <= 20


def parse(data: bytes) -> Report:
    """Read ``key value`` lines; an empty report (a killed executor) has the outcome internal."""
    fields: dict[str, str] = {}
    cgroup: dict[str, tuple[str, ...]] = {}
    for line in data.decode("ascii", "replace").splitlines():
        key, _, value = line.partition(" ")
        if key.startswith("cgroup."):
            file = key.removeprefix("cgroup.")
            cgroup[file] = (*cgroup.get(file, ()), value)
        else:
            fields[key] = value
    numbers = {name: int(fields[name]) for name in _NUMBERS if _is_number(fields.get(name, ""))}
    outcome = fields.get("outcome", "internal")
    failure = None
    operation, error = fields.get("failed_operation", ""), fields.get("failed_errno", "0")
    if _is_number(operation) and _is_number(error):
        failure = Failure(int(operation), int(error), fields.get("failed_site", ""))
    known = cast(Outcome, outcome if outcome in get_args(Outcome) else "internal")
    return Report(outcome=known, failure=failure, cgroup=cgroup, **numbers)


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
    if report.killed:
        return ExecutorError("the sandbox was killed before its command started",
                             hint="from outside, or by the kernel for want of memory")
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
              stdout: Any = None, stderr: Any = None, created: tuple[str, ...] = (),
              unverified: tuple[str, ...] = ()) -> Result:
    """The Result of a report; ``returncode`` as subprocess has it (-N for a killed executor)."""
    status = returncode if returncode >= 0 else 128 - returncode
    return Result(
        argv=argv, outcome=report.outcome, returncode=status,
        signal=report.status if report.outcome == "signaled" else None,
        stdout=stdout, stderr=stderr, truncated=bool(report.truncated),
        usage=usage_of(report),
        decision=decision, created=created, unverified=unverified)


def usage_of(report: Report) -> Usage:
    """What a report says was used."""
    def only(file: str) -> int | None:
        [text] = report.cgroup.get(file, ("",))[:1]
        return int(text) if _is_number(text) else None

    def keyed(file: str, key: str) -> int | None:
        words = (line.split() for line in report.cgroup.get(file, ()))
        return next((int(w[1]) for w in words if len(w) == 2 and w[0] == key and _is_number(w[1])),
                    None)

    def over_disks(key: str, word: str) -> int | None:
        words = " ".join(report.cgroup.get("io.stat", ())).split()
        found = [w.partition("=")[2] for w in words if w.startswith(f"{key}=")]
        first = [line.split() for line in report.cgroup.get(_DISKS_V1, ())]
        found += [w[2] for w in first if len(w) == 3 and w[1] == word]
        known = {"io.stat", _DISKS_V1} & set(report.cgroup)
        return sum(map(int, filter(_is_number, found))) if known else None

    stalled = {}
    for resource in ("cpu", "memory", "io"):
        for line in report.cgroup.get(f"{resource}.pressure", ()):
            if line.startswith("some ") and _is_number(line.rpartition("total=")[2]):
                stalled[resource] = int(line.rpartition("total=")[2]) / 1e6
    pids, throttled = only("pids.peak"), keyed("cpu.stat", "throttled_usec")
    if throttled is None and (nanoseconds := keyed("cpu.stat", "throttled_time")) is not None:
        throttled = nanoseconds // 1000
    peak, kills = only("memory.peak"), keyed("memory.events", "oom_kill")
    return Usage(
        wall=report.wall_ms / 1e3, user=report.user_us / 1e6, system=report.system_us / 1e6,
        max_rss=report.max_rss_kib << 10, output=report.output_bytes,
        memory_peak=only("memory.max_usage_in_bytes") if peak is None else peak,
        swap_peak=only("memory.swap.peak"),
        pids_peak=None if pids is None else max(pids - 1, 0),
        read=over_disks("rbytes", "Read"), written=over_disks("wbytes", "Write"),
        throttled=None if throttled is None else throttled / 1e6,
        oom_kills=keyed("memory.oom_control", "oom_kill") if kills is None else kills,
        pids_refused=keyed("pids.events", "max"), stalled=stalled)


def outcome_of_error(error: HardrunError) -> Outcome:
    """The outcome under which a report tells of an error."""
    if isinstance(error, PolicyRefused):
        return "refused"
    return "unsupported" if isinstance(error, HostUnsupported) else "internal"


_TOLD = {"memory-limit": ("killed: memory limit", "limits.memory"),
         "pids-limit": ("processes were refused: pids limit", "limits.pids"),
         "cpu-limit": ("killed: cpu time limit", "limits.cpu_time"),
         "timeout": ("killed: time-out", "limits.timeout"),
         "output-limit": ("killed: output limit", "limits.output")}


def _message(result: Result) -> str:
    """What ended it, in words: ``killed: memory limit 256M``; empty when the command did."""
    words, control = _TOLD.get(result.outcome, ("", ""))
    if not words:
        return ""
    limit, posture = BY_ID[control], result.decision.posture
    if posture.get(limit, UNLIMITED) == UNLIMITED:  # somebody else's: an outer container's
        return words
    return f"{words} {limit.spell(posture[limit])}"


def result_document(result: Result) -> dict[str, Any]:
    """A run's end as a JSON-ready document."""
    degraded = [{"control": c.control, "kind": c.enforcement.kind, "by": list(c.enforcement.by),
                 "because": c.enforcement.because, "fix": c.enforcement.fix}
                for c in result.decision.controls if c.enforcement.kind != "enforced"]
    usage = result.usage
    return {
        "schema_version": SCHEMA_VERSION, "outcome": result.outcome,
        "tier": result.decision.tier,
        "returncode": result.returncode, "signal": result.signal, "truncated": result.truncated,
        "message": _message(result), "usage": plain(usage),
        "decision": result.decision.digest, "degraded": degraded, "created": list(result.created),
        "unverified": list(result.unverified),
    }


def error_document(error: HardrunError) -> dict[str, Any]:
    """A run that never started as a JSON-ready document."""
    failed = {"operation": error.operation, "errno": error.errno} if isinstance(
        error, ExecutorError) else None
    cause = error.cause if isinstance(error, HostUnsupported) else ""
    return {
        "schema_version": SCHEMA_VERSION, "outcome": outcome_of_error(error),
        "returncode": error.exit_code, "error": {"code": error.code, "cause": cause,
                                                 "message": error.message, "hint": error.hint,
                                                 "failed": failed},
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
    if outcome == "pids-limit":
        return [("exitcode", status), ("status", "RE"), ("message", "Process limit exceeded")]
    if outcome in ("memory-limit", "output-limit"):
        return [("killed", 1), ("exitsig", int(signal.SIGKILL)), ("status", "SG"),
                ("message", f"{outcome.split('-')[0].capitalize()} limit exceeded")]
    message = document["error"]["message"] if "error" in document else outcome
    line = " ".join(str(message).split())
    return [("status", "XX"), ("message", "".join(c if c.isprintable() else "?" for c in line))]
