"""Every operation of every kind of plan, with each of its system calls failing in every way.

A start whose operation failed is no start: status 125, one line that names operation, control and
policy line, a command that never ran, nothing left behind. What goes on all the same is listed,
with the reason why nothing is weaker then.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from hardrun.plan.format import decode, encode
from hardrun.plan.schema import OPERATIONS, Operation
from tests.escape import faulty
from tests.escape.errnos import ERRNOS
from tests.escape.faulty import PROCESSES, Call, Fault
from tests.escape.plans import ABSENT, plans
from tests.escape.probe import AT_FDCWD, call, words_of
from tests.escape.remains import private_directories
from tests.escape.sandbox import Sandbox
from tests.sandbox.raw import Program, operation, operations

pytestmark = pytest.mark.sandbox
EVERY = "HARDRUN_EVERY_FAULT" in os.environ  # make faults: every operation, not one of each kind
MARKER = "ran"
TRIED = {
    "launcher": "all it does before the clone",
    "parent": "what it does for an operation; its loop is no operation, its end is test_output's",
    "PID 1": "all it does until the command runs, and that it closes what it has open then",
    "child": "of newuidmap, and of the command until its exec",
}
_PARENT = {"write_id_map_helper": {"pipe2": 2, "clone": 2, "sendto": 1},
           "cgroup_v1": {"openat": 1, "write": 1, "sendto": 1}}
"""How many of the parent's calls an operation makes; those of its loop have the same place."""
UNTRIED = {"rt_sigaction": "fails by itself, for SIGKILL and SIGSTOP; else only for no signal",
           "madvise": "advice: where it fails a sandbox holds more memory, and nothing else"}


class Degraded(NamedTuple):
    """A call that may fail, and why the sandbox is no weaker: in which operations, with what, and
    by which of the processes, where it matters."""

    operations: str
    call: str
    errnos: str
    reason: str
    process: str = ""


DEGRADED = (
    Degraded("join_session_keyring", "keyctl", "ENOSYS", "a kernel without keys has none to hide"),
    Degraded("clone", "clone3", "ENOSYS", "clone(2) takes the same flags"),
    Degraded("clone", "getcwd", "*", "no directory of the caller's: its bind is refused, else /"),
    Degraded("clone", "unshare", "*", "asked for none: all namespaces come by the clone",
             "launcher"),
    Degraded("clone", "setns", "*", "asked for none: all namespaces come by the clone",
             "launcher"),
    Degraded("*", "openat2", "EAGAIN", "a race: tried again, a bounded number of times"),
    Degraded("standard_io", "fstat", "*", "not known to be /dev/null, or to be one file: relayed"),
    Degraded("write_id_map_helper", "dup2", "*", "the helper's words come to the caller instead"),
    Degraded("bind_working_directory", "mkdirat", "EEXIST", "one that is there is kept"),
    Degraded("mask make_read_only", "openat2", "ENOENT", "what does not exist needs no mask"),
    Degraded("cgroup cgroup_v1", "getdents64", "*", "what a killed parent left waits for the next"),
    Degraded("cgroup", "openat", "EBUSY", "processes in the way: the parent steps aside"),
    Degraded("mask", "fcntl", "*", "the next mask is a tmpfs of its own, not a clone of this one"),
)
LAST = ("landlock_restrict", "not_dumpable", "no_new_privs", "private_directory")
"""Which is PID 1's last, in one plan or another."""
PASSED_ON = ("recvfrom", "fstat", "openat", "dup2", "fcntl")
"""What PID 1 does behind its last operation: it looks whether the parent still lives, besides
PR_SET_PDEATHSIG, and exchanges /dev/null, which else stays the caller's: the same device."""
ANSWERED: Mapping[str, str] = {"fstatfs": "EXDEV", "getcwd": "EXDEV", "fstat": "ESTALE ENODEV",
                               "mkdirat": "ENOENT", "openat": "ENOENT", "lstat": "ESTALE",
                               "getgroups": "ESTALE", "getrlimit": "ESTALE", "read": "ESTALE",
                               "landlock_create_ruleset": "ESTALE"}
"""What is told where the call itself is: what can't be looked at is not what was decided on."""
CAPABILITIES = int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1  # then the list ends
EXECUTION = {errno.ENOENT: 127, errno.ENOTDIR: 127}  # of the command; others: 126


class Traced(NamedTuple):
    """A plan, the program of it and the calls that it makes."""

    sandbox: Sandbox
    program: Path
    calls: list[Call]


@pytest.fixture(scope="module")
def failing(executor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faulty.build(executor, tmp_path_factory.mktemp("faulty"))


@pytest.fixture(scope="module")
def traced(failing: Path, probe: Path, place: Path) -> dict[str, Traced]:
    """Every plan; in each but with EVERY only the kinds of calls that none before it has."""
    found, known = {}, set()
    for number, (name, sandbox) in enumerate(plans(probe, place).items()):
        program = sandbox.by(failing).write(f"program-{number}")
        calls = []
        for one in traced_calls(program, place):
            kind = (one.process, sandbox.ordered[one.operation].name, one.name, one.nth)
            if EVERY or kind not in known:
                known.add(kind)
                calls.append(one)
        found[name] = Traced(sandbox, program, calls)
    return found


def traced_calls(program: Path, place: Path) -> list[Call]:
    fault = Fault(place)
    done = run(program, place, fault)
    assert done.returncode == 0, done
    return fault.calls


def run(program: Path, place: Path, fault: Fault) -> subprocess.CompletedProcess[bytes]:
    marker = str(place / "shared" / MARKER)
    words = words_of([[call("openat", AT_FDCWD, marker, os.O_CREAT | os.O_WRONLY, 0o600)]])
    return subprocess.run([program, *words], env=fault.environment, stdin=subprocess.DEVNULL,
                          capture_output=True, check=False, timeout=30)


def is_tried(one: Call, name: str) -> bool:
    process = PROCESSES[one.process]
    if one.name in UNTRIED or (process, name) == ("PID 1", "execute"):
        return False
    if is_late(one, name):
        return one.name == "close_range"
    return process != "parent" or one.nth <= _PARENT.get(name, {}).get(one.name, 0)


def may_go_on(one: Call, name: str, error: str, last: bool) -> bool:
    if (last and one.name in PASSED_ON) or (name == "drop_bounding" and one.nth > CAPABILITIES):
        return True
    return any((d.operations == "*" or name in d.operations.split()) and d.call == one.name
               and d.process in ("", PROCESSES[one.process])
               and (d.errnos == "*" or error in d.errnos.split()) for d in DEGRADED)


def is_late(one: Call, name: str) -> bool:
    """PID 1 closes its own descriptors when the command runs already, which ends with it then."""
    return (PROCESSES[one.process], name) == ("PID 1", "close_descriptors")


def complaint(done: subprocess.CompletedProcess[bytes], one: Call, name: str, reason: str,
              number: int) -> str:
    """What is wrong with how a start failed; empty: nothing."""
    text, status = done.stderr.decode(), 125
    if name == "execute" and one.name == "execve":
        status = EXECUTION.get(number, 126)
    if done.returncode != status or (done.stdout and not is_late(one, name)):
        return f"status {done.returncode}, {len(done.stdout)} bytes of output: {text}"
    told = [errno.errorcode[number], *ANSWERED.get(one.name, "").split()]
    told += [errno.errorcode[getattr(errno, t)] for t in told]
    ending = f" (operation {one.operation}, {reason})\n"
    if text.count("\n") != 1 or not text.endswith(ending):
        return f"not one line that ends in {ending!r}: {text}"
    stale = name.startswith("require_") and "the plan is stale" in text
    if not stale and not any(f": {t}{ending}" in text for t in told):
        return f"none of {told} is told: {text}"
    return ""


def remains(place: Path) -> set[str]:
    """Files that a start may leave behind."""
    return {str(p) for name in ("shared", "layers") for p in (place / name).iterdir()
            } | private_directories()


def failures(each: Traced, place: Path) -> Iterator[str]:
    """Let every call fail in every way; what was not as it has to be."""
    steps = each.sandbox.ordered
    init = [c for c in each.calls if PROCESSES[c.process] == "PID 1"]
    last = max((c.operation for c in init if steps[c.operation].name in LAST), default=-1)
    marker = str(place / "shared" / MARKER)
    before = remains(place) - {marker}
    for one in each.calls:
        name, reason = steps[one.operation].name, steps[one.operation].reason
        for error in ERRNOS[one.name] if is_tried(one, name) else ():
            (place / "shared" / MARKER).unlink(missing_ok=True)
            fault, number = Fault(place, one, getattr(errno, error)), getattr(errno, error)
            where = f"{PROCESSES[one.process]}: {name}: {one.name} {one.nth}: {error}"
            try:
                done = run(each.program, place, fault)
            except subprocess.TimeoutExpired:
                yield f"{where}: hung"
                continue
            left, late = remains(place) - before, is_late(one, name)
            at_end = one.operation == last and PROCESSES[one.process] == "PID 1"
            if not fault.happened:
                yield f"{where}: did not happen"
            elif done.returncode == 0 and may_go_on(one, name, error, at_end):
                left.discard(marker)
            elif problem := complaint(done, one, name, reason, number):
                yield f"{where}: {problem}"
            elif late:
                left.discard(marker)
            if left:
                yield f"{where}: left behind: {left}"


NAMES = ("untrusted", "judge", "agent", "build", "contained", "docker-default", "image",
         "layer", "kept layer", "ids of its own", "one id", "baseline", "restricted", "stored",
         "terminal", "anywhere", "landlock tier")


@pytest.mark.parametrize("name", NAMES)
def test_a_start_fails_with_any_of_its_operations(traced: dict[str, Traced], place: Path,
                                                  name: str) -> None:
    found = list(failures(traced[name], place))
    assert not found, f"{len(found)}:\n" + "\n".join(found)


def test_what_is_overlooked_is_seen(executor: Path, probe: Path, place: Path,
                                    tmp_path: Path) -> None:
    """The control: where EINVAL ends the list of capabilities, the rest stays, in silence."""
    sandbox = Sandbox(probe, place)
    program = sandbox.by(faulty.build(executor, tmp_path, ["overlooks a failure"])).write()
    calls = [c for c in traced_calls(program, place)
             if sandbox.steps[c.operation] == "drop_bounding" and c.nth == 5]
    assert any("EINVAL: status 0" in problem
               for problem in failures(Traced(sandbox, program, calls), place))


GROUPS = {
    "version 2": ("unified", operation("cgroup", "", "", "", b"", 0, 0, 0),
                  operation("cgroup_limit", "cgroup.max.depth", "3"),
                  operation("await_cgroup", 0, 1)),
    "version 1": ("pids", operation("cgroup_v1", "", "pids"),
                  operation("cgroup_limit", "pids.max", "50"), operation("await_cgroup", 1, 1)),
}


@pytest.mark.root
@pytest.mark.parametrize("kind", GROUPS)
def test_a_group_that_can_not_be_made_or_limited(failing: Path, place: Path, kind: str) -> None:
    """Root's alone on this host: an ordinary user has no group to make others in."""
    hierarchy, group, *others = GROUPS[kind]
    parent = Path("/sys/fs/cgroup", hierarchy, f"hardrun-test.{os.getpid()}")
    if not parent.parent.is_dir():
        pytest.skip(f"no {parent.parent}")
    parent.mkdir()
    try:
        group = group._replace(values=(str(parent), *group.values[1:]))
        plan = encode(operations(["true"], [group, *others]))
        program = Path(Program(failing, place).write_plan(plan))
        found = list(_of_groups(program, place, parent, decode(plan).operations))
    finally:
        parent.rmdir()
    assert not found, "\n".join(found)


def _of_groups(program: Path, place: Path, parent: Path, ordered: Sequence[Operation]
               ) -> Iterator[str]:
    for one in traced_calls(program, place):
        name = ordered[one.operation].name
        if "cgroup" not in name or not is_tried(one, name):
            continue
        for error in ERRNOS[one.name]:
            number = getattr(errno, error)
            done = run(program, place, Fault(place, one, number))
            where = f"{PROCESSES[one.process]}: {name}: {one.name} {one.nth}: {error}"
            problem = complaint(done, one, name, ordered[one.operation].reason, number)
            if problem and not (done.returncode == 0 and may_go_on(one, name, error, last=False)):
                yield f"{where}: {problem}"
            for left in [p for p in parent.iterdir() if p.is_dir()]:
                left.rmdir()
                if left.name != "hardrun-supervisor":  # where the parent steps aside to
                    yield f"{where}: left behind: {left}"


def test_every_operation_is_in_a_plan_or_tried_elsewhere(traced: dict[str, Traced]) -> None:
    assert tuple(traced) == NAMES
    performed = {name for each in traced.values() for name in each.sandbox.steps}
    assert {o.name for o in OPERATIONS} == performed | set(ABSENT)
    assert not performed & set(ABSENT)


def test_every_call_that_is_made_has_its_errnos(traced: dict[str, Traced]) -> None:
    made = {one.name for each in traced.values() for one in each.calls}
    assert made - set(UNTRIED) <= set(ERRNOS)


def test_the_shipped_executor_can_not_be_told_to_fail(executor: Path, failing: Path) -> None:
    assert faulty.VARIABLE.encode() in failing.read_bytes()
    assert faulty.VARIABLE.encode() not in executor.read_bytes()
