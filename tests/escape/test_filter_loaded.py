"""How the filter gets into the kernel: when, for which threads, with which actions."""

from __future__ import annotations

import errno
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from hardrun.kernel.seccomp import actions
from tests.escape.conftest import Made
from tests.escape.layers import LAYERS, Planned
from tests.escape.probe import MACHINE, NUMBERS, call
from tests.escape.sandbox import POLICIES, Sandbox
from tests.sandbox.raw import Program, bind, operation

LOAD, AND, EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06
NUMBER, SECOND = 0, 24  # offsets in struct seccomp_data: nr, the low half of args[1]
EXIT = {  # exit(42), and nothing else
    "x86_64": (62, bytes.fromhex("b83c000000 bf2a000000 0f05")),
    "aarch64": (183, struct.pack("<3I", 0xD2800BA8, 0xD2800540, 0xD4000001)),
}


def program(*instructions: tuple[int, ...]) -> bytes:
    """A filter from (code, k) and, for jumps, (code, k, yes, no)."""
    return b"".join(struct.pack("=HBBI", code, *(jumps or (0, 0)), k)
                    for code, k, *jumps in instructions)


# -- SC-21: nothing between the filter and the exec -----------------------------------------------


def smallest_program() -> bytes:
    """An ELF file of one segment whose code ends it."""
    machine, code = EXIT[MACHINE]
    base, size = 0x400000, 64 + 56 + len(EXIT[MACHINE][1])
    header = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, machine, 1, base + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + code


@pytest.mark.skipif(MACHINE not in EXIT, reason=f"no program of one call for {MACHINE}")
@pytest.mark.parametrize("allowed, status", [(("execve", "exit"), 42), (("exit",), 128 + 31)])
def test_sc_21_behind_the_filter_comes_the_exec_and_nothing_else(
        executor: Path, tmp_path: Path, allowed: tuple[str, ...], status: int) -> None:
    """A filter that kills at every other call kills nobody, unless execve is missing as well."""
    tiny = tmp_path / "tiny"
    tiny.write_bytes(smallest_program())
    tiny.chmod(0o755)
    tests = [(EQUAL, NUMBERS[name], len(allowed) - place, 0) for place, name in enumerate(allowed)]
    only = program((LOAD, NUMBER), *tests, (RETURN, actions.KILL_PROCESS), (RETURN, actions.ALLOW))
    done = Program(executor, tmp_path).run(
        ["/tmp/tiny"], [operation("make_file", "/tmp/tiny", 0o755, b""),
                        bind(str(tiny), "/tmp/tiny"), operation("load_seccomp", only, 0)])
    assert done.returncode == status, done.stderr


# -- SC-19: every thread --------------------------------------------------------------------------

THREADS = """
import os, threading
ready = threading.Barrier(4)
end = threading.Event()
def wait():
    ready.wait()
    end.wait()
for _ in range(3):
    threading.Thread(target=wait).start()
ready.wait()
def show():
    for task in sorted(os.listdir("/proc/self/task")):
        lines = open(f"/proc/self/task/{task}/status").read().splitlines()
        print([line.split()[1] for line in lines if line.startswith("Seccomp:")][0], flush=True)
show()
if os.fork() == 0:
    show()
    os._exit(0)
os.wait()
end.set()
"""
PYTHON = Path("/usr/bin/python3")


@pytest.mark.skipif(not PYTHON.exists(), reason="no Python of the system's")
@pytest.mark.parametrize("policy", POLICIES)
def test_sc_05_and_19_threads_work_and_each_has_the_filter(tmp_path: Path, policy: str) -> None:
    """Four threads and a child; glibc makes them with clone where clone3 does not exist."""
    made = Sandbox(PYTHON, tmp_path, policy)
    assert made.start(["-c", THREADS]).stdout.split() == [b"2"] * 5
    assert made.removed(LAYERS["seccomp"]).start(["-c", THREADS]).stdout.split() == [b"0"] * 5


# Loads a filter before the exec that answers seccomp(2) by its flags.
UNDER = f"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
code = bytes.fromhex(sys.argv[1])
room = ctypes.create_string_buffer(code, len(code))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
assert libc.prctl(38, 1, 0, 0, 0) == 0
loaded = Program(len(code) // 8, ctypes.addressof(room))
assert libc.syscall({NUMBERS["seccomp"]}, 1, 0, ctypes.byref(loaded)) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("refused, starts", [(0, True), (1, False)])
def test_sc_19_the_executor_asks_for_all_threads(executor: Path, tmp_path: Path, refused: int,
                                                 starts: bool) -> None:
    """Where the kernel refuses filters without SECCOMP_FILTER_FLAG_TSYNC (1) it starts as ever.

    Where it refuses those with it, there is no second attempt without.
    """
    outer = program((LOAD, NUMBER), (EQUAL, NUMBERS["seccomp"], 0, 3), (LOAD, SECOND), (AND, 1),
                    (EQUAL, refused, 1, 0), (RETURN, actions.ALLOW),
                    (RETURN, actions.fails_with(errno.EPERM)))
    path = Program(executor, tmp_path).write(["echo", "started"])
    done = subprocess.run([sys.executable, "-c", UNDER, outer.hex(), path], check=False,
                          capture_output=True)
    assert (done.stdout == b"started\n") == starts
    assert starts or (done.returncode == 125 and b"seccomp: EPERM" in done.stderr)


@pytest.mark.parametrize("flags, filtered", [(0, ["0", "2"]), (1, ["2", "2"])])
def test_sc_19_a_thread_that_runs_already_is_reached_by_that_flag_alone(
        flags: int, filtered: list[str]) -> None:
    """The control: what the kernel does with a process of two threads."""
    script = UNDER.split("os.execv")[0].replace(
        f'{NUMBERS["seccomp"]}, 1, 0,', f'{NUMBERS["seccomp"]}, 1, {flags},').replace(
        "assert libc.prctl", "import threading; end = threading.Event();"
        " threading.Thread(target=end.wait).start()\nassert libc.prctl", 1)
    script += ("for task in os.listdir('/proc/self/task'):\n"
               "    text = open(f'/proc/self/task/{task}/status').read()\n"
               "    print(text.split('Seccomp:')[1].split()[0])\n"
               "end.set()\n")
    allow = program((RETURN, actions.ALLOW))
    done = subprocess.run([sys.executable, "-c", script, allow.hex()], check=True,
                          capture_output=True, text=True)
    assert sorted(done.stdout.split()) == filtered


# -- SC-22: what a filter answers -----------------------------------------------------------------


@pytest.mark.parametrize("action, word", [
    (actions.ALLOW, "ok"), (actions.LOG, "ok"), (actions.TRACE, "ENOSYS"),
    (actions.fails_with(errno.EXDEV), "EXDEV"), (actions.TRAP, "SIGSYS"),
    (actions.KILL_THREAD, "SIGSYS"), (actions.KILL_PROCESS, "SIGSYS"), (0x12340000, "SIGSYS")])
def test_sc_22_the_kernel_does_what_the_filter_says_and_kills_for_what_it_does_not_know(
        sandbox: Made, action: int, word: str) -> None:
    """An action that a kernel lacks never becomes a weaker one."""
    answering = program((LOAD, NUMBER), (EQUAL, NUMBERS["getppid"], 0, 1), (RETURN, action),
                        (RETURN, actions.ALLOW))

    def other(planned: Planned) -> Planned:
        return planned.change("load_seccomp", lambda o: o._replace(values=(answering, 0)))

    assert sandbox().removed(other).one(call("getppid")).word == word


def test_sc_22_this_kernel_has_every_action_that_a_profile_may_name() -> None:
    available = Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split()
    names = {"errno", "kill_process", "kill_thread", "trap", "trace", "log", "allow"}
    assert len(names) == len(actions.NAMES)
    assert names <= set(available)
