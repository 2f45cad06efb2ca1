"""The executor on its own: standard input and output, terminals, arguments, the gate."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import termios
import time
from pathlib import Path

import pytest

from .raw import Program, operation


@pytest.fixture
def program(executor: Path, tmp_path: Path) -> Program:
    return Program(executor, tmp_path)


def status_of(text: bytes) -> dict[str, str]:
    lines = text.decode().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


# -- standard input and output -------------------------------------------------------------------


def test_output_order_is_kept_where_both_streams_are_one_file(
    program: Program, tmp_path: Path
) -> None:
    path = program.write(["sh", "-c", "for i in 1 2 3; do echo out$i; echo err$i >&2; done"])
    with open(tmp_path / "both", "wb") as both:
        subprocess.run([path], stdout=both, stderr=both, check=True)
    assert (tmp_path / "both").read_text().split() == [
        "out1",
        "err1",
        "out2",
        "err2",
        "out3",
        "err3",
    ]


def test_standard_output_can_be_opened_anew_when_the_caller_discards_it(program: Program) -> None:
    path = program.write(["sh", "-c", "echo x >/proc/self/fd/1 && exit 7"])
    result = subprocess.run([path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert (result.returncode, result.stderr) == (7, b"")


def test_a_log_file_is_not_handed_over(program: Program, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("what stood before\n")
    path = program.write(
        ["sh", "-c", "truncate -s 0 /proc/self/fd/1; cat /proc/self/fd/1 & echo new"]
    )
    with open(log, "a+b") as file:
        subprocess.run([path], stdout=file, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    assert log.read_text() == "what stood before\nnew\n"


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_standard_descriptor_is_not_taken_by_another_file(
    program: Program, closed: int
) -> None:
    path = program.write(
        [
            "sh",
            "-c",
            "readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2"
            " >/tmp/x; cat /tmp/x; cat /tmp/x >&2",
        ]
    )
    result = subprocess.run(["bash", "-c", f"{path} {closed}>&-"], capture_output=True)
    output = (result.stdout + result.stderr).decode()
    assert "/dev/null" in output
    assert "memfd" not in output


def test_a_reader_that_goes_away_ends_the_writer(program: Program) -> None:
    path = program.write(["yes"])
    with subprocess.Popen([path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1000)
        process.stdout.close()
        assert process.wait(timeout=10) == 128 + signal.SIGPIPE


def test_output_that_a_full_disk_swallows_is_an_error(program: Program) -> None:
    """The command knows nothing of it: it has written to a pipe, and ended."""
    path = program.write(["echo", "lost"])
    with open("/dev/full", "wb") as full:
        done = subprocess.run([path], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 125
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("hardrun: standard input and output: mode 0: write: ENOSPC (operation ")
    assert line.endswith(", test, test.yaml:1)")


def test_a_directory_is_no_standard_input_even_where_no_descriptor_is_free(
    program: Program, tmp_path: Path
) -> None:
    """CVE-2024-21626: to look at it must not take what may be lacking."""
    path = program.write(["true"])
    directory = os.open(tmp_path, os.O_RDONLY | os.O_CLOEXEC)
    for limit in range(3, 16):
        limited = f"ulimit -n {limit}; exec {path}"
        done = subprocess.run(["sh", "-c", limited], stdin=directory, capture_output=True)
        assert done.returncode == 125, limit
    os.close(directory)
    assert b"EISDIR" in done.stderr


def test_a_reader_that_stalls_does_not_hold_up_the_timeout(program: Program) -> None:
    path = program.write(["yes"], [operation("timeout", 300)])
    with subprocess.Popen([path], stdout=subprocess.PIPE) as process:
        assert process.wait(timeout=10) == 124


@pytest.mark.parametrize("late, status", [(False, 7), (True, 124)])
def test_a_parent_that_was_stopped_tells_what_happened_meanwhile(
    program: Program, late: bool, status: int
) -> None:
    """A command that ended in its time has not run into the time-out, whenever that is seen."""
    ending = "sleep 60" if late else "read line; exit 7"
    path = program.write(["sh", "-c", f"echo ready; {ending}"], [operation("timeout", 1500)])
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGSTOP)
        process.stdin.write(b"\n")
        process.stdin.flush()
        time.sleep(1.7)  # beyond the time-out
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == status


def test_output_taken_back_from_the_pipe_does_not_hold_up_the_timeout(program: Program) -> None:
    thief = "exec 3</proc/self/fd/1; for i in 1 2 3; do cat <&3 >/tmp/x & done; yes & yes & wait"
    started = time.monotonic()
    result = program.run(["bash", "-c", thief], extra=[operation("timeout", 500)])
    assert result.returncode == 124
    assert time.monotonic() - started < 30


def test_much_input_and_output_pass_unchanged(program: Program) -> None:
    data = os.urandom(3 << 20)
    assert program.run(["cat"], input=data).stdout == data


def test_a_terminal_is_relayed_and_never_handed_over(program: Program) -> None:
    """CVE-2017-5226: no descriptor of the workload is the caller's terminal."""
    master, slave = pty.openpty()
    path = program.write(["bash", "-c", "for i in 0 1 2; do [ -t $i ] && echo TTY; done; echo end"])
    process = subprocess.Popen([path], stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    assert process.wait(timeout=10) == 0
    assert os.read(master, 4096) == b"end\r\n"
    os.close(master)


def test_with_a_private_terminal_the_workload_has_a_terminal_of_its_own(program: Program) -> None:
    terminal = [
        operation("standard_io", 1, 0, 0),
        operation("make_directory", "/dev/pts", 0o755),
        operation("mount_devpts", "/dev/pts"),
        operation("landlock_path", "/dev/pts", 14),
    ]
    script = 'tty; stty size; read line; echo "<$line>"; stty -echo'
    path = program.write(["bash", "-c", script], terminal)
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (33, 101))
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        [path], stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    os.write(master, b"typed\r")
    assert process.wait(timeout=10) == 0
    assert termios.tcgetattr(slave) == before
    os.close(slave)
    output = os.read(master, 4096)
    os.close(master)
    assert b"/dev/pts/0" in output
    assert b"33 101" in output
    assert b"<typed>" in output


def test_arguments_of_any_bytes_and_any_number_arrive(program: Program) -> None:
    words = [bytes([1 + n % 255]) * (1 + n % 7) for n in range(10_000)]
    path = program.write(["/usr/bin/printf", "%s\\n"])
    result = subprocess.run([path.encode(), *words], capture_output=True)
    assert result.stdout == b"".join(word + b"\n" for word in words)


def test_the_environment_is_the_list_of_the_plan(program: Program) -> None:
    extra = [
        operation("environment", "A=plan"),
        operation("environment", "PATH=/usr/bin"),
        operation("environment_of_caller", "A"),
        operation("environment_of_caller", "LC_*"),
        operation("environment_of_caller", "B"),
    ]
    environment = {
        "A": "caller",
        "B": "b",
        "LC_ALL": "C",
        "LC_X": "x",
        "SECRET": "canary",
        "BB": "no",
    }
    lines = program.run(["/usr/bin/env"], extra, env=environment).stdout.decode().split()
    assert sorted(lines) == ["A=plan", "B=b", "LC_ALL=C", "LC_X=x", "PATH=/usr/bin"]


# -- the gate --------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer, status", [(b"g", 6), (b"n", 137), (b"", 137)])
def test_at_the_gate_everything_is_final_and_nothing_has_run(
    program: Program, answer: bytes, status: int
) -> None:
    ours, theirs = socket.socketpair()
    path = program.write(["sh", "-c", "echo RAN; exit 6"], [operation("gate", theirs.fileno())])
    with subprocess.Popen([path], stdout=subprocess.PIPE, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        pid = int(ours.makefile().readline())
        held = status_of(Path(f"/proc/{pid}/status").read_bytes())
        assert os.readlink(f"/proc/{pid}/exe") == "/usr/bin/dash"
        assert (held["Seccomp"], held["NoNewPrivs"], held["State"][0]) == ("2", "1", "t")
        assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
        ours.sendall(answer)
        ours.close()
        output = process.communicate(timeout=10)[0]
    assert process.returncode == status
    assert output == (b"RAN\n" if answer == b"g" else b"")


def test_a_command_that_cannot_start_does_not_hang_at_the_gate(program: Program) -> None:
    ours, theirs = socket.socketpair()
    path = program.write(["no-such-command"], [operation("gate", theirs.fileno())])
    result = subprocess.run([path], capture_output=True, pass_fds=[theirs.fileno()], timeout=10)
    theirs.close()
    assert ours.recv(1) == b""
    ours.close()
    assert result.returncode == 127
