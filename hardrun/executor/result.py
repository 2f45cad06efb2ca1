"""What a run came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from hardrun.policy.decision import Decision

Outcome = Literal["exited", "signaled", "timeout", "cpu-limit", "memory-limit", "pids-limit",
                  "output-limit", "cancelled", "refused", "unsupported", "internal"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sandbox used: ``wall``, ``user`` and ``system`` in seconds, ``max_rss`` in bytes.

    User and system time and the largest resident set are those of getrusage(2) over all processes
    that were waited for, and those of the cgroup, over every process, where there is one.
    ``output`` is the number of bytes written to standard output and error.

    The rest is what a cgroup counted, and None without one or where a controller is not delegated:
    ``memory_peak`` in bytes, file cache included; ``pids_peak`` without PID 1, the executor's own;
    ``read`` and ``written`` in bytes over all disks; ``throttled`` in seconds for want of CPUs;
    ``oom_kills``, and ``pids_refused``, which is how often no process could be made. ``stalled``
    are the seconds in which some process waited for ``cpu``, ``memory`` or ``io`` (PSI).
    """

    wall: float = 0.0
    user: float = 0.0
    system: float = 0.0
    max_rss: int = 0
    output: int = 0
    memory_peak: int | None = None
    swap_peak: int | None = None
    pids_peak: int | None = None
    read: int | None = None
    written: int | None = None
    throttled: float | None = None
    oom_kills: int | None = None
    pids_refused: int | None = None
    stalled: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a run.

    ``outcome`` says what ended it, from what the kernel counted: programs should read this.
    ``returncode`` is what a shell would see: the command's own status, 128 + N after signal N,
    124 after the time-out, 125 when hardrun itself failed. ``signal`` is N or None.
    ``stdout`` and ``stderr`` are bytes, or str with ``text=True``, or None when not captured.
    ``truncated`` is true when the output limit cut them. ``created`` lists protected names that
    did not exist below a writable grant before the run and do now: they may be run outside later.
    ``unverified``: with ``verify``, what could not be shown to be in force, each with the reason.
    """

    argv: tuple[str, ...]
    outcome: Outcome
    returncode: int
    signal: int | None
    stdout: Any
    stderr: Any
    truncated: bool
    usage: Usage
    decision: Decision
    created: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()
