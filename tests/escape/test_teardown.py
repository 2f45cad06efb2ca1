"""What a sandbox can make its caller hold: output (RS-08), processes (RS-09)."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import termios
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

import hardrun
from tests.escape.test_limits import processes_below
from tests.sandbox.raw import Program, operation

pytestmark = pytest.mark.sandbox
MEBIBYTE = 1 << 20
PYTHON = "/usr/bin/python3"
PATIENCE = 30.0  # seconds until a state that never comes counts as missing
# A zombie, one that stopped, one that is stopped by its tracer, one in a session of its own that
# ignores what it can, a thread that waits for its vfork; then all of a process group stop.
PROCESSES = """
import ctypes, os, signal, sys, threading
libc = ctypes.CDLL(None)
def child(act):
    pid = os.fork()
    if pid == 0:
        act()
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)  # until it came to that
def ignoring():
    os.setsid()
    for number in range(1, 65):
        if number not in (9, 19, 32, 33):
            signal.signal(number, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGSTOP)
child(lambda: None)
child(lambda: os.kill(os.getpid(), signal.SIGSTOP))
child(lambda: (libc.ptrace(0, 0, 0, 0), os.kill(os.getpid(), signal.SIGSTOP)))
child(ignoring)
threading.Thread(target=lambda: os.posix_spawn("/bin/sleep", ["sleep", "98765"], {})).start()
print("up", flush=True)
os.kill(0, signal.SIGSTOP)
"""


@pytest.fixture
def program(executor: Path, tmp_path: Path) -> Program:
    return Program(executor, tmp_path)


def status(pid: int, field: str) -> str:
    """A line of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return line.partition(":")[2].strip()
    return ""


def wait_until(what: Callable[[], bool]) -> None:
    """Fails where it does not come to be."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "never came to be"
        time.sleep(0.01)


# -- RS-08 ----------------------------------------------------------------------------------------


def test_rs_08_a_reader_that_does_not_read_stops_the_writer_and_fills_no_memory(
    program: Program
) -> None:
    """What is written waits in pipes; of the parent's memory it takes nothing."""
    path = program.write(["yes"])
    with subprocess.Popen([path], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        output = process.stdout.fileno()
        full = fcntl.fcntl(output, fcntl.F_GETPIPE_SZ)
        try:
            wait_until(lambda: waiting_in(output) == full)
            [writer] = [pid for pid in processes_below(process.pid) if status(pid, "Name") == "yes"]
            wait_until(lambda: status(writer, "State").startswith("S"))
            before = written_by(process.pid)
            peak = int(status(process.pid, "VmHWM").split()[0])
            assert peak < 4096  # KiB, of which 100 are the program
            os.read(output, full)  # and with that it goes on
            wait_until(lambda: written_by(process.pid) > before)
        finally:
            process.kill()


def waiting_in(descriptor: int) -> int:
    """How many bytes of a pipe nobody has read yet."""
    answer = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    return int(struct.unpack("=i", answer)[0])


def written_by(pid: int) -> int:
    """The bytes that a process wrote: io(5) of /proc, or those that it moved where it splices."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("wchar", "rchar")))


def test_rs_08_what_the_api_captures_is_bounded_by_the_limit() -> None:
    def peak(limit: str) -> int:
        tracemalloc.start()
        try:
            done = hardrun.run(["yes"], policy="untrusted", output_limit=limit,
                               capture_output=True)
            assert done.outcome == "output-limit"
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    hardrun.run(["true"], policy="untrusted")  # what is imported and decided once
    assert peak("1M") < 8 * MEBIBYTE
    assert peak("24M") > 20 * MEBIBYTE, "inconclusive: this does not see what is captured"


# -- RS-09 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["parent killed", "init killed", "time-out", "asked twice"])
def test_rs_09_nothing_is_left_of_processes_that_do_not_run(program: Program, end: str) -> None:
    """The fixture nothing_left_behind looks for processes and mounts."""
    timeout = [operation("timeout", 3000)] if end == "time-out" else []
    path = program.write([PYTHON, "-c", PROCESSES], timeout)
    with subprocess.Popen([path], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        try:
            init, workload = sorted(processes_below(process.pid))[:2]
            wait_until(lambda: status(workload, "State")[:1] == "T")
            assert states(process.pid) >= {"Z", "T", "t"}
            if end == "parent killed":
                process.kill()
            elif end == "init killed":
                os.kill(init, signal.SIGKILL)
            elif end == "asked twice":
                process.send_signal(signal.SIGTERM)
                time.sleep(0.1)  # or the two would be one
                process.send_signal(signal.SIGTERM)
            expected = {"parent killed": -9, "init killed": 137, "time-out": 124,
                        "asked twice": 137}
            assert process.wait(PATIENCE) == expected[end]
        finally:
            process.kill()


def states(pid: int) -> set[str]:
    """The letters of what a sandbox's processes do."""
    found = set()
    for child in processes_below(pid):
        try:
            found.add(status(child, "State")[:1])
        except OSError:
            continue
    return found
