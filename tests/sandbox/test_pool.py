"""Sandboxes that wait for a command: used once, held to what a run is, gone with the owner."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hardrun
from hardrun.kernel import procfs
from hardrun.plan import ahead
from hardrun.verify import find_sandbox, verify_sandbox

PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PATH", "/usr/local/bin:/usr/bin:/bin")


@pytest.fixture
def pool() -> Iterator[hardrun.Pool]:
    with hardrun.Pool(policy="judge", size=2) as made:
        yield made


def sh(pool: hardrun.Pool, script: str, **options: object) -> hardrun.Result:
    return pool.run(["sh", "-c", script], **({"capture_output": True} | options))  # type: ignore[arg-type]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing of the kind happened"
        time.sleep(0.01)


def launchers(owner: int | None = None) -> list[int]:
    """The executors that a process has as children."""
    found = []
    for pid, status in procfs.statuses().items():
        if status.parent == (owner or os.getpid()) and status.name == "hardrun":
            found.append(pid)
    return found


def family(owner: int) -> list[int]:
    """The executors that a process has as children, and their children."""
    above = launchers(owner)
    return above + [pid for pid, status in procfs.statuses().items() if status.parent in above]


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists() or procfs.status(pid).state in "ZX"


def test_a_command_is_told_of_as_a_run_is(pool: hardrun.Pool) -> None:
    result = sh(pool, "echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.returncode) == (b"out\n", b"err\n", 3)
    assert (result.outcome, result.signal, result.truncated) == ("exited", None, False)
    assert (result.usage.output, result.decision) == (8, pool.decision)
    result = sh(pool, "kill -SEGV $$")
    assert (result.outcome, result.returncode, result.signal) == ("signaled", 139, 11)
    assert sh(pool, "cat", input="grüße", text=True).stdout == "grüße"
    assert sh(pool, "pwd; echo $A", workdir="/usr", env={"A": "b"}).stdout == b"/usr\nb\n"
    assert sh(pool, "sleep 1000", timeout=0.2).outcome == "timeout"
    with pytest.raises(subprocess.CalledProcessError):
        sh(pool, "exit 3", check=True)


def waiting(pool: hardrun.Pool) -> tuple[int, dict[int, procfs.Status]]:
    """PID 1 of a sandbox that waits, and its children."""
    launcher = pool._waiting[0].process.pid
    statuses = procfs.statuses()
    init = next(pid for pid, status in statuses.items() if status.parent == launcher)
    return init, {pid: status for pid, status in statuses.items() if status.parent == init}


def test_the_process_that_waits_has_its_filter_and_can_not_be_looked_into(
        pool: hardrun.Pool) -> None:
    until(lambda: len(waiting(pool)[1]) == 1)
    [pid] = waiting(pool)[1]

    def filters() -> bytes:
        return Path(f"/proc/{pid}/status").read_bytes()
    until(lambda: b"Seccomp:\t2" in filters())
    with pytest.raises(PermissionError):
        os.listdir(f"/proc/{pid}/fd")
    os.kill(pid, signal.SIGKILL)
    assert sh(pool, "echo fine").stdout == b"fine\n"


def test_one_that_waits_is_verified(pool: hardrun.Pool) -> None:
    until(lambda: len(waiting(pool)[1]) == 1)
    found = verify_sandbox(find_sandbox(pool._waiting[0].process.pid))
    assert len(found.processes) == 2
    assert found.holds
    assert not found.unverified


def test_a_filter_that_would_not_let_it_go_on_comes_last(
        monkeypatch: pytest.MonkeyPatch) -> None:
    script = "grep Seccomp: /proc/self/status; ulimit -d; umask"
    with monkeypatch.context() as patched:
        patched.setattr(ahead, "is_possible", lambda operations: False)
        with hardrun.Pool(policy="judge", size=1) as pool:
            until(lambda: len(waiting(pool)[1]) == 1)
            [pid] = waiting(pool)[1]
            assert b"Seccomp:\t0" in Path(f"/proc/{pid}/status").read_bytes()
            last = sh(pool, script).stdout
    with hardrun.Pool(policy="judge", size=1) as pool:
        assert sh(pool, script).stdout == last
    assert b"Seccomp:\t2" in last


def test_what_it_asks_of_the_kernel_behind_its_filter_is_what_is_left(tmp_path: Path) -> None:
    script = ("import hardrun\nwith hardrun.Pool(policy='agent', size=1) as p:\n"
              " p.run(['true'], input=b'x', workdir='/usr')\n"
              " try: p.run(['no-such-command'])\n except hardrun.CommandNotFound: pass")
    log = tmp_path / "log"
    done = subprocess.run(["strace", "-f", "-qq", "-o", log, sys.executable, "-c", script],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    filtered: set[str] = set()
    asked: set[str] = set()
    for line in log.read_text(errors="replace").splitlines():
        pid, _, call = line.partition(" ")
        name = call.strip().partition("(")[0]
        if pid in filtered and name.isidentifier():
            asked.add(name)
        if name == "seccomp" and "FILTER" in call:
            filtered.add(pid)
        if "execve" in call and call.endswith("= 0"):
            filtered.discard(pid)
    assert {"recvmsg", "sendmsg", "execve"} <= asked
    assert asked <= set(ahead.LEFT)


def test_its_decision_is_that_of_a_run(pool: hardrun.Pool) -> None:
    def controls(decision: hardrun.Decision) -> list[tuple[str, object]]:
        return [(c.control, c.value) for c in decision.controls]

    assert controls(pool.decision) == controls(hardrun.explain(["sh"], policy="judge"))


def test_a_sandbox_is_used_once(pool: hardrun.Pool) -> None:
    for _ in range(6):
        result = sh(pool, "ls /tmp $HOME; echo used > /tmp/used; echo used > $HOME/used")
        assert b"used" not in result.stdout


def test_nothing_of_a_command_is_left_when_it_is_told(pool: hardrun.Pool) -> None:
    result = sh(pool, "setsid sleep 1234 & sleep 1234 & echo $$")
    assert result.returncode == 0
    assert not [pid for pid in procfs.statuses()
                if b"1234" in _command_line(pid) and not gone(pid)]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_limits_are_those_of_a_run_from_the_command_on() -> None:
    with hardrun.Pool(policy="judge", size=1, timeout=2, cpu_time="60s",
                      output_limit=100_000) as pool:
        time.sleep(2.5)  # time in which it only waits is not the command's
        assert sh(pool, "sleep 0.3; echo done").stdout == b"done\n"
        assert sh(pool, "sleep 1000").outcome == "timeout"
        result = sh(pool, "yes")
        assert (result.outcome, result.truncated, len(result.stdout)) == (
            "output-limit", True, 100_000)
    with hardrun.Pool(policy="judge", size=1, cpu_time="1s") as pool:
        # The kernel's signal may come before its exact count is there, which is told then.
        result = sh(pool, "while :; do :; done")
        assert result.outcome == "cpu-limit" or result.signal == signal.SIGXCPU


@pytest.mark.parametrize("argv, options, error", [
    (["no-such-command"], {}, hardrun.CommandNotFound),
    (["/etc/passwd"], {}, hardrun.CommandNotExecutable),
    (["true"], {"workdir": "/no/such"}, hardrun.BadInput),
    ([], {}, hardrun.BadInput),
], ids=["missing", "no program", "directory", "empty"])
def test_what_can_not_be_started_is_an_exception(pool: hardrun.Pool, argv: list[str],
                                                 options: dict[str, str],
                                                 error: type[Exception]) -> None:
    with pytest.raises(error):
        pool.run(argv, **options)  # type: ignore[arg-type]
    assert pool.run(["true"]).returncode == 0


@pytest.mark.parametrize("size", [0, -1, 1000])
def test_its_size_is_bounded(size: int) -> None:
    with pytest.raises(hardrun.BadInput, match="size"):
        hardrun.Pool(size=size)


def test_no_more_wait_than_its_size(pool: hardrun.Pool) -> None:
    for _ in range(4):
        pool.run(["true"])
    until(lambda: len(launchers()) == 2)
    pool.close()
    assert launchers() == []
    with pytest.raises(hardrun.BadInput, match="closed"):
        pool.run(["true"])


def test_many_threads_use_one_pool(pool: hardrun.Pool) -> None:
    found: list[bool] = []

    def work(number: int) -> None:
        for turn in range(5):
            result = sh(pool, f"cat; echo {number}.{turn}; exit {turn}", input=b"x" * number)
            found.append((result.stdout, result.returncode) ==
                         (b"x" * number + b"%d.%d\n" % (number, turn), turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 30


def test_it_serves_asyncio_and_cancelling_ends_the_command(pool: hardrun.Pool) -> None:
    async def main() -> None:
        results = await asyncio.gather(*(pool.run_async(
            ["sh", "-c", f"echo {number}"], capture_output=True) for number in range(4)))
        assert [r.stdout for r in results] == [b"%d\n" % number for number in range(4)]
        task = asyncio.create_task(pool.run_async(["sleep", "4321"]))
        while not any(b"4321" in _command_line(pid) for pid in procfs.statuses()):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not any(b"4321" in _command_line(pid) for pid in procfs.statuses())


def test_one_that_was_killed_while_it_waited_is_replaced(pool: hardrun.Pool) -> None:
    until(lambda: len(launchers()) == 2)
    for pid in launchers():
        os.kill(pid, signal.SIGKILL)
    assert sh(pool, "echo fine").stdout == b"fine\n"


def test_an_owner_that_is_killed_takes_all_along() -> None:
    script = ("import hardrun, time\np = hardrun.Pool(policy='judge', size=3)\n"
              "print(flush=True)\np.run(['sleep', '1000'])")
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as owner:
        try:
            assert owner.stdout is not None
            owner.stdout.readline()
            until(lambda: len(launchers(owner.pid)) == 4)
            until(lambda: len(family(owner.pid)) == 8)  # a helper that maps ids is one more
            started = family(owner.pid)
        finally:
            owner.kill()
    until(lambda: all(gone(pid) for pid in started))


def test_a_policy_that_was_tightened_holds_for_the_next_command(
        pool: hardrun.Pool, tmp_path: Path) -> None:
    script = "ulimit -d"
    assert sh(pool, script).stdout == b"%d\n" % (256 << 10)
    directory = tmp_path / "config/hardrun/policy.d"
    directory.mkdir(parents=True, mode=0o755)
    policy = directory / "tight.yaml"
    policy.write_text("apiVersion: hardrun/v1\nkind: Policy\nmetadata: {name: tight}\n"
                      "match: {command: '*'}\nbounds: {limits: {memory: 32M}}\n")
    policy.chmod(0o644)
    assert sh(pool, script).stdout == b"%d\n" % (32 << 10)
    assert pool.decision.control("limits.memory").value == 32 << 20
    policy.write_text(policy.read_text().replace("'*'", "sh").replace("32M", "16M"))
    with pytest.raises(hardrun.PolicyRefused, match=r"limits\.memory"):
        sh(pool, script)
    policy.unlink()
    assert sh(pool, script).stdout == b"%d\n" % (256 << 10)
