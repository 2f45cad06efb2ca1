"""The executor without namespaces: what it ends, what it removes, what it refuses."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from hardrun.kernel import landlock
from hardrun.plan.format import encode
from hardrun.plan.schema import Operation, Unsafe
from tests.fake_kernel import FakeKernel
from tests.sandbox.raw import ALLOW_ALL, READ, Program, operation

BARE = Unsafe.NO_NAMESPACES | Unsafe.NO_PIVOT_ROOT | Unsafe.NO_BOUNDING_DROP | Unsafe.SHARED_NETWORK
PATIENCE = 20.0
needs_scopes = pytest.mark.skipif(landlock.abi_version() < 6, reason="needs Landlock ABI 6")


def bare(argv: Sequence[str], extra: Sequence[Operation] = ()) -> bytes:
    """A plan without namespaces that shows /usr and has a private directory."""
    abi = landlock.abi_version()
    everything = int(landlock.filesystem_access(abi))
    return encode(sorted([
        operation("private_directory", "/tmp"),
        operation("clone", 0),
        operation("standard_io", 0, 0, 0),
        operation("set_capabilities", 0),
        operation("no_new_privs"),
        operation("not_dumpable"),
        operation("landlock_ruleset", everything, 0, int(landlock.scopes(abi))),
        *(operation("landlock_path", path, READ) for path in ("/usr", "/bin", "/lib", "/lib64")),
        operation("landlock_path", "/dev/null", 6),
        operation("landlock_path", "~", everything),
        operation("landlock_restrict"),
        *(operation("argument", word) for word in argv),
        operation("environment", "PATH=/usr/bin:/bin"),
        operation("environment_of_directory", "HOME"),
        operation("new_session"),
        operation("set_umask", 0o22),
        operation("change_directory", "~"),
        operation("close_descriptors"),
        operation("load_seccomp", ALLOW_ALL, 0),
        operation("execute", argv[0], "/usr/bin"),
        *extra,
    ], key=_place), BARE)


def _place(step: Operation) -> tuple[int, int]:
    from hardrun.plan.schema import BY_NAME

    kind = BY_NAME[step.name]
    return kind.phase, kind.rank


@pytest.fixture
def program(executor: Path, tmp_path: Path) -> Program:
    return Program(executor, tmp_path)


def run(program: Program, script: str,
        extra: Sequence[Operation] = ()) -> subprocess.CompletedProcess[str]:
    path = program.write_plan(bare(["sh", "-c", script], extra))
    return subprocess.run([path], capture_output=True, text=True, timeout=60)


def gone(pid: int) -> bool:
    """Whether a process is gone, waiting for it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if not os.path.exists(f"/proc/{pid}"):
            return True
        time.sleep(0.01)
    return False


def private_directories() -> set[str]:
    return {name for name in os.listdir("/tmp") if name.startswith("hardrun-0x")
            and os.stat(f"/tmp/{name}").st_uid == os.getuid()}


def test_a_command_runs_in_a_directory_of_its_own_that_is_removed(program: Program) -> None:
    before = private_directories()
    done = run(program, "pwd; echo $HOME; umask; echo x > f; cat f; exit 7")
    pwd, home, umask, content = done.stdout.split()
    assert done.returncode == 7, done.stderr
    assert pwd == home
    assert pwd.startswith("/tmp/hardrun-0x")
    assert (umask, content) == ("0022", "x")
    assert not os.path.exists(pwd)
    assert private_directories() == before


def test_whatever_the_workload_leaves_there_is_removed(program: Program) -> None:
    before = private_directories()
    script = """
        mkdir -p a/b/c/d; touch a/b/c/d/f
        ln -s /usr usr; mkfifo fifo; touch 0 1 2; mkdir 5; touch 5/5
        i=0; while [ $i -lt 200 ]; do mkdir deep; cd deep; i=$((i + 1)); done
        cd "$HOME"; chmod 000 a/b/c/d a/b/c a/b a; chmod 000 "$HOME"
    """
    done = run(program, script)
    assert done.returncode == 0, done.stderr
    assert private_directories() == before
    assert os.path.isdir("/usr/bin")


def test_nothing_outlives_the_command(program: Program) -> None:
    done = run(program, "setsid sh -c 'sleep 1000 & echo $! > first; sleep 1000' & "
                        "until [ -s first ]; do sleep 0.01; done; cat first; echo $!")
    first, second = map(int, done.stdout.split())
    assert gone(first)
    assert gone(second)


def test_nothing_outlives_a_time_out(program: Program) -> None:
    done = run(program, "trap '' TERM INT; setsid sleep 1000 & echo $!; sleep 1000",
               [operation("timeout", 500)])
    assert done.returncode == 124
    assert gone(int(done.stdout.split()[0]))


@needs_scopes
def test_nothing_outlives_a_supervisor_that_is_killed(program: Program) -> None:
    before = private_directories()
    path = program.write_plan(bare(["sh", "-c", "setsid sleep 1000 & echo $!; sleep 1000"]))
    with subprocess.Popen([path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
    assert gone(child)
    deadline = time.monotonic() + PATIENCE
    while private_directories() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert private_directories() == before


def test_processes_that_fork_on_and_on_are_ended(program: Program) -> None:
    script = "f() { (f) & sleep 0.01; }; ulimit -u; f; sleep 0.2; exit 3"
    done = run(program, script, [operation("timeout", 20000)])
    assert done.returncode == 3, done.stderr


@needs_scopes
def test_the_supervisor_is_out_of_reach(program: Program) -> None:
    done = run(program, "kill -9 $PPID; echo $?; kill -16 $PPID; echo $?; sleep 1000 & kill $!; "
                        "wait $!; echo $?")
    assert done.stdout.split() == ["1", "1", "143"]


def test_signals_reach_the_command(program: Program) -> None:
    path = program.write_plan(bare(["sh", "-c", "trap 'echo got; exit 9' TERM; echo ready; "
                                    "while :; do sleep 0.05; done"]))
    with subprocess.Popen([path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "got\n"
    assert process.returncode == 9


def test_a_command_that_is_not_there_leaves_nothing(program: Program) -> None:
    before = private_directories()
    path = program.write_plan(bare(["/usr/bin/absent"]))
    assert subprocess.run([path], capture_output=True).returncode == 127
    assert private_directories() == before


@pytest.mark.parametrize("name,values", [("make_private", ()), ("pivot_root", ()),
                                         ("set_hostname", ("x",)), ("write_id_map", (0, 0))])
def test_a_plan_that_would_change_the_host_is_refused(
        program: Program, name: str, values: tuple[int | str, ...]) -> None:
    path = program.write_plan(bare(["true"], [operation(name, *values)]))
    done = subprocess.run([path], capture_output=True, text=True)
    assert done.returncode == 125
    assert done.stderr == "hardrun: the plan changes the host: it has no namespaces\n"


def test_a_plan_without_namespaces_must_say_so(program: Program) -> None:
    plan = encode([operation("clone", 0), operation("execute", "true", "")],
                  Unsafe(sum(Unsafe)) & ~Unsafe.NO_NAMESPACES)
    done = subprocess.run([program.write_plan(plan)], capture_output=True, text=True)
    assert done.stderr == "hardrun: the plan shares a namespace that must be private\n"


def test_a_filter_that_hides_clone3_does_not_matter(program: Program) -> None:
    path = program.write_plan(bare(["echo", "started"]))
    kernel = FakeKernel(errors={"clone3": errno.ENOSYS}, user_namespaces=errno.EPERM)
    done = kernel.run([path])
    assert (done.stdout, done.stderr) == ("started\n", "")
