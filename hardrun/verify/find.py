"""From a process to its sandbox: who started it, under which Decision, and what else is in it.

No state file is asked. The launcher of a sandbox is the executor, whose image carries the Decision
and is what /proc/PID/exe shows. It is believed when it is this installation's executor, byte for
byte, in a file that nobody can write. Only the outermost sandbox counts: what runs inside one can
start a program that carries any Decision it likes, and is judged by the one it runs under itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from hardrun.errors import HardrunError, PlanError
from hardrun.executor.image import is_fixed, read_executor
from hardrun.kernel import procfs
from hardrun.plan.format import TRAILER_MAGIC, decode, program_of, unpack
from hardrun.plan.schema import Operation
from hardrun.policy.decision import Decision

_LARGEST_IMAGE = 64 << 20


class NotASandbox(HardrunError):
    """The process is in no sandbox of hardrun, or is gone."""

    code = "not-a-sandbox"


class NotBelieved(HardrunError):
    """A process carries a Decision in an image that is not this installation's executor."""

    code = "not-believed"


class Sandbox(NamedTuple):
    """A running sandbox; process numbers are those of the caller's pid namespace.

    ``processes`` are all that descend from PID 1 (``init``), and that first. ``operations`` are
    those of the plan that the executor carried out.
    """

    launcher: int
    init: int
    processes: tuple[int, ...]
    decision: Decision
    operations: tuple[Operation, ...] = ()


def find_sandbox(pid: int) -> Sandbox:
    """The sandbox that ``pid`` is in, or has started.

    Raises NotASandbox, NotBelieved when the launcher is another program than the executor, or
    PlanError when its image holds no plan or Decision of this version.
    """
    statuses = procfs.statuses()
    if pid not in statuses:
        raise NotASandbox(f"no process {pid}", hint="hardrun verify takes the number of a running "
                          "process, as ps shows it")
    depth = len(procfs.status().pids)
    init = _init_of(pid, statuses, depth) or _reaper_of(pid, statuses)
    launcher = statuses[init].parent if init else 0
    data = image_of(launcher)
    if not init or data is None:
        raise NotASandbox(f"process {pid} ({statuses[pid].name}) is in no sandbox of hardrun",
                          hint=_started_by(pid, statuses, depth))
    _believe(launcher, data)
    artefact = unpack(data)
    if not artefact.decision:
        raise PlanError(f"the image of process {launcher} holds no decision")
    return Sandbox(launcher, init, (init, *sorted(procfs.descendants(init, statuses))),
                   Decision.from_json(artefact.decision), decode(artefact.plan).operations)


def _believe(launcher: int, data: bytes) -> None:
    """Raises NotBelieved unless the launcher is what it says it is.

    In a user namespace of one's own, PR_SET_MM_EXE_FILE makes /proc/PID/exe anything one likes:
    the launcher must be in the namespace of whoever looks.
    """
    problem = None
    if program_of(data) != read_executor():
        problem = "its executor is not the one that is installed here"
    elif not is_fixed(f"/proc/{launcher}/exe"):
        problem = "its image can be written"
    elif procfs.namespaces(launcher).get("user") != procfs.namespaces().get("user"):
        problem = "it is in another user namespace"
    if problem:
        raise NotBelieved(f"process {launcher} carries a decision of hardrun's, which is not "
                          f"believed: {problem}",
                          hint="verify with the hardrun that started it, and where it did")


def members(sandbox: Sandbox, of_init: Mapping[str, str]) -> dict[int, tuple[str, ...]]:
    """The processes of a sandbox now, PID 1 first; with each that came from outside, into which of
    the sandbox's namespaces.

    ``of_init`` are PID 1's namespaces. A process whose namespaces the kernel hides from this user
    is not found: that of another user's, root's among them.
    """
    statuses = procfs.statuses()
    outside = set(procfs.namespaces(sandbox.launcher).values())
    below = sorted(procfs.descendants(sandbox.init, statuses))
    inside = [pid for pid in (sandbox.init, *below) if pid in statuses]
    own = set(of_init.values())
    for pid in inside:
        own |= set(_namespaces(pid).values())
    own -= outside
    found: dict[int, tuple[str, ...]] = dict.fromkeys(inside, ())
    for pid in sorted(statuses.keys() - found.keys() - {sandbox.launcher}):
        shared = tuple(name for name, link in _namespaces(pid).items() if link in own)
        if shared:
            found[pid] = shared
    return found


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


def _reaper_of(pid: int, statuses: Mapping[int, procfs.Status]) -> int:
    """The reaper of the landlock tier's sandbox that ``pid`` is in, or launched; 0: none.

    There is no namespace to tell it by: it is the child of a launcher. The outermost counts.
    """
    if image_of(pid) is not None:
        return next((p for p, s in statuses.items() if s.parent == pid), 0)
    found = 0
    try:
        for candidate in (pid, *procfs.ancestors(pid, statuses)):
            parent = statuses[candidate].parent if candidate in statuses else 0
            if parent and image_of(parent) is not None:
                found = candidate
    except ProcessLookupError:
        return found
    return found


def _started_by(pid: int, statuses: Mapping[int, procfs.Status], depth: int) -> str:
    """What to verify instead: with a report or --verify, Python stays as the launcher's parent."""
    children = (child for child, status in statuses.items() if status.parent == pid)
    launchers = [str(c) for c in children if _init_of(c, statuses, depth) and image_of(c)]
    if launchers:
        return f"it started sandboxes: hardrun verify {' or '.join(launchers)}"
    return "the number of the hardrun that started one, or of a process inside"


def image_of(pid: int) -> bytes | None:
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


def _namespaces(pid: int) -> Mapping[str, str]:
    try:
        return procfs.namespaces(pid)
    except OSError:
        return {}
