"""Filters in the kernel itself, as an ordinary user: what it answers is what the simulator says."""

from __future__ import annotations

import base64
import errno
import json
import os
import platform
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hardrun.kernel.seccomp import actions, profile, tables
from hardrun.kernel.seccomp.compile import build
from hardrun.kernel.seccomp.simulate import simulate

ROOT = Path(__file__).parents[2]
MACHINE = platform.machine()
pytestmark = pytest.mark.skipif(
    MACHINE not in tables.ABIS, reason=f"no system call table for {MACHINE}"
)

# Loads each program in a child of its own and makes the calls given with it. A call that gets
# through has bad arguments (descriptor -1, address 1), so that it does nothing.
DRIVER = """
import base64, ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
for line in sys.stdin:
    job = json.loads(line)
    code = base64.b64decode(job["program"])
    room = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.addressof(room))
    calls = [[ctypes.c_long(a - (1 << 64) if a >> 63 else a) for a in c] for c in job["calls"]]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            assert libc.prctl(38, 1, 0, 0, 0) == 0, "no_new_privs"
            assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, ctypes.get_errno()
            found = []
            for call in calls:
                ctypes.set_errno(0)
                found.append(ctypes.get_errno() if libc.syscall(*call) < 0 else 0)
            os.write(writer, json.dumps(found).encode())
            os._exit(0)
        except BaseException as error:
            os.write(2, repr(error).encode())
        os._exit(99)
    os.close(writer)
    with os.fdopen(reader) as answers:
        text = answers.read()
    status = os.waitpid(child, 0)[1]
    ended = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    print(json.dumps([ended, json.loads(text or "[]")]))
"""


def in_the_kernel(jobs: list[tuple[bytes, list[list[int]]]]) -> list[tuple[int, list[int]]]:
    """How each child ended (exit status, or minus a signal), and the errno of each call."""
    lines = [
        json.dumps({"program": base64.b64encode(program).decode(), "calls": calls})
        for program, calls in jobs
    ]
    done = subprocess.run([sys.executable, "-c", DRIVER], input="\n".join(lines), text=True,
                          capture_output=True, check=True, cwd="/", timeout=60)  # fmt: skip
    assert not done.stderr
    return [(ended, errors) for ended, errors in map(json.loads, done.stdout.splitlines())]


def shipped(name: str) -> bytes:
    loaded = profile.load(ROOT / "profiles" / "seccomp" / f"{name}.json")
    return build([loaded], architecture=MACHINE, capabilities=frozenset(),
                 kernel_release=platform.release())  # fmt: skip


BAD = [(1 << 64) - 1, 1, (1 << 64) - 1, 1, 1, 1]


@pytest.mark.parametrize("name", ["judge", "untrusted", "build", "contained", "docker-default"])
def test_the_kernel_answers_as_the_simulator_does(name: str) -> None:
    program = shipped(name)
    numbers = tables.numbers(MACHINE)
    calls = [
        [numbers[call], *BAD]
        for call in ("mount", "bpf", "keyctl", "unshare", "setns", "kexec_load", "add_key",
                     "io_uring_setup", "userfaultfd", "open_by_handle_at", "clone3",
                     "mount_setattr", "listns", "perf_event_open")
    ]  # fmt: skip
    tty = [numbers["ioctl"], (1 << 64) - 1]
    calls += [[*tty, request, 1] for request in (0x5412, 0x123 << 32 | 0x5412, 0x541C)]
    calls += [[numbers["socket"], family | high, 99, 0] for family in (38, 40, 17, 44)
              for high in (0, 1 << 40)]  # fmt: skip
    calls += [[5000], [600], [numbers["clone"], 0x10000011, 0, 0, 0, 0]]
    expected = [simulate(program, MACHINE, call[0], call[1:]).action for call in calls]
    ((ended, found),) = in_the_kernel([(program, calls)])
    assert ended == 0
    for call, action, error in zip(calls, expected, found, strict=True):
        if actions.class_of(action) == actions.ERRNO:
            assert error == action & 0xFFFF, call


def test_without_the_filter_the_same_calls_reach_the_kernel() -> None:
    """The negative control: errno values that only the calls themselves give."""
    allow = struct.pack("=HBBI", 0x06, 0, 0, actions.ALLOW)
    numbers = tables.numbers(MACHINE)
    calls = [[numbers["ioctl"], *BAD], [numbers["mount_setattr"], *BAD], [numbers["setns"], *BAD]]
    ((ended, found),) = in_the_kernel([(allow, calls)])
    assert ended == 0
    assert (found[0], found[2]) == (errno.EBADF, errno.EBADF)
    assert found[1] not in (errno.EPERM, errno.ENOSYS)


@pytest.mark.skipif(MACHINE != "x86_64", reason="int 0x80 and x32 exist on x86_64 only")
def test_an_x32_call_kills_the_process() -> None:
    ((ended, _),) = in_the_kernel([(shipped("untrusted"), [[0x40000000 | 39]])])
    assert ended == -31  # SIGSYS


def test_arithmetic_of_the_simulator_is_the_kernels() -> None:
    """Random programs over the call's number; the result comes back as the errno."""
    chance = random.Random(20261123)
    number = tables.numbers(MACHINE)["getpgid"]
    jobs: list[tuple[bytes, list[list[int]]]] = []
    for _ in range(60):
        code = _random_program(chance, number)
        arguments = [chance.getrandbits(64) for _ in range(6)]
        jobs.append((code, [[number, *arguments]]))
    expected = [simulate(code, MACHINE, call[0], call[1:]).action for code, (call,) in jobs]
    for (ended, found), action in zip(in_the_kernel(jobs), expected, strict=True):
        assert actions.class_of(action) == actions.ERRNO
        assert (ended, found) == (0, [action & 0xFFF])


def _random_program(chance: random.Random, number: int) -> bytes:
    """Allows every call but one, and answers that with an errno it computes (1 to 4095)."""
    x = 0x08

    def step() -> list[tuple[int, int, int, int]]:
        operation = chance.choice([0x04, 0x14, 0x24, 0x44, 0x54, 0xA4])
        k = chance.getrandbits(32)
        kind = chance.randrange(7)
        if kind == 0:
            return [(0x20, 0, 0, 16 + 4 * chance.randrange(12))]
        if kind == 1:
            return [(operation, 0, 0, k)]
        if kind == 2:
            return [(0x01, 0, 0, k), (operation | x, 0, 0, 0)]
        if kind == 3:
            return [(chance.choice([0x64, 0x74]), 0, 0, chance.randrange(32)), (0x07, 0, 0, 0)]
        if kind == 4:
            return [(0x02, 0, 0, 3), (0x84, 0, 0, 0), (0x61, 0, 0, 3), (operation | x, 0, 0, 0)]
        if kind == 5:
            return [(0x34, 0, 0, k | 1), (0x01, 0, 0, 1 + chance.getrandbits(8)), (0x3C, 0, 0, 0)]
        test = chance.choice([0x15, 0x25, 0x35, 0x45])
        return [(test, 1, 0, k), (0x04, 0, 0, k), (0x87, 0, 0, 0) if k & 1 else (0x84, 0, 0, 0)]

    body: list[tuple[int, int, int, int]] = [(0x01, 0, 0, 5)]
    for _ in range(chance.randrange(5, 40)):
        body += step()
    code: list[tuple[int, int, int, int]] = [
        (0x20, 0, 0, 0), (0x15, 1, 0, number), (0x06, 0, 0, actions.ALLOW), *body,
        (0x54, 0, 0, 0xFFE), (0x44, 0, 0, actions.ERRNO | 1), (0x16, 0, 0, 0),
    ]  # fmt: skip
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def test_a_thread_library_works_where_clone3_does_not_exist() -> None:
    script = (
        "import threading; t = threading.Thread(target=print, args=['ran']); t.start(); t.join()"
    )
    assert _run(shipped("untrusted"), [sys.executable, "-c", script]).stdout == "ran\n"


def test_a_shell_pipeline_runs_under_judge() -> None:
    command = "for i in 1 2 3; do echo $i; done | sort -r | head -n 1"
    assert _run(shipped("judge"), ["/bin/sh", "-c", command]).stdout == "3\n"


def _run(program: bytes, command: list[str]) -> Any:
    loader = """
import base64, ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
code = base64.b64decode(sys.argv[1])
room = ctypes.create_string_buffer(code, len(code))
program = Program(len(code) // 8, ctypes.addressof(room))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""
    return subprocess.run(
        [sys.executable, "-c", loader, base64.b64encode(program).decode(), *command],
        capture_output=True, text=True, check=True, timeout=60,
        env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
    )  # fmt: skip
