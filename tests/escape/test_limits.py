"""Limits (section RS): each is what was decided, holds without a cgroup, and can't be raised."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from pathlib import Path

import pytest

from hardrun.plan.schema import Operation
from hardrun.plan.uapi import Resource
from tests.escape.conftest import Made
from tests.escape.layers import LAYERS, Planned
from tests.escape.probe import Call, Out, Result, answers_of, call, contents, words_of
from tests.escape.sandbox import POLICIES, Sandbox

pytestmark = pytest.mark.sandbox
HIGH = 0x123 << 32  # the kernel looks at the lower half of a resource
HOLD = [call("@hold", 30_000)]
CRASH = (call("@poke", 8, 1),)  # an address that nobody has
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern").read_text().strip()


def limit_of(number: int) -> Call:
    """The step that reads a limit: soft and hard, 8 bytes each."""
    return call("prlimit64", 0, number, 0, Out(16))


def without_watching(planned: Planned) -> Planned:
    """Nobody looks at what all processes have together."""
    return planned.drop("watch")


# -- RS-02, RS-03: what one sandbox may take ------------------------------------------------------


def test_rs_02_while_a_fork_bomb_goes_off_its_user_makes_processes(sandbox: Made) -> None:
    """Processes are counted in the sandbox's user namespace: the caller's own stay free."""
    made = sandbox(limits={"pids": "16"})
    with subprocess.Popen([made.write(), *words_of([[call("@fork", 64), *HOLD]])],
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            while len(processes_below(process.pid)) < 16:
                assert process.poll() is None
                time.sleep(0.01)
            assert subprocess.run(["/bin/true"], check=True).returncode == 0
            assert len(processes_below(process.pid)) <= 17  # and PID 1
        finally:
            process.kill()


def processes_below(pid: int) -> set[int]:
    """All that come of a process."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        children.setdefault(parent, []).append(int(name))
    found: set[int] = set()
    rest = [pid]
    while rest:
        rest = [child for parent in rest for child in children.get(parent, [])]
        found |= set(rest)
    return found


def test_rs_03_memory_is_held_by_the_rlimit_of_each_and_by_looking_at_all(sandbox: Made) -> None:
    """Without a cgroup (tests/vm has one). By the rlimit a process gets no more; by the watcher
    the sandbox ends; with neither it has what it wants."""
    eating = words_of([[call("@memory", 48), call("@hold", 3000)]])
    made = sandbox(limits={"memory": "16M"})
    alone = made.removed(without_watching).start(eating)
    assert answers_of(alone.stdout)[0].steps[0].word == "ENOMEM"
    assert made.removed(LAYERS["RLIMIT_DATA"]).start(eating).returncode == 137
    free = made.removed(LAYERS["RLIMIT_DATA"], without_watching).start(
        words_of([[call("@memory", 48)]]))
    assert answers_of(free.stdout)[0].steps[0].value == 48


# -- RS-05: every rlimit --------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_rs_05_every_limit_inside_is_the_plans(sandbox: Made, policy: str) -> None:
    made = sandbox(policy, limits={"stack": "8M"})
    planned = [tuple(int(str(value)) for value in o.values)
               for o in made.planned.operations if o.name == "set_limit"]
    assert {number for number, *_ in planned} >= {
        Resource.RLIMIT_CORE, Resource.RLIMIT_DATA, Resource.RLIMIT_MEMLOCK, Resource.RLIMIT_NOFILE,
        Resource.RLIMIT_NPROC, Resource.RLIMIT_STACK}
    answers = made.attack(*[[limit_of(number)] for number, *_ in planned])
    for (_, *wanted), answer in zip(planned, answers, strict=True):
        assert [int.from_bytes(answer.out[i:i + 8], "little") for i in (0, 8)] == wanted


def test_rs_05_without_the_operation_it_is_the_callers(sandbox: Made) -> None:
    made = sandbox().removed(LAYERS["RLIMIT_NOFILE"])
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert own != (1024, 1024)
    out = made.one(limit_of(Resource.RLIMIT_NOFILE)).out
    assert tuple(int.from_bytes(out[i:i + 8], "little") for i in (0, 8)) == own


def test_rs_05_memory_beyond_the_limit_can_not_be_locked(sandbox: Made) -> None:
    much = 1 << 20
    own = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    assert own == resource.RLIM_INFINITY or own >= much, "inconclusive: the caller neither"
    steps = (call("mmap", 0, much, 3, 0x22, -1, 0), call("mlock", Result(0), much))
    assert sandbox().one(*steps).word in ("ENOMEM", "EPERM")
    assert sandbox().removed(LAYERS["RLIMIT_MEMLOCK"]).one(*steps).word == "ok"


@pytest.mark.parametrize("limit", [(Resource.RLIMIT_NOFILE, 1024, 512),  # soft above hard
                                   (Resource.RLIMIT_NOFILE, 1 << 40, 1 << 40),
                                   (99, 1, 1)])
def test_rs_05_a_limit_that_the_kernel_refuses_starts_nothing(sandbox: Made,
                                                              limit: tuple[int, int, int]) -> None:
    def impossible(planned: Planned) -> Planned:
        return planned.insert(Operation("set_limit", limit, "test, test.yaml:1"), after="set_limit")

    done = sandbox().removed(impossible).start(words_of([[call("getpid")]]))
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"setrlimit: E" in done.stderr
    assert b"(operation " in done.stderr


# -- RS-06: cores ---------------------------------------------------------------------------------


@pytest.mark.skipif(CORE_PATTERN.startswith(("|", "/", "@")) or "%" in CORE_PATTERN,
                    reason=f"cores go to {CORE_PATTERN}: tests/vm/test_core_dumps.py")
def test_rs_06_a_crash_leaves_no_core(sandbox: Made, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    made = sandbox("contained", rw=[str(tmp_path / "work")], workdir=str(tmp_path / "work"))
    unlimited = resource.getrlimit(resource.RLIMIT_CORE)[1]
    assert unlimited != 0, "inconclusive: this user can have no core at all"

    def left(made: Sandbox) -> list[str]:
        [answer] = made.attack(CRASH, preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_CORE, (unlimited, unlimited)))
        assert answer.word == "SIGSEGV"
        return os.listdir(tmp_path / "work")

    assert left(made) == []
    assert any("core" in name for name in left(made.removed(LAYERS["RLIMIT_CORE"])))


def test_rs_06_the_limit_is_1_and_who_lowers_it_is_told_that_it_is_done(sandbox: Made) -> None:
    """core(5): at 0 the kernel starts the program that cores go to, at 1 it does not. Programs
    that hold secrets set 0 and end where they can't, so they are not refused."""
    zero, core = bytes(16), Resource.RLIMIT_CORE

    def left(made: Sandbox, *lower: Call) -> list[int]:
        answer = made.one(*lower, limit_of(core))
        assert [step.word for step in answer.steps] == ["ok"] * (len(lower) + 1)
        return [int.from_bytes(answer.out[i:i + 8], "little") for i in (0, 8)]

    by = (call("prlimit64", 0, core, zero, 0), call("setrlimit", core, zero),
          call("prlimit64", 0, HIGH | core, zero, 0), call("setrlimit", HIGH | core, zero))
    for policy in POLICIES:
        assert left(sandbox(policy), *by) == [1, 1]
    free = sandbox().removed(LAYERS["seccomp"])
    assert {tuple(left(free, lower)) for lower in by} == {(0, 0)}


# -- RS-07: who is killed first when memory runs out ----------------------------------------------


def test_rs_07_oom_score_adj_is_the_callers(sandbox: Made) -> None:
    def raised() -> None:
        Path("/proc/self/oom_score_adj").write_text("417")

    made = sandbox()
    [answer] = made.attack(contents("/proc/self/oom_score_adj"), preexec_fn=raised)
    assert answer.text.strip() == "417"
    [answer] = made.attack(contents("/proc/self/oom_score_adj"))
    assert answer.text.strip() == Path("/proc/self/oom_score_adj").read_text().strip()
