"""The Result of a command that came to a sandbox: as that of a run, from what PID 1 told."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Mapping
from typing import Any

from hardrun.executor.result import Outcome, Result, Usage
from hardrun.executor.serve import Ended, Reply
from hardrun.policy.decision import Decision
from hardrun.posture import limits
from hardrun.posture.control import UNLIMITED

_GRACE_MS = 20  # the executor's own, in parent.c
ENDED: Mapping[Outcome, str] = {
    "exited": "it was closed", "cancelled": "it was closed", "signaled": "it was killed",
    "timeout": "its time is over", "memory-limit": "its memory limit was reached",
    "cpu-limit": "its CPU time is used up", "internal": "it was killed"}
"""Why a sandbox takes no more commands."""


def output_limit(decision: Decision) -> int:
    """Bytes of output of one command; 0: without a limit."""
    limit = decision.posture[limits.OUTPUT]
    return 0 if limit >= UNLIMITED else limit


def result(ended: Ended, reply: Reply, *, argv: tuple[str, ...], decision: Decision, stdout: Any,
           stderr: Any, created: tuple[str, ...] = ()) -> Result:
    """The Result of a command whose end PID 1 told."""
    number = os.WTERMSIG(reply.status) if os.WIFSIGNALED(reply.status) else 0
    outcome: Outcome = "exited"
    if ended.stopped:
        outcome = ended.stopped
    elif number:
        outcome = "cpu-limit" if _cpu_time_used(reply, number, decision) else "signaled"
    returncode = 124 if outcome == "timeout" else 128 + signal.SIGKILL \
        if outcome == "output-limit" else 128 + number if number else os.WEXITSTATUS(reply.status)
    usage = Usage(wall=ended.wall, user=reply.user_us / 1e6, system=reply.system_us / 1e6,
                  max_rss=reply.max_rss_kib << 10, output=ended.output)
    return Result(argv=argv, outcome=outcome, returncode=returncode,
                  signal=number if outcome == "signaled" else None, stdout=stdout, stderr=stderr,
                  truncated=ended.truncated, usage=usage, decision=decision, created=created)


def _cpu_time_used(reply: Reply, number: int, decision: Decision) -> bool:
    """The kernel's limit on one process ends it with SIGXCPU, or SIGKILL when that is ignored."""
    limit = decision.posture[limits.CPU_TIME]
    used = (reply.user_us + reply.system_us) // 1000
    return limit < UNLIMITED and number in (signal.SIGXCPU, signal.SIGKILL) \
        and used + _GRACE_MS >= limit


def with_sandbox(found: Result, ended: Ended) -> Result:
    """The Result of a command that ended with its sandbox, of which ``found`` is the Result."""
    usage = dataclasses.replace(found.usage, output=ended.output, wall=ended.wall)
    outcome, returncode = found.outcome, found.returncode
    if ended.stopped:
        outcome = ended.stopped
        returncode = 124 if outcome == "timeout" else 128 + signal.SIGKILL
    elif outcome == "exited" and ended.reply is None:  # it was closed while the command ran
        outcome, returncode = "cancelled", 128 + signal.SIGKILL
    return dataclasses.replace(found, outcome=outcome, returncode=returncode, usage=usage,
                               truncated=ended.truncated)
