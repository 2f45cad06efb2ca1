"""One sandbox, many commands: what each may do, how it ends, and what remains."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import hardrun
from hardrun.executor import serve
from hardrun.kernel import procfs
from hardrun.verify import find_sandbox, verify_sandbox

PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PATH", "/usr/local/bin:/usr/bin:/bin")


@pytest.fixture
def sandbox() -> Iterator[hardrun.Sandbox]:
    with hardrun.Sandbox(policy="agent") as made:
        yield made


def sh(sandbox: hardrun.Sandbox, script: str, **options: object) -> hardrun.Result:
    return sandbox.run(["sh", "-c", script], **({"capture_output": True} | options))  # type: ignore[arg-type]


def inside(sandbox: hardrun.Sandbox) -> set[int]:
    """The processes of a sandbox, PID 1 among them."""
    return set(find_sandbox(sandbox.pid).processes)


def until(condition: object) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "nothing of the kind happened"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists() or procfs.status(pid).state in "ZX"


# -- one sandbox -----------------------------------------------------------------------------------


def test_commands_share_files_and_background_processes(sandbox: hardrun.Sandbox) -> None:
    sh(sandbox, "echo kept > /tmp/file; echo kept > $HOME/file; sleep 1000 & echo $! > /tmp/pid")
    assert sh(sandbox, "cat /tmp/file $HOME/file; kill -0 $(cat /tmp/pid) && echo alive"
              ).stdout == b"kept\nkept\nalive\n"


def test_another_sandbox_shares_nothing_with_it(sandbox: hardrun.Sandbox) -> None:
    sh(sandbox, "echo kept > /tmp/file")
    with hardrun.Sandbox(policy="agent") as other:
        assert sh(other, "cat /tmp/file").returncode == 1


def test_all_ends_with_it() -> None:
    with hardrun.Sandbox(policy="agent") as sandbox:
        sh(sandbox, "setsid sleep 1000 & sleep 1000 & true")
        started = inside(sandbox)
        assert len(started) == 3
    assert all(gone(pid) for pid in started)
    with pytest.raises(hardrun.ExecutorError, match="has ended"):
        sandbox.run(["true"])


def test_a_command_is_told_of_as_a_run_is(sandbox: hardrun.Sandbox) -> None:
    result = sh(sandbox, "echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.returncode) == (b"out\n", b"err\n", 3)
    assert (result.outcome, result.signal, result.truncated) == ("exited", None, False)
    assert result.usage.wall > 0
    assert result.usage.max_rss > 1 << 16
    assert result.usage.output == 8
    assert result.decision is sandbox.decision
    result = sh(sandbox, "kill -SEGV $$")
    assert (result.outcome, result.returncode, result.signal) == ("signaled", 139, 11)
    with pytest.raises(subprocess.CalledProcessError):
        sh(sandbox, "exit 3", check=True)


def test_what_goes_in_and_comes_out(sandbox: hardrun.Sandbox) -> None:
    assert sh(sandbox, "cat").stdout == b""
    assert sh(sandbox, "cat", input=b"x" * 200_000).stdout == b"x" * 200_000
    assert sh(sandbox, "cat; printf '\\377'", input="grüße\udcff", text=True).stdout == \
        "grüße\udcff\udcff"
    assert sh(sandbox, "exit 0", input=b"x" * 10_000_000).returncode == 0
    assert sh(sandbox, "echo $A$LOGNAME", env={"A": "b c", "LOGNAME": "d"}).stdout == b"b cd\n"
    assert sh(sandbox, "pwd", workdir="/usr/bin").stdout == b"/usr/bin\n"


def test_nothing_of_one_command_is_the_next_ones(sandbox: hardrun.Sandbox) -> None:
    before = sh(sandbox, "env | sort").stdout
    sh(sandbox, "true", env={"SECRET": "x", "PATH": "/nowhere:/usr/bin", "LOGNAME": "other"},
       workdir="/usr", input="secret")
    with pytest.raises(hardrun.CommandNotFound):
        sandbox.run(["no-such"], env={"SECRET": "x", "PATH": "/nowhere"})
    assert sh(sandbox, "env | sort").stdout == before
    assert sh(sandbox, "[ $PWD != /usr ] && cat").stdout == b""


def test_output_that_is_not_captured_is_the_callers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import hardrun\nwith hardrun.Sandbox() as s:\n"
         " s.run(['sh', '-c', 'echo out; echo err >&2'])"], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_a_process_in_the_background_holds_nobody_up(sandbox: hardrun.Sandbox) -> None:
    assert sh(sandbox, "sleep 1000 & echo started").stdout == b"started\n"


def test_a_time_out_ends_the_command_alone(sandbox: hardrun.Sandbox) -> None:
    sh(sandbox, "sleep 1000 &")
    result = sh(sandbox, "echo begun; sleep 2000; echo never", timeout=1)
    assert (result.outcome, result.returncode, result.stdout) == ("timeout", 124, b"begun\n")
    assert sh(sandbox, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout.count(b"sleep") == 1


def test_the_output_limit_holds_for_each_command() -> None:
    with hardrun.Sandbox(policy="agent", output_limit=100_000) as sandbox:
        for _ in range(2):
            result = sh(sandbox, "yes")
            assert (result.outcome, result.truncated) == ("output-limit", True)
            assert len(result.stdout) == 100_000
        assert sh(sandbox, "echo fine").stdout == b"fine\n"


def test_its_own_time_ends_it_and_what_runs_in_it() -> None:
    with hardrun.Sandbox(timeout=1) as sandbox:
        assert sh(sandbox, "sleep 1000").outcome == "timeout"
        with pytest.raises(hardrun.ExecutorError, match="its time is over"):
            sandbox.run(["true"])


def test_too_much_memory_ends_it() -> None:
    with hardrun.Sandbox(memory="64M") as sandbox:
        result = sh(sandbox, "for n in 1 2 3 4 5 6; do python3 -c 'import time; "
                             "x = bytearray(b\"x\" * (20 << 20)); time.sleep(1000)' & done; wait")
        assert (result.outcome, result.returncode) == ("memory-limit", 137)
        with pytest.raises(hardrun.ExecutorError, match="memory limit"):
            sandbox.run(["true"])


@pytest.mark.parametrize("argv, options, error", [
    (["no-such-command"], {}, hardrun.CommandNotFound),
    (["/etc/passwd"], {}, hardrun.CommandNotExecutable),
    (["true"], {"workdir": "/no/such"}, hardrun.BadInput),
    (["true"], {"env": {"A=B": "c"}}, hardrun.BadInput),
    (["true", "x" * 200_000], {}, hardrun.BadInput),
    (["true"] * 5000, {}, hardrun.BadInput),
    (["true", "a\0b"], {}, hardrun.BadInput),
    (["true"], {"memory": "1G"}, hardrun.BadInput),
    ([], {}, hardrun.BadInput),
    ("ls -l", {}, hardrun.BadInput),
], ids=["missing", "no program", "directory", "variable", "long", "many", "NUL", "option", "empty",
        "text"])
def test_what_can_not_be_started_is_an_exception(sandbox: hardrun.Sandbox, argv: list[str],
                                                 options: dict[str, object],
                                                 error: type[Exception]) -> None:
    for _ in range(2):
        with pytest.raises(error):
            sandbox.run(argv, **options)  # type: ignore[arg-type]
    assert sandbox.run(["true"]).returncode == 0


@pytest.mark.parametrize("options, error", [
    ({"memory": "900G"}, hardrun.PolicyRefused),
    ({"policy": "no-such-policy"}, hardrun.PolicyError),
    ({"terminal": True}, hardrun.BadInput),
    ({"rw": "/no/such"}, hardrun.BadInput),
], ids=str)
def test_what_is_not_granted_is_not_started(options: dict[str, object],
                                            error: type[Exception]) -> None:
    with pytest.raises(error):
        hardrun.Sandbox(**options)  # type: ignore[arg-type]


# -- processes -------------------------------------------------------------------------------------


def test_a_spawned_command_can_be_spoken_with(sandbox: hardrun.Sandbox) -> None:
    with sandbox.spawn(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin is not None
        assert cat.stdout is not None
        assert cat.poll() is None
        cat.stdin.write(b"hello\n")
        cat.stdin.flush()
        assert cat.stdout.readline() == b"hello\n"
        cat.stdin.close()
        assert cat.wait(PATIENCE).outcome == "exited"
        assert cat.poll() == 0


def test_signals_reach_the_commands_group(sandbox: hardrun.Sandbox) -> None:
    with sandbox.spawn(["sh", "-c", "sleep 1000; true"]) as process:
        with pytest.raises(TimeoutError):
            process.wait(0.1)
        process.terminate()
        result = process.wait(PATIENCE)
    assert (result.outcome, result.signal) == ("signaled", signal.SIGTERM)
    until(lambda: len(inside(sandbox)) == 1)


def test_who_lets_go_of_a_process_ends_it(sandbox: hardrun.Sandbox) -> None:
    process = sandbox.spawn(["sleep", "1000"])
    assert len(inside(sandbox)) == 2
    process.close()
    until(lambda: len(inside(sandbox)) == 1)
    with pytest.raises(hardrun.CommandNotFound):
        sandbox.spawn(["no-such-command"])


def test_only_pipes_go_in(sandbox: hardrun.Sandbox) -> None:
    with open(os.devnull, "rb") as file, pytest.raises(hardrun.BadInput):
        sandbox.spawn(["cat"], stdin=file.fileno())


# -- many at a time --------------------------------------------------------------------------------


def test_many_threads_use_one_sandbox(sandbox: hardrun.Sandbox) -> None:
    found: list[bool] = []

    def work(number: int) -> None:
        for turn in range(10):
            result = sh(sandbox, f"cat; echo {number}.{turn}; exit {turn}", input=b"x" * number)
            found.append((result.stdout, result.returncode) ==
                         (b"x" * number + b"%d.%d\n" % (number, turn), turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 80


def test_there_is_a_bound_on_commands_at_a_time(sandbox: hardrun.Sandbox) -> None:
    started = [sandbox.spawn(["sleep", "1000"]) for _ in range(128)]
    with pytest.raises(hardrun.ExecutorError, match="took no command"):
        sandbox.run(["true"])
    for process in started:
        process.close()
    until(lambda: len(inside(sandbox)) == 1)
    assert sandbox.run(["true"]).returncode == 0


def test_it_serves_asyncio_and_cancelling_ends_the_command(sandbox: hardrun.Sandbox) -> None:
    async def main() -> None:
        results = await asyncio.gather(*(sandbox.run_async(
            ["sh", "-c", f"echo {number}"], capture_output=True) for number in range(6)))
        assert [r.stdout for r in results] == [b"%d\n" % number for number in range(6)]
        task = asyncio.create_task(sandbox.run_async(["sleep", "1000"]))
        while len(await asyncio.to_thread(inside, sandbox)) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    until(lambda: len(inside(sandbox)) == 1)


def test_closing_it_ends_what_others_wait_for() -> None:
    results: list[hardrun.Result] = []
    with hardrun.Sandbox(policy="agent") as sandbox:
        thread = threading.Thread(target=lambda: results.append(sh(sandbox, "sleep 1000")))
        thread.start()
        until(lambda: len(inside(sandbox)) == 3)
    thread.join()
    assert results[0].outcome == "cancelled"


# -- killed anywhere -------------------------------------------------------------------------------


def test_a_command_that_is_killed_from_outside_ends_alone(sandbox: hardrun.Sandbox) -> None:
    with sandbox.spawn(["sleep", "1000"]) as process:
        [pid] = inside(sandbox) - {find_sandbox(sandbox.pid).init}
        os.kill(pid, signal.SIGKILL)
        assert process.wait(PATIENCE).signal == signal.SIGKILL
    assert sandbox.run(["true"]).returncode == 0


@pytest.mark.parametrize("victim", ["launcher", "init"])
def test_a_sandbox_that_is_killed_leaves_nothing(sandbox: hardrun.Sandbox, victim: str) -> None:
    with sandbox.spawn(["sleep", "1000"]) as process:
        found = find_sandbox(sandbox.pid)
        os.kill(getattr(found, victim), signal.SIGKILL)
        assert process.wait(PATIENCE).outcome in ("signaled", "internal")
    until(lambda: all(gone(pid) for pid in found.processes))
    with pytest.raises(hardrun.ExecutorError):
        sandbox.run(["true"])


_OWNER = """
import hardrun, sys, time
s = hardrun.Sandbox(policy="agent")
s.spawn(["sh", "-c", "setsid sleep 1000 & sleep 1000"])
print(s.pid, flush=True)
s.run(["sleep", "1000"])
"""


def test_an_owner_that_is_killed_takes_all_along() -> None:
    with subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        try:
            launcher = int(owner.stdout.readline())
            until(lambda: len(find_sandbox(launcher).processes) >= 5)
            found = find_sandbox(launcher)
        finally:
            owner.kill()
    until(lambda: all(gone(pid) for pid in (launcher, *found.processes)))


def test_a_client_that_is_killed_takes_its_command_along(sandbox: hardrun.Sandbox) -> None:
    """The channel is the command's lifeline, whoever holds it."""
    pid = os.fork()
    if not pid:
        command = serve.Command(sandbox._served.at, serve.Asked(("sleep", "1000")))
        command.reply()
        os._exit(0)
    try:
        until(lambda: len(inside(sandbox)) == 2)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    until(lambda: len(inside(sandbox)) == 1)
    assert sandbox.run(["true"]).returncode == 0


def test_a_command_that_takes_pid_1s_descriptors_away_ends_the_sandbox(
        sandbox: hardrun.Sandbox) -> None:
    """prlimit(2) asks for the same ids alone, and poll(2) refuses more than RLIMIT_NOFILE entries:
    PID 1 would use a CPU for ever, deaf to commands and to signals."""
    processes = inside(sandbox)
    with contextlib.suppress(hardrun.ExecutorError):
        sh(sandbox, "prlimit --pid 1 --nofile=0:0")
    until(lambda: all(gone(pid) for pid in processes))
    with pytest.raises(hardrun.ExecutorError):
        sandbox.run(["true"])


def test_a_sandbox_that_is_stopped_is_not_waited_for(sandbox: hardrun.Sandbox) -> None:
    init = find_sandbox(sandbox.pid).init
    os.kill(init, signal.SIGSTOP)
    with pytest.raises(hardrun.ExecutorError, match="stopped"):
        serve.is_ready(sandbox._served.at, start_patience=0.2)
    os.kill(init, signal.SIGCONT)
    assert serve.is_ready(sandbox._served.at)


# -- what holds ------------------------------------------------------------------------------------


def test_verify_reads_every_command(sandbox: hardrun.Sandbox) -> None:
    with sandbox.spawn(["sleep", "1000"]), sandbox.spawn(["sh", "-c", "sleep 1000; true"]):
        until(lambda: len(inside(sandbox)) == 4)
        found = verify_sandbox(find_sandbox(sandbox.pid))
    assert len(found.processes) == 4
    assert [c for p in found.processes for c in p.checks if c.result == "differs"] == []


def test_a_policy_that_was_tightened_holds_for_the_next_command(
        sandbox: hardrun.Sandbox, tmp_path: Path) -> None:
    directory = tmp_path / "config/hardrun/policy.d"
    assert sandbox.run(["true"]).returncode == 0
    directory.mkdir(parents=True, mode=0o755)
    policy = directory / "tight.yaml"
    policy.write_text("apiVersion: hardrun/v1\nkind: Policy\nmetadata: {name: tight}\n"
                      "match: {command: sh}\nbounds: {limits: {memory: 32M}}\n")
    policy.chmod(0o644)
    with pytest.raises(hardrun.PolicyRefused, match=r"limits\.memory"):
        sh(sandbox, "echo ran")
    assert sandbox.run(["true"]).returncode == 0
    policy.unlink()
    assert sh(sandbox, "echo ran").stdout == b"ran\n"


def test_a_protected_name_that_was_made_is_reported(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    with hardrun.Sandbox(policy="agent", rw=project) as sandbox:
        result = sh(sandbox, f"echo evil > {project}/.envrc")
        assert result.created == sandbox.created == (str(project / ".envrc"),)
