"""The executor on its own: what the kernel says of a sandbox, and how it starts and ends."""

from __future__ import annotations

import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import zlib
from pathlib import Path

import pytest

from hardrun.plan.format import HEADER, RECORD, encode
from hardrun.plan.schema import Operation, Unsafe

from .raw import Program, bind, operation, operations, reporting


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
    script = ("cat /proc/1/status; for f in environ mem maps root exe fd/0; do"
              " cat /proc/1/$f 2>/dev/null | head -c1; [ ${PIPESTATUS[0]} = 0 ] && echo LEAK; done;"
              " tr '\\0' ' ' </proc/1/cmdline")
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
        result = program.run(["bash", "-c", "echo /proc/self/fd/*; ls /proc/1/fd"],
                             pass_fds=leaked)
    finally:
        for descriptor in leaked:
            os.close(descriptor)
    # 3 is the directory that the shell reads; PID 1's list is not readable at all.
    assert result.stdout.split() in ([b"/proc/self/fd/%d" % n for n in (0, 1, 2)],
                                     [b"/proc/self/fd/%d" % n for n in (0, 1, 2, 3)])
    assert b"Permission denied" in result.stderr


def test_the_root_is_read_only_and_only_what_was_granted_is_visible(program: Program) -> None:
    result = program.run(["bash", "-c", "echo /*; touch /x; touch /usr/x; echo ok >/tmp/y; cat /tmp/y"])
    assert result.stdout.split() == [b"/bin", b"/dev", b"/etc", b"/lib", b"/lib64", b"/proc",
                                     b"/sbin", b"/tmp", b"/usr", b"ok"]
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
    result = program.run(["bash", "-c", "exec 3</dev/tty; ps -o pid=,sid=,tty= -p $$"],
                         extra=[operation("make_file", "/dev/tty", 0o666, b""),
                                operation("bind_device", "/dev/tty", "/dev/tty", os.makedev(5, 0)),
                                operation("make_file", "/dev/null", 0o666, b""),
                                operation("bind_device", "/dev/null", "/dev/null",
                                          os.makedev(1, 3))])
    assert b"No such device or address" in result.stderr
    pid, session, _ = result.stdout.split()
    assert pid == session


def test_more_sandboxes_than_the_quota_of_keys_start(program: Program) -> None:
    path = program.write(["true"])
    for _ in range(220):
        assert subprocess.run([path]).returncode == 0


# -- exit status and outcome ---------------------------------------------------------------------


@pytest.mark.parametrize("script, status", [("exit 0", 0), ("exit 7", 7), ("exit 255", 255),
                                            ("kill -TERM $$", 143), ("kill -SEGV $$", 139)])
def test_the_exit_status_is_the_commands_own(program: Program, script: str, status: int) -> None:
    assert program.run(["sh", "-c", script]).returncode == status


@pytest.mark.parametrize("command, status, errno", [
    ("no-such-command", 127, "ENOENT"), ("/usr/lib", 126, "EACCES"),
    ("/usr/include/no/such", 127, "ENOENT")])
def test_a_command_that_cannot_start_is_told_apart(
    program: Program, command: str, status: int, errno: str
) -> None:
    result = program.run([command])
    assert result.returncode == status
    assert result.stderr.decode().startswith(f"hardrun: execute {command}: execve: {errno} ")
    assert result.stderr.count(b"\n") == 1


def test_an_operation_that_fails_is_named_with_its_reason_and_nothing_runs(program: Program) -> None:
    bad = operation("bind", "/nowhere", "/usr", 7, 2, 0, 0, 0o040000, reason="visible, p.yaml:12")
    result = program.run(["sh", "-c", "echo RAN"], extra=[bad])
    assert result.returncode == 125
    assert result.stdout == b""
    assert result.stderr.decode().startswith(
        "hardrun: bind /nowhere on /usr: openat2: ENOENT (operation ")
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
    result = program.run(["sh", "-c", "trap '' TERM INT; sleep 98765 & sleep 98765"],
                         extra=[operation("timeout", 200)])
    assert result.returncode == 124


def test_output_beyond_the_limit_is_cut_and_ends_the_sandbox(program: Program) -> None:
    limit = operation("standard_io", 0, 0, 10_000)
    result = program.run(["yes"], extra=[limit])
    assert result.returncode == 137
    assert len(result.stdout) == 10_000
    with reporting(program, ["yes"], extra=[limit]) as run:
        report = run()
    assert (report["outcome"], report["truncated"], report["output_bytes"]) == (
        "output-limit", "1", "10000")


def test_memory_of_all_processes_together_is_watched(program: Program) -> None:
    eater = "import time\nkeep = bytearray(b'x' * (40 << 20))\ntime.sleep(60)"
    script = f"/usr/bin/python3 -c \"{eater}\" & /usr/bin/python3 -c \"{eater}\" & wait"
    with reporting(program, ["sh", "-c", script], extra=[operation("watch", 64 << 20, 0)]) as run:
        assert run()["outcome"] == "memory-limit"


def test_memory_shared_after_a_fork_is_counted_once(program: Program) -> None:
    script = ("import os, time\nkeep = bytearray(b'x' * (40 << 20))\n"
              "for _ in range(3):\n    if os.fork() == 0:\n        time.sleep(1)\n        os._exit(0)\n"
              "time.sleep(0.5)")
    with reporting(program, ["/usr/bin/python3", "-c", script],
                   extra=[operation("watch", 100 << 20, 0)]) as run:
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
    launcher = ("import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
                "os.execv(sys.argv[1], sys.argv[1:])")
    assert subprocess.run([sys.executable, "-c", launcher, path]).returncode == 3


def test_orphans_are_reaped_while_the_command_runs(program: Program) -> None:
    script = ("for i in 1 2 3 4 5; do (sleep 0.01 &) ; done; sleep 0.3;"
              " grep -l '^State:.Z' /proc/[0-9]*/status | wc -l")
    assert program.run(["bash", "-c", script]).stdout.strip() == b"0"


# -- standard input and output -------------------------------------------------------------------


def test_output_order_is_kept_where_both_streams_are_one_file(program: Program, tmp_path: Path) -> None:
    path = program.write(["sh", "-c", "for i in 1 2 3; do echo out$i; echo err$i >&2; done"])
    with open(tmp_path / "both", "wb") as both:
        subprocess.run([path], stdout=both, stderr=both, check=True)
    assert (tmp_path / "both").read_text().split() == ["out1", "err1", "out2", "err2", "out3", "err3"]


def test_a_log_file_is_not_handed_over(program: Program, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("what stood before\n")
    path = program.write(["sh", "-c", "truncate -s 0 /proc/self/fd/1; cat /proc/self/fd/1 & echo new"])
    with open(log, "a+b") as file:
        subprocess.run([path], stdout=file, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    assert log.read_text() == "what stood before\nnew\n"


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_standard_descriptor_is_not_taken_by_another_file(
    program: Program, closed: int
) -> None:
    path = program.write(["sh", "-c", "readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2"
                                      " >/tmp/x; cat /tmp/x; cat /tmp/x >&2"])
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


def test_a_reader_that_stalls_does_not_hold_up_the_timeout(program: Program) -> None:
    path = program.write(["yes"], [operation("timeout", 300)])
    with subprocess.Popen([path], stdout=subprocess.PIPE) as process:
        assert process.wait(timeout=10) == 124


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
    terminal = [operation("standard_io", 1, 0, 0), operation("make_directory", "/dev/pts", 0o755),
                operation("mount_devpts", "/dev/pts"), operation("landlock_path", "/dev/pts", 14)]
    script = "tty; stty size; read line; echo \"<$line>\"; stty -echo"
    path = program.write(["bash", "-c", script], terminal)
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (33, 101))
    before = termios.tcgetattr(slave)
    process = subprocess.Popen([path], stdin=slave, stdout=slave, stderr=slave,
                               start_new_session=True)
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
    extra = [operation("environment", "A=plan"), operation("environment", "PATH=/usr/bin"),
             operation("environment_of_caller", "A"), operation("environment_of_caller", "LC_*"),
             operation("environment_of_caller", "B")]
    environment = {"A": "caller", "B": "b", "LC_ALL": "C", "LC_X": "x", "SECRET": "canary", "BB": "no"}
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


# -- plans that must not run -----------------------------------------------------------------------


def assert_refused(result: subprocess.CompletedProcess[bytes]) -> str:
    assert result.returncode == 125
    assert result.stdout == b""
    assert result.stderr.startswith(b"hardrun: ")
    assert result.stderr.count(b"\n") == 1
    return result.stderr.decode()


def test_a_truncated_plan_is_refused_wherever_it_is_cut(program: Program) -> None:
    plan = encode(operations(["sh", "-c", "echo RAN"]))
    for size in range(0, len(plan), 211):
        assert_refused(subprocess.run([program.write_plan(plan[:size])], capture_output=True))


def test_a_flipped_bit_is_refused_wherever_it_is(program: Program) -> None:
    plan = encode(operations(["sh", "-c", "echo RAN"]))
    for bit in range(0, len(plan) * 8, 1999):
        damaged = bytearray(plan)
        damaged[bit // 8] ^= 1 << bit % 8
        assert_refused(subprocess.run([program.write_plan(bytes(damaged))], capture_output=True))


def with_checksum(plan: bytearray) -> bytes:
    struct.pack_into("<I", plan, 32, 0)
    struct.pack_into("<I", plan, 32, zlib.crc32(plan))
    return bytes(plan)


def test_operations_out_of_order_are_refused(program: Program) -> None:
    plan = bytearray(encode(operations(["true"])))
    first, second = (slice(HEADER.size + n * RECORD.size, HEADER.size + (n + 1) * RECORD.size)
                     for n in (0, 40))
    plan[first], plan[second] = plan[second], plan[first]
    result = subprocess.run([program.write_plan(with_checksum(plan))], capture_output=True)
    assert "out of order" in assert_refused(result)


def test_a_plan_of_another_version_is_refused(program: Program) -> None:
    plan = bytearray(encode(operations(["true"])))
    struct.pack_into("<I", plan, 8, 2)
    result = subprocess.run([program.write_plan(with_checksum(plan))], capture_output=True)
    assert "another version" in assert_refused(result)


@pytest.mark.parametrize("name, bit", [
    ("pivot_root", Unsafe.NO_PIVOT_ROOT), ("no_new_privs", Unsafe.NO_NEW_PRIVS_OFF),
    ("set_capabilities", Unsafe.KEEPS_CAPABILITIES), ("drop_bounding", Unsafe.NO_BOUNDING_DROP),
    ("landlock_restrict", Unsafe.NO_LANDLOCK), ("not_dumpable", Unsafe.DUMPABLE_INIT),
    ("new_session", Unsafe.NO_SESSION), ("close_descriptors", Unsafe.KEEPS_DESCRIPTORS),
    ("load_seccomp", Unsafe.NO_SECCOMP)])
def test_a_plan_without_a_defence_runs_only_when_it_says_so(
    program: Program, name: str, bit: Unsafe
) -> None:
    assert_refused(program.run(["true"], without=[name]))
    if name not in ("pivot_root", "set_capabilities", "no_new_privs"):
        assert program.run(["true"], without=[name], unsafe=bit).returncode == 0


def test_an_executor_without_a_plan_says_so(executor: Path) -> None:
    result = subprocess.run([str(executor)], capture_output=True)
    assert "there is no plan" in assert_refused(result)


# -- what must still be as it was ------------------------------------------------------------------


def stale_requirements(tmp_path: Path) -> list[Operation]:
    (tmp_path / "there").touch()
    return [
        operation("require_path", str(tmp_path / "gone"), 1, 2, 0, 0),
        operation("require_path", str(tmp_path / "there"), 0, 0, 0, 0),
        operation("require_path", str(tmp_path / "there"), *os.stat(tmp_path / "there")[2:0:-1], 5, 5),
        operation("require_content", "/proc/sys/kernel/osrelease", "1.0"),
        operation("require_ids", 4_000_000, os.getgid(), b""),
        operation("require_hard_limit", 7, 1 << 62),
        operation("require_landlock", 99),
    ]


def test_a_stale_plan_never_runs(program: Program, tmp_path: Path) -> None:
    for requirement in stale_requirements(tmp_path):
        result = program.run(["sh", "-c", "echo RAN"], extra=[requirement])
        assert "the plan is stale, make it again: " in assert_refused(result)


def test_requirements_that_hold_let_the_plan_run(program: Program) -> None:
    groups = b"".join(struct.pack("<I", g) for g in sorted(os.getgroups()))
    status = os.lstat("/usr")
    result = program.run(["true"], extra=[
        operation("require_path", "/usr", status.st_dev, status.st_ino, status.st_mtime_ns,
                  status.st_ctime_ns),
        operation("require_path", "/nowhere/at/all", 0, 0, 0, 0),
        operation("require_content", "/proc/sys/kernel/osrelease", os.uname().release),
        operation("require_ids", os.getuid(), os.getgid(), groups),
    ])
    assert result.returncode == 0, result.stderr


def test_a_stale_plan_with_a_fallback_hands_over_with_all_arguments(program: Program) -> None:
    path = program.write(["true"], [operation("require_landlock", 99)],
                         fallback=("/usr/bin/printf", "%s|", "made anew"))
    words = [f"word{n}" for n in range(500)]
    result = subprocess.run([path, *words], capture_output=True, text=True)
    assert result.stdout.split("|")[:-1] == ["made anew", *words]


def test_a_source_swapped_after_the_decision_is_refused(program: Program, tmp_path: Path) -> None:
    """CVE-2024-1753, CVE-2025-9566: the tree that is bound is the one that was decided about."""
    source = tmp_path / "source"
    source.mkdir()
    granted = [operation("make_directory", "/tmp/in", 0o755), bind(str(source), "/tmp/in", pinned=True)]
    (tmp_path / "other").mkdir()
    for swap in (lambda: (tmp_path / "other").rename(source), lambda: source.symlink_to("/etc")):
        source.rmdir()
        swap()
        result = program.run(["sh", "-c", "echo RAN"], extra=granted)
        assert "bind" in assert_refused(result)


def test_a_mount_point_that_is_a_symlink_stays_inside_the_root(
    program: Program, tmp_path: Path
) -> None:
    """CVE-2021-30465, FS-03: a name of the root file system never leads out of it."""
    rootfs, canary = tmp_path / "rootfs", tmp_path / "canary"
    for directory in ("proc", "usr", "tmp", "etc", "bin"):
        (rootfs / directory).mkdir(parents=True)
    canary.mkdir()
    (rootfs / "dev").symlink_to(os.path.relpath(canary, rootfs / "dev"))
    status = rootfs.stat()
    root = operation("root_bind", str(rootfs), 1, status.st_dev, status.st_ino, status.st_uid)
    result = program.run(["true"], extra=[root], without=["root_tmpfs", "make_symlink"])
    assert_refused(result)
    assert list(canary.iterdir()) == []
