"""The executor on its own: what the kernel says of a sandbox, and how it starts and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .raw import Program, operation, reporting


@pytest.fixture
def program(executor: Path, tmp_path: Path) -> Program:
    return Program(executor, tmp_path)


def status_of(text: bytes) -> dict[str, str]:
    lines = text.decode().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def wait_for(condition: str, process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().decode().strip() == condition


# -- what is in force ----------------------------------------------------------------------------


def test_the_workload_has_no_capability_one_filter_and_no_new_privs(program: Program) -> None:
    status = status_of(program.run(["cat", "/proc/self/status"]).stdout)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert (status["Seccomp"], status["Seccomp_filters"]) == ("2", "1")
    assert status["SigBlk"] == status["SigIgn"] == "0000000000000000"


def test_pid_1_keeps_no_right_and_its_secrets_are_unreadable(program: Program) -> None:
    script = (
        "cat /proc/1/status; for f in environ mem maps root exe fd/0; do"
        " cat /proc/1/$f 2>/dev/null | head -c1; [ ${PIPESTATUS[0]} = 0 ] && echo LEAK; done;"
        " tr '\\0' ' ' </proc/1/cmdline"
    )
    result = program.run(["bash", "-c", script], env={"SECRET": "canary"})
    status = status_of(result.stdout)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert b"LEAK" not in result.stdout
    assert str(program.path).encode() not in result.stdout


def test_every_namespace_differs_from_the_callers(program: Program) -> None:
    names = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
    script = "".join(f"readlink /proc/self/ns/{name};" for name in names)
    inside = program.run(["sh", "-c", script]).stdout.decode().split()
    assert len(inside) == len(names)
    assert not set(inside) & {os.readlink(f"/proc/self/ns/{name}") for name in names}


def test_leaked_descriptors_do_not_reach_any_process_of_the_sandbox(program: Program) -> None:
    leaked = [os.open("/", os.O_RDONLY) for _ in range(40)]
    try:
        result = program.run(["bash", "-c", "echo /proc/self/fd/*; ls /proc/1/fd"], pass_fds=leaked)
    finally:
        for descriptor in leaked:
            os.close(descriptor)
    # 3 is the directory that the shell reads; PID 1's list is not readable at all.
    assert result.stdout.split() in (
        [b"/proc/self/fd/%d" % n for n in (0, 1, 2)],
        [b"/proc/self/fd/%d" % n for n in (0, 1, 2, 3)],
    )
    assert b"Permission denied" in result.stderr


def test_the_root_is_read_only_and_only_what_was_granted_is_visible(program: Program) -> None:
    result = program.run(
        ["bash", "-c", "echo /*; touch /x; touch /usr/x; echo ok >/tmp/y; cat /tmp/y"]
    )
    assert result.stdout.split() == [
        b"/bin",
        b"/dev",
        b"/etc",
        b"/lib",
        b"/lib64",
        b"/proc",
        b"/sbin",
        b"/tmp",
        b"/usr",
        b"ok",
    ]
    assert result.stderr.count(b"Read-only file system") == 2


def test_the_executable_of_a_run_is_a_sealed_memory_file(program: Program) -> None:
    """CVE-2019-5736: what /proc/PID/exe shows of the parent and PID 1 can't be written."""
    path = program.write(["sh", "-c", "echo up; cat"])
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        wait_for("up", process)
        assert os.readlink(f"/proc/{process.pid}/exe").startswith("/memfd:")
        with pytest.raises(OSError, match="Text file busy|Operation not permitted"):
            os.close(os.open(f"/proc/{process.pid}/exe", os.O_WRONLY))
        assert process.stdin is not None
        process.stdin.close()


def test_a_session_of_its_own_has_no_controlling_terminal(program: Program) -> None:
    result = program.run(
        ["bash", "-c", "exec 3</dev/tty; ps -o pid=,sid=,tty= -p $$"],
        extra=[
            operation("make_file", "/dev/tty", 0o666, b""),
            operation("bind_device", "/dev/tty", "/dev/tty", os.makedev(5, 0)),
            operation("make_file", "/dev/null", 0o666, b""),
            operation("bind_device", "/dev/null", "/dev/null", os.makedev(1, 3)),
        ],
    )
    assert b"No such device or address" in result.stderr
    pid, session, _ = result.stdout.split()
    assert pid == session


def test_more_sandboxes_than_the_quota_of_keys_start(program: Program) -> None:
    path = program.write(["true"])
    for _ in range(220):
        assert subprocess.run([path]).returncode == 0


# -- exit status and outcome ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "script, status",
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -SEGV $$", 139),
    ],
)
def test_the_exit_status_is_the_commands_own(program: Program, script: str, status: int) -> None:
    assert program.run(["sh", "-c", script]).returncode == status


@pytest.mark.parametrize(
    "command, status, errno",
    [
        ("no-such-command", 127, "ENOENT"),
        ("/usr/lib", 126, "EACCES"),
        ("/usr/include/no/such", 127, "ENOENT"),
    ],
)
def test_a_command_that_cannot_start_is_told_apart(
    program: Program, command: str, status: int, errno: str
) -> None:
    result = program.run([command])
    assert result.returncode == status
    assert result.stderr.decode().startswith(f"hardrun: execute {command}: execve: {errno} ")
    assert result.stderr.count(b"\n") == 1


def test_an_operation_that_fails_is_named_with_its_reason_and_nothing_runs(
    program: Program,
) -> None:
    bad = operation("bind", "/nowhere", "/usr", 7, 2, 0, 0, 0o040000, reason="visible, p.yaml:12")
    result = program.run(["sh", "-c", "echo RAN"], extra=[bad])
    assert result.returncode == 125
    assert result.stdout == b""
    assert result.stderr.decode().startswith(
        "hardrun: bind /nowhere on /usr: openat2: ENOENT (operation "
    )
    assert result.stderr.decode().endswith(", visible, p.yaml:12)\n")


def test_escape_sequences_in_names_do_not_reach_the_terminal(program: Program) -> None:
    result = program.run(["\x1b]0;owned\x07"])
    assert b"\x1b" not in result.stderr
    assert b"\\x1b]0;owned\\x07" in result.stderr


def test_the_report_says_what_the_kernel_counted(program: Program) -> None:
    with reporting(program, ["sh", "-c", "echo four; exit 9"]) as run:
        report = run()
    assert (report["outcome"], report["status"], report["started"]) == ("exited", "9", "1")
    assert report["truncated"] == "0"
    assert int(report["max_rss_kib"]) > 0


def test_a_failed_start_is_reported_as_not_started(program: Program) -> None:
    with reporting(program, ["no-such-command"]) as run:
        report = run()
    assert (report["outcome"], report["started"]) == ("internal", "0")
    assert report["failed_errno"] == "2"
    assert report["failed_site"] == "execve"


# -- limits that the parent keeps ----------------------------------------------------------------


def test_the_timeout_ends_every_process(program: Program) -> None:
    result = program.run(
        ["sh", "-c", "trap '' TERM INT; sleep 98765 & sleep 98765"],
        extra=[operation("timeout", 200)],
    )
    assert result.returncode == 124


def test_output_beyond_the_limit_is_cut_and_ends_the_sandbox(program: Program) -> None:
    limit = operation("standard_io", 0, 0, 10_000)
    result = program.run(["yes"], extra=[limit])
    assert result.returncode == 137
    assert len(result.stdout) == 10_000
    with reporting(program, ["yes"], extra=[limit]) as run:
        report = run()
    assert (report["outcome"], report["truncated"], report["output_bytes"]) == (
        "output-limit",
        "1",
        "10000",
    )


def test_memory_of_all_processes_together_is_watched(program: Program) -> None:
    eater = "import time\nkeep = bytearray(b'x' * (40 << 20))\ntime.sleep(60)"
    script = f'/usr/bin/python3 -c "{eater}" & /usr/bin/python3 -c "{eater}" & wait'
    with reporting(program, ["sh", "-c", script], extra=[operation("watch", 64 << 20, 0)]) as run:
        assert run()["outcome"] == "memory-limit"


def test_memory_shared_after_a_fork_is_counted_once(program: Program) -> None:
    script = (
        "import os, time\nkeep = bytearray(b'x' * (40 << 20))\n"
        "for _ in range(3):\n    if os.fork() == 0:\n        time.sleep(1)\n        os._exit(0)\n"
        "time.sleep(0.5)"
    )
    with reporting(
        program, ["/usr/bin/python3", "-c", script], extra=[operation("watch", 100 << 20, 0)]
    ) as run:
        assert run()["outcome"] == "exited"


def test_cpu_time_of_all_processes_together_is_watched(program: Program) -> None:
    script = "while :; do :; done & while :; do :; done"
    with reporting(program, ["sh", "-c", script], extra=[operation("watch", 0, 400)]) as run:
        report = run()
    assert report["outcome"] == "cpu-limit"
    assert int(report["user_us"]) + int(report["system_us"]) >= 300_000


# -- the parent and its death --------------------------------------------------------------------


def test_death_of_the_parent_leaves_no_process(program: Program) -> None:
    path = program.write(["sh", "-c", "echo up; sleep 98765 & sleep 98765"])
    with subprocess.Popen([path], stdout=subprocess.PIPE) as process:
        wait_for("up", process)
        process.kill()
    # The fixture nothing_left_behind asserts the rest.


def test_the_end_of_the_lifeline_leaves_no_process(program: Program) -> None:
    read_end, write_end = os.pipe()
    path = program.write(["sh", "-c", "echo up; sleep 98765"], [operation("lifeline", read_end)])
    with subprocess.Popen([path], stdout=subprocess.PIPE, pass_fds=[read_end]) as process:
        os.close(read_end)
        wait_for("up", process)
        os.close(write_end)
        assert process.wait(timeout=10) == 137


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_reach_the_workload(program: Program, number: signal.Signals) -> None:
    script = f"trap 'echo got; exit 5' {number.name[3:]}; echo up; while :; do sleep 0.02; done"
    path = program.write(["bash", "-c", script])
    with subprocess.Popen([path], stdout=subprocess.PIPE) as process:
        wait_for("up", process)
        process.send_signal(number)
        wait_for("got", process)
        assert process.wait(timeout=10) == 5


def test_asked_twice_a_sandbox_that_ignores_signals_ends(program: Program) -> None:
    path = program.write(["bash", "-c", "trap '' INT TERM; echo up; while :; do sleep 1; done"])
    with subprocess.Popen([path], stdout=subprocess.PIPE) as process:
        wait_for("up", process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 137


def test_a_signal_sent_inside_does_not_pass_for_one_of_the_parent(program: Program) -> None:
    result = program.run(["bash", "-c", "trap 'echo HIT' TERM; kill -TERM 1; sleep 0.1; echo end"])
    assert result.stdout == b"end\n"


def test_a_caller_that_ignores_sigchld_gets_the_status(program: Program) -> None:
    path = program.write(["sh", "-c", "exit 3"])
    launcher = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    assert subprocess.run([sys.executable, "-c", launcher, path]).returncode == 3


def test_orphans_are_reaped_while_the_command_runs(program: Program) -> None:
    script = (
        "for i in 1 2 3 4 5; do (sleep 0.01 &) ; done; sleep 0.3;"
        " while grep -q '^State:.Z' /proc/[0-9]*/status; do sleep 0.05; done"
    )
    assert program.run(["bash", "-c", script]).returncode == 0
