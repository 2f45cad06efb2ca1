"""Starting the executor as a child: from threads and tasks, with cancellation, leaving nothing.

The plans are written by hand, so that nothing here depends on a policy.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hardrun.errors import CommandNotFound, ExecutorError
from hardrun.executor import start
from hardrun.executor.report import error_of
from hardrun.plan.schema import Operation as O
from hardrun.plan.schema import Unsafe
from hardrun.plan.uapi import Clone, MountAttribute
from tests.installed import HARDRUN

NAMESPACES = (Clone.CLONE_NEWUSER | Clone.CLONE_NEWNS | Clone.CLONE_NEWPID | Clone.CLONE_NEWNET
              | Clone.CLONE_NEWIPC | Clone.CLONE_NEWUTS)
READ_ONLY = MountAttribute.MOUNT_ATTR_RDONLY | MountAttribute.MOUNT_ATTR_NOSUID
ROOT = Path(__file__).resolve().parents[2]


def program(command: str = "sh", *more: O) -> start.Program:
    """/usr, /proc and nothing else; the weakest plan that needs few ``unsafe`` bits."""
    operations = [
        O("clone", (int(NAMESPACES),)), O("standard_io", (0, 0, 1 << 20)),
        O("write_id_map", (os.getuid(), os.getgid())), O("make_private", ()),
        O("root_tmpfs", (1 << 20, 100)),
        *[O("make_directory", (path, 0o755)) for path in ("/usr", "/proc", "/dev")],
        *[O("make_symlink", (f"/{name}", f"usr/{name}"))
          for name in ("bin", "lib", "lib64", "sbin")],
        O("bind", ("/usr", "/usr", int(READ_ONLY), 2, 0, 0, 0o040000)),
        O("mount_proc", ("/proc", 1)), O("pivot_root", ()), O("drop_bounding", (0,)),
        O("set_capabilities", (0,)), O("no_new_privs", ()), O("not_dumpable", ()),
        O("argument", (command,)), O("arguments_of_caller", ()), O("new_session", ()),
        O("change_directory", ("/",)), O("close_descriptors", ()),
        O("execute", (command, "/usr/bin")), *more,
    ]
    return start.Program(operations, Unsafe.NO_SECCOMP | Unsafe.NO_LANDLOCK, b"{}")


def shell(script: str, *more: O, input: bytes | None = None) -> start.Finished:
    return start.run(program("sh", *more), ["-c", script], input=input, capture=True,
                     stdin=subprocess.DEVNULL)


@contextmanager
def started(script: str) -> Iterator[tuple[subprocess.Popen[bytes], start.Channels]]:
    """A sandbox whose first line of output has been read."""
    with start.Channels(program()) as channels:
        process = subprocess.Popen(["hardrun", "-c", f"echo ready; {script}"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   **channels.popen_arguments())
        channels.started()
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            try:
                yield process, channels
            finally:
                start.end(process, channels)


def test_output_and_status_are_the_commands_own() -> None:
    finished = shell("echo out; echo err >&2; cat; exit 7", input=b"in")
    assert (finished.stdout, finished.stderr, finished.returncode) == (b"out\nin", b"err\n", 7)
    assert (finished.report.outcome, finished.report.status) == ("exited", 7)


def test_a_signal_is_told_as_shells_do() -> None:
    finished = shell("kill -SEGV $$")
    assert (finished.returncode, finished.report.outcome, finished.report.status) == (
        139, "signaled", signal.SIGSEGV)


def test_the_time_out_ends_everything() -> None:
    finished = shell("sleep 1000 & sleep 1000", O("timeout", (100,)))
    assert (finished.returncode, finished.report.outcome) == (124, "timeout")


def test_a_command_that_is_not_there_is_an_error() -> None:
    finished = start.run(program("no-such-command"), [], capture=True, stdin=subprocess.DEVNULL)
    assert finished.returncode == 127
    assert isinstance(error_of(finished.report, finished.plan), CommandNotFound)


def test_a_failed_operation_is_an_error_and_nothing_ran() -> None:
    finished = shell("echo ran", O("bind", ("/no/such/source", "/dev", 0, 2, 0, 0, 0o040000)))
    error = error_of(finished.report, finished.plan)
    assert finished.returncode == 125
    assert finished.stdout == b""
    assert isinstance(error, ExecutorError)
    assert "bind /no/such/source on /dev" in error.message


def test_ten_thousand_arguments_with_any_bytes_arrive() -> None:
    words = [os.fsdecode(bytes([1 + n % 255])) for n in range(10_000)]
    finished = start.run(program("printf"), ["%s", *words], capture=True, stdin=subprocess.DEVNULL)
    assert finished.stdout == b"".join(os.fsencode(word) for word in words)


def test_the_command_has_three_descriptors_however_many_the_caller_leaks() -> None:
    leaked = [os.open("/", os.O_RDONLY) for _ in range(40)]
    try:
        for descriptor in leaked:
            os.set_inheritable(descriptor, True)
        finished = shell("echo /proc/self/fd/*")
    finally:
        for descriptor in leaked:
            os.close(descriptor)
    # the shell's own listing is the fourth
    assert finished.stdout is not None
    assert len(finished.stdout.split()) <= 4


def test_a_sandbox_does_not_hold_anothers_lifeline_open() -> None:
    with started("sleep 1000") as (first, channels), started("sleep 1000") as (second, _):
        channels.cancel()
        assert first.wait(start.GRACE) != 0
        assert second.poll() is None


def test_the_thread_that_started_a_sandbox_may_end() -> None:
    found: list[tuple[subprocess.Popen[bytes], start.Channels]] = []

    def begin() -> None:
        channels = start.Channels(program())
        found.append((subprocess.Popen(["hardrun", "-c", "read line; echo $line"],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       **channels.popen_arguments()), channels))
        channels.started()

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    [(process, channels)] = found
    with channels:
        assert process.communicate(b"alive\n") == (b"alive\n", None)
        assert process.returncode == 0


def test_eight_threads_of_fifty_sandboxes_leave_nothing() -> None:
    wrong: list[start.Finished] = []

    def work(number: int) -> None:
        for turn in range(50):
            finished = shell(f"echo {number} {turn}")
            if finished.stdout != f"{number} {turn}\n".encode():
                wrong.append(finished)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_cancelling_a_task_ends_every_process() -> None:
    async def scenario() -> None:
        task = asyncio.create_task(start.run_async(
            program(), ["-c", "setsid sleep 1000 & trap '' TERM INT; sleep 1000"],
            stdin=subprocess.DEVNULL, capture=True))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_tasks_run_side_by_side() -> None:
    async def scenario() -> list[start.Finished]:
        return await asyncio.gather(*[
            start.run_async(program(), ["-c", f"cat; echo {n}"], input=b"in", capture=True)
            for n in range(20)])

    assert [f.stdout for f in asyncio.run(scenario())] == [b"in%d\n" % n for n in range(20)]


def test_the_gate_shows_the_command_before_its_first_instruction() -> None:
    seen: list[str] = []

    def look(pid: int) -> None:
        seen.append(Path(f"/proc/{pid}/status").read_text())

    finished = start.run(program("true"), [], capture=True, stdin=subprocess.DEVNULL, at_gate=look)
    assert finished.returncode == 0
    assert "Name:\ttrue\n" in seen[0]
    assert "NoNewPrivs:\t1\n" in seen[0]


def test_a_refusal_at_the_gate_means_that_nothing_ran() -> None:
    class NotThis(Exception):
        pass

    def refuse(pid: int) -> None:
        raise NotThis

    read, write = os.pipe()
    with pytest.raises(NotThis):
        start.run(program("echo"), ["ran"], at_gate=refuse, stdin=subprocess.DEVNULL, capture=True)
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


def test_a_task_that_waits_at_the_gate_can_be_cancelled() -> None:
    reached, leave = threading.Event(), threading.Event()

    def hold(pid: int) -> None:
        reached.set()
        leave.wait()
        raise KeyError(pid)

    async def scenario() -> None:
        task = asyncio.create_task(start.run_async(program("true"), [], at_gate=hold,
                                                   stdin=subprocess.DEVNULL))
        await asyncio.to_thread(reached.wait)
        task.cancel()
        leave.set()
        with pytest.raises((asyncio.CancelledError, KeyError)):
            await task

    asyncio.run(scenario())


def test_a_caller_without_standard_descriptors_gives_none_away() -> None:
    script = ("import os, sys; [os.close(n) for n in (0, 1, 2)]\n"
              "import test_run_start as t\n"
              "f = t.start.run(t.program(), ['-c', 'exit 3'])\n"
              "os._exit(f.returncode)")
    environment = {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "PATH": os.environ["PATH"]}
    assert subprocess.run([sys.executable, "-c", script], env=environment,
                          check=False).returncode == 3


def test_nothing_survives_when_the_caller_is_killed() -> None:
    script = ("import test_run_start as t\n"
              "t.start.run(t.program(), ['-c', 'echo ready; setsid sleep 1000 & sleep 1000'])")
    environment = {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "PATH": os.environ["PATH"]}
    with subprocess.Popen([sys.executable, "-c", script], env=environment,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()


def test_descriptors_are_closed_when_there_are_none_left(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    for spare in range(8):
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(highest + 1 + spare, soft), hard))
        try:
            with start.Channels(program(), gate=True):
                pass
        except (OSError, ExecutorError, start.image.HardrunError):
            pass
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == used


def test_no_sandbox_may_write_the_policy_that_it_is_held_to(tmp_path: Path) -> None:
    """It would loosen the next run."""
    own = tmp_path / "project" / "own.yaml"
    own.parent.mkdir()
    builtin = Path(__file__).parents[2] / "policies" / "agent.yaml"
    own.write_text(builtin.read_text().replace("  name: agent\n", "  name: own\n", 1))
    for access, status in (("--ro", 0), ("--rw", 125)):
        done = subprocess.run([HARDRUN, "run", "--policy", str(own), access, str(own.parent), "--",
                               "true"], capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
    assert f"the policy {own} would be writable" in done.stderr
