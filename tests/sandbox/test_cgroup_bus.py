"""The executor asks systemd for a scope: what it does when the bus is absent, hangs, or refuses.

The bus here is a socket of the test's own: an answer that systemd would not give can't be had from
the real one. What systemd really does is tested in the virtual machines (tests/vm).
"""

from __future__ import annotations

import os
import random
import re
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from dbus_fast.constants import MessageType
from dbus_fast.message import Message

from hardrun.kernel import cgroups
from hardrun.kernel.systemd import scope_messages
from hardrun.plan.schema import BY_NAME, Operation, Unsafe
from tests.sandbox.raw import Program, operation, operations

Serve = Callable[[socket.socket, bytes], None]
JOB_REMOVED = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "JobRemoved")


@pytest.fixture
def program(executor: Path, tmp_path: Path) -> Program:
    return Program(executor, tmp_path)


def scope(bus: Path) -> list[Operation]:
    """A sandbox that waits for a scope of the systemd behind ``bus``."""
    mount = cgroups.mount()
    if mount is None:
        pytest.skip("no cgroup2 file system is mounted here")
    return [operation("cgroup", f"{mount.mount_point}/.", "", str(bus),
                      *scope_messages(os.getuid())),
            operation("await_cgroup", 1, 0)]


@contextmanager
def a_bus(path: Path, serve: Serve) -> Iterator[None]:
    """A socket whose one caller is served: ``serve`` gets it with all that it asked."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        thread = threading.Thread(target=_serve, args=(listener, serve))
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket, serve: Serve) -> None:
    try:
        caller, _ = listener.accept()
    except OSError:  # nobody came
        return
    with caller:
        asked = b""
        while b"StartTransientUnit" not in asked or b"PIDs" not in asked:
            part = caller.recv(65536)
            if not part:
                return
            asked += part
        serve(caller, asked)


def error(text: str) -> bytes:
    message = Message(message_type=MessageType.ERROR, reply_serial=4, signature="s", body=[text],
                      error_name="org.freedesktop.systemd1.NoSuchProcess", serial=9)
    return bytes(message._marshall(negotiate_unix_fd=False))


def pids_of(asked: bytes) -> tuple[int, ...]:
    """The processes that the scope is asked for: the parent and PID 1."""
    [pids] = re.findall(rb"PIDs\x00\x02au\x00+\x08\x00{3}(.{8})", asked, re.DOTALL)
    return struct.unpack("<II", pids)


def job_removed(asked: bytes, result: str) -> bytes:
    """What systemd says when the job of the scope that was asked for is over."""
    [name] = re.findall(rb"hardrun-[0-9a-f]{16}\.scope", asked)
    path, interface, member = JOB_REMOVED
    message = Message(message_type=MessageType.SIGNAL, path=path, interface=interface, serial=9,
                      member=member, signature="uoss",
                      body=[7, "/org/freedesktop/systemd1/job/7", name.decode(), result])
    return bytes(message._marshall(negotiate_unix_fd=False))


def until_it_hangs_up(caller: socket.socket, _: bytes) -> None:
    while caller.recv(65536):
        pass


def header(order: bytes, kind: int, body: int, fields: int) -> bytes:
    """The fixed part of a message: byte order, type, sizes of the body and of the header fields."""
    return struct.pack("<cBBBIII", order, kind, 0, 1, body, 9, fields)


def saying(answer: Callable[[bytes], bytes]) -> Serve:
    def serve(caller: socket.socket, asked: bytes) -> None:
        with suppress(OSError):  # the executor has heard enough
            for byte in answer(asked):  # one at a time: an answer may come in pieces
                caller.sendall(bytes([byte]))
            caller.shutdown(socket.SHUT_WR)
            until_it_hangs_up(caller, asked)

    return serve


def damaged(answer: bytes, seed: int) -> bytes:
    """With some bytes changed, or some left out."""
    chance = random.Random(seed)
    changed = bytearray(answer)
    for _ in range(chance.randint(1, 4)):
        byte = chance.choice((0, 1, 127, 255, chance.randrange(256)))
        changed[chance.randrange(len(changed))] = byte
    start = chance.randrange(len(changed))
    return bytes(changed[:start] + changed[start + chance.choice((0, 0, 1, 16)):])


def refusal(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line of a start that failed before the command ran."""
    assert (done.returncode, done.stdout) == (125, b"")
    [line] = done.stderr.decode().splitlines()
    return line


def test_a_bus_that_is_not_there(program: Program, tmp_path: Path) -> None:
    line = refusal(program.run(["echo", "ran"], scope(tmp_path / "bus")))
    assert "make a cgroup below" in line
    assert "connect: ENOENT" in line


def test_a_plan_of_the_cache_is_made_anew_when_the_bus_is_gone(program: Program,
                                                              tmp_path: Path) -> None:
    path = program.write(["echo", "ran"], scope(tmp_path / "bus"),
                         fallback=("/bin/echo", "made", "anew"))
    done = subprocess.run([path], capture_output=True, timeout=60)
    assert done.stdout == b"made anew\n"


def test_a_socket_that_nobody_listens_on(program: Program, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "bus"))
        assert "connect: ECONNREFUSED" in refusal(
            program.run(["echo", "ran"], scope(tmp_path / "bus")))


@pytest.mark.parametrize("answer, said", [
    pytest.param(lambda _: b"REJECTED EXTERNAL\r\n", "EPROTO", id="the bus rejects us"),
    pytest.param(lambda _: b"OK 1\r\n" + error("Process 12 is a kernel thread"),
                 "Process 12 is a kernel thread", id="systemd refuses"),
    pytest.param(lambda _: b"OK 1\r\n" + b"x" * 64, "EPROTO", id="nonsense"),
    pytest.param(lambda _: b"OK 1\r\nl\4\0\1" + b"\xff" * 12, "EPROTO", id="a huge message"),
    pytest.param(lambda _: b"OK 1\r\n" + header(b"l", 4, 0xFFFFFFFF, 0), "EPROTO",
                 id="a body of 4 GiB"),
    pytest.param(lambda _: b"OK 1\r\n" + header(b"l", 4, 0xFFFFFFF0, 0xFFFFFFFF), "EPROTO",
                 id="sizes whose sum has 33 bits"),
    pytest.param(lambda _: b"OK 1\r\n" + header(b"B", 4, 0, 0), "EPROTO", id="another byte order"),
    pytest.param(lambda _: b"OK 1\r\n" + header(b"l", 3, 0, 0), "systemd: EREMOTEIO",
                 id="an error without a word"),
    pytest.param(lambda _: b"OK 1\r\n" + header(b"l", 3, 4, 0) + b"\xff" * 4, "systemd: EREMOTEIO",
                 id="an error that ends in its length"),
    pytest.param(lambda _: b"O", "the bus hung up", id="half a word"),
    pytest.param(lambda _: b"OK 1\r\n" + header(b"l", 4, 64, 0), "the bus hung up",
                 id="half a message"),
    pytest.param(lambda asked: b"OK 1\r\n" + job_removed(asked, "done").replace(
        b".scope", b".slice"), "the bus hung up", id="the job of another unit"),
    pytest.param(lambda asked: b"OK 1\r\n" + job_removed(asked, "failed"), "the scope failed",
                 id="the job fails"),
    pytest.param(lambda asked: b"OK 1\r\n" + job_removed(asked, "done"), "not moved by systemd",
                 id="the job is done and nobody was moved"),
])
def test_an_answer_that_makes_no_scope(program: Program, tmp_path: Path, said: str,
                                       answer: Callable[[bytes], bytes]) -> None:
    with a_bus(tmp_path / "bus", saying(answer)):
        assert said in refusal(program.run(["echo", "ran"], scope(tmp_path / "bus")))


@pytest.mark.parametrize("seed", range(40))
def test_an_answer_that_was_damaged(program: Program, tmp_path: Path, seed: int) -> None:
    """Whatever a bus says: one line, and nothing has run."""
    def answer(asked: bytes) -> bytes:
        return damaged(b"OK 1\r\n" + error("no") + job_removed(asked, "done"), seed)

    with a_bus(tmp_path / "bus", saying(answer)):
        refusal(program.run(["echo", "ran"], scope(tmp_path / "bus")))


def test_a_bus_that_hangs_up(program: Program, tmp_path: Path) -> None:
    with a_bus(tmp_path / "bus", lambda caller, asked: None):
        assert "the bus hung up" in refusal(
            program.run(["echo", "ran"], scope(tmp_path / "bus")))


@pytest.mark.slow
def test_a_bus_that_never_answers_is_given_up(program: Program, tmp_path: Path) -> None:
    with a_bus(tmp_path / "bus", until_it_hangs_up):
        line = refusal(program.run(["echo", "ran"], scope(tmp_path / "bus")))
    assert "no answer from systemd: ETIMEDOUT" in line


def test_a_sandbox_without_namespaces_ends_all_the_same(program: Program, tmp_path: Path) -> None:
    """Its reaper waits for systemd before it has a child, and hears no signal but SIGKILL."""
    extra = [operation("clone", 0), *scope(tmp_path / "bus")]
    view = [o.name for o in operations(["echo"]) if 40 <= BY_NAME[o.name].opcode < 62]
    with a_bus(tmp_path / "bus", saying(lambda _: b"REJECTED EXTERNAL\r\n")):
        done = program.run(["echo", "ran"], extra, without=view, unsafe=Unsafe(sum(Unsafe)))
    assert "EPROTO" in refusal(done)


def test_systemd_is_told_of_the_parent_and_of_pid_1(program: Program, tmp_path: Path) -> None:
    """Both as the caller's pid namespace numbers them, and under a name of 64 random bits."""
    heard: list[bytes] = []
    with a_bus(tmp_path / "bus", lambda caller, asked: heard.append(asked)):
        path = program.write(["echo", "ran"], scope(tmp_path / "bus"))
        process = subprocess.Popen([path], stderr=subprocess.DEVNULL)
        process.wait(60)
    [asked] = heard
    assert b"AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() in asked
    assert pids_of(asked)[0] == process.pid
    [name] = re.findall(rb"hardrun-([0-9a-f]{16})\.scope", asked)
    assert name != b"0" * 16


def test_a_plan_must_wait_for_its_scope(program: Program, tmp_path: Path) -> None:
    """Else the command would run before it is limited."""
    placed, _ = scope(tmp_path / "bus")
    for extra in ([placed], [placed, operation("await_cgroup", 0, 0)]):
        assert "does not wait for its cgroup" in refusal(program.run(["echo", "ran"], extra))


def test_a_limit_needs_a_group(program: Program) -> None:
    extra = [operation("cgroup_limit", "pids.max", "1")]
    assert "limits a cgroup that it has not" in refusal(program.run(["echo", "ran"], extra))


def test_a_directory_that_is_no_cgroup(program: Program, tmp_path: Path) -> None:
    extra = [operation("cgroup", str(tmp_path), "", "", b"", 0, 0, 0)]
    assert "not a cgroup: EXDEV" in refusal(program.run(["echo", "ran"], extra))
