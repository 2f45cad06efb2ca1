"""From a process to its sandbox: who started it, under which Decision, and what else is in it.

No state file is asked. The launcher of a sandbox is the executor, whose image carries the Decision
and is what /proc/PID/exe shows. Only the outermost sandbox counts: what runs inside one can start a
program that carries any Decision it likes, and is judged by the one it runs under itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from hardrun.errors import HardrunError, PlanError
from hardrun.kernel import procfs
from hardrun.plan.format import TRAILER_MAGIC, unpack
from hardrun.policy.decision import Decision

_LARGEST_IMAGE = 64 << 20


class NotASandbox(HardrunError):
    """The process is in no sandbox of hardrun, or is gone."""

    code = "not-a-sandbox"


class Sandbox(NamedTuple):
    """A running sandbox; process numbers are those of the caller's pid namespace.

    ``processes`` are all in it, PID 1 (``init``) first.
    """

    launcher: int
    init: int
    processes: tuple[int, ...]
    decision: Decision


def find_sandbox(pid: int) -> Sandbox:
    """The sandbox that ``pid`` is in, or has started.

    Raises NotASandbox, or PlanError when the launcher's image holds no Decision of this version.
    """
    statuses = procfs.statuses()
    if pid not in statuses:
        raise NotASandbox(f"no process {pid}", hint="hardrun verify takes the number of a running "
                          "process, as ps shows it")
    depth = len(procfs.status().pids)
    init = _init_of(pid, statuses, depth)
    launcher = statuses[init].parent if init else 0
    data = _image(launcher)
    if not init or data is None:
        raise NotASandbox(f"process {pid} ({statuses[pid].name}) is in no sandbox of hardrun",
                          hint=_started_by(pid, statuses, depth))
    decision = unpack(data).decision
    if not decision:
        raise PlanError(f"the image of process {launcher} holds no decision")
    return Sandbox(launcher, init, (init, *_members(init, statuses)), Decision.from_json(decision))


def _init_of(pid: int, statuses: Mapping[int, procfs.Status], depth: int) -> int:
    """PID 1 of the sandbox that ``pid`` is in, or that it launched; 0 when there is none."""
    def is_init(status: procfs.Status) -> bool:
        return len(status.pids) == depth + 1 and status.pids[-1] == 1

    if len(statuses[pid].pids) == depth:
        return next((p for p, s in statuses.items() if s.parent == pid and is_init(s)), 0)
    try:
        above = (p for p in procfs.ancestors(pid, statuses) if p in statuses)
        return next((p for p in above if is_init(statuses[p])), 0)
    except ProcessLookupError:
        return 0


def _started_by(pid: int, statuses: Mapping[int, procfs.Status], depth: int) -> str:
    """What to verify instead: with a report or --verify, Python stays as the launcher's parent."""
    children = (child for child, status in statuses.items() if status.parent == pid)
    launchers = [str(c) for c in children if _init_of(c, statuses, depth) and _image(c)]
    if launchers:
        return f"it started sandboxes: hardrun verify {' or '.join(launchers)}"
    return "the number of the hardrun that started one, or of a process inside"


def _image(pid: int) -> bytes | None:
    """The bytes of a process's executable when it is an image of hardrun's."""
    try:
        with open(f"/proc/{pid}/exe", "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not len(TRAILER_MAGIC) < size < _LARGEST_IMAGE:
                return None
            file.seek(size - len(TRAILER_MAGIC))
            if file.read() != TRAILER_MAGIC:
                return None
            file.seek(0)
            return file.read()
    except OSError:
        return None


def _members(init: int, statuses: Mapping[int, procfs.Status]) -> tuple[int, ...]:
    """Everything below PID 1, and what joined its pid namespace from elsewhere."""
    below = procfs.descendants(init, statuses)
    identity = next(filter(None, map(_pid_namespace, sorted(below))), None)
    joined = (pid for pid in statuses.keys() - below - {init}
              if identity is not None and _pid_namespace(pid) == identity)
    return tuple(sorted(below | set(joined)))


def _pid_namespace(pid: int) -> str | None:
    try:
        return procfs.namespaces(pid).get("pid")
    except OSError:
        return None
