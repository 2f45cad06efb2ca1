"""``hardrun exec``: names, numbers, pools; who may join, and what goes in and out."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import hardrun
from hardrun.kernel import procfs
from hardrun.verify import find_sandbox

PATIENCE = 30.0
HARDRUN = [sys.executable, "-P", "-m", "hardrun"]
BAD_NAMES = ("", ".", "..", "a/b", "/a", "-x", ".a", "a b", "a\n", "ä", "a" * 65, "1a", "a:b")


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PATH", "/usr/local/bin:/usr/bin:/bin")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing of the kind happened"
        time.sleep(0.01)


class Background:
    """A hardrun that runs beside the test."""

    def __init__(self, words: Sequence[str]) -> None:
        self.process = subprocess.Popen([*HARDRUN, *words], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE)

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=PATIENCE)

    @property
    def launcher(self) -> int:
        [pid] = [pid for pid, status in procfs.statuses().items()
                 if status.parent == self.process.pid and status.name == "hardrun"]
        return pid


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Background]:
    with Background(["run", "--session", "dev", "--policy", "agent", "--",
                     "sh", "-c", "echo ready; exec sleep 1000"]) as made:
        assert made.process.stdout is not None
        assert made.process.stdout.readline() == b"ready\n"
        yield made


@pytest.fixture
def pooled(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "pool.sock"
    with Background(["pool", "--size", "2", "--policy", "judge", str(path)]):
        until(path.exists)
        yield str(path)


def run(*words: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    how = {"capture_output": True, "stdin": subprocess.DEVNULL, "timeout": 60} | options
    if "input" in how:
        del how["stdin"]
    return subprocess.run([*HARDRUN, "exec", *words], check=False, **how)  # type: ignore[call-overload, no-any-return]


def test_commands_join_by_name_and_by_number(session: Background) -> None:
    done = run("dev", "--", "sh", "-c", "echo one; echo two >&2; echo kept > /tmp/file; exit 4")
    assert (done.stdout, done.stderr, done.returncode) == (b"one\n", b"two\n", 4)
    assert run(str(session.launcher), "--", "cat", "/tmp/file").stdout == b"kept\n"
    inside = find_sandbox(session.launcher).processes[-1]
    assert run(str(inside), "--", "cat", "/tmp/file").stdout == b"kept\n"


def test_the_statuses_are_those_of_a_run(session: Background) -> None:
    for words, status in (("exit 7", 7), ("kill -TERM $$", 143)):
        assert run("dev", "--", "sh", "-c", words).returncode == status
    assert run("dev", "--", "no-such-command").returncode == 127
    assert run("dev", "--", "/etc/passwd").returncode == 126
    assert run("--timeout", "300ms", "dev", "--", "sleep", "1000").returncode == 124
    assert run("--workdir", "/usr", "--env", "A=b", "dev", "--", "sh", "-c", "pwd; echo $A"
               ).stdout == b"/usr\nb\n"


def test_standard_input_goes_in(session: Background, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100_000)
    assert run("dev", "--", "cat", input=b"piped").stdout == b"piped"
    with file.open("rb") as opened:
        done = run("dev", "--", "sh", "-c", "readlink /proc/self/fd/0 >&2; cat", stdin=opened)
        assert done.stdout == b"x" * 100_000
        assert str(tmp_path).encode() not in done.stderr


def test_signals_reach_the_command(session: Background) -> None:
    with subprocess.Popen([*HARDRUN, "exec", "dev", "--", "sh", "-c",
                           "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"],
                          stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 9


def test_a_client_that_is_killed_takes_its_command_along(session: Background) -> None:
    with subprocess.Popen([*HARDRUN, "exec", "dev", "--", "sh", "-c", "echo ready; sleep 1000"],
                          stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    until(lambda: len(find_sandbox(session.launcher).processes) == 2)


def test_a_session_ends_with_its_command(tmp_path: Path) -> None:
    with Background(["run", "--session", "dev", "--", "sh", "-c", "echo ready; sleep 1"]) as made:
        assert made.process.stdout is not None
        assert made.process.stdout.readline() == b"ready\n"
        assert run("dev", "--", "sleep", "1000").returncode == 137
        assert made.process.wait(PATIENCE) == 0
    assert not list((tmp_path / "cache/hardrun/sessions").iterdir())
    done = run("dev", "--", "true")
    assert done.returncode == 125
    assert b"no sandbox takes commands at session dev" in done.stderr


def test_a_name_that_is_taken_is_refused_and_a_dead_one_is_not(session: Background,
                                                               tmp_path: Path) -> None:
    words = [*HARDRUN, "run", "--session", "dev", "--", "echo", "ran"]
    done = subprocess.run(words, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (125, b"")
    session.process.kill()
    session.process.wait()
    assert (tmp_path / "cache/hardrun/sessions/dev").exists()
    assert run("dev", "--", "true").returncode == 125
    assert subprocess.run(words, capture_output=True, check=True).stdout == b"ran\n"


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_jn_06_a_name_is_no_path(session: Background, name: str) -> None:
    for words in (["exec", "--", "true"], ["run", "--session", name, "--", "echo", "ran"]):
        given = [*words[:1], name, *words[1:]] if words[0] == "exec" else words
        done = subprocess.run([*HARDRUN, *given], capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (125, b"")


def test_jn_06_a_stopped_sandbox_is_refused(session: Background,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    init = find_sandbox(session.launcher).init
    os.kill(init, signal.SIGSTOP)
    try:
        done = run("dev", "--", "echo", "ran")
    finally:
        os.kill(init, signal.SIGCONT)
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"stopped" in done.stderr
    assert run("dev", "--", "echo", "ran").stdout == b"ran\n"


def test_jn_06_a_place_that_others_could_write_to_is_refused(session: Background,
                                                             tmp_path: Path) -> None:
    place = tmp_path / "cache/hardrun/sessions"
    place.chmod(0o777)
    done = run("dev", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"not yours alone" in done.stderr
    place.chmod(0o700)
    assert run("dev", "--", "echo", "ran").stdout == b"ran\n"


_CONNECT = """
import json, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
s.send(json.dumps({"command": "true"}).encode())
data, fds, _, _ = socket.recv_fds(s, 65536, 1)
print(len(data) > 0, len(fds))
"""


def test_jn_06_a_process_of_a_sandbox_gets_no_way_into_another(session: Background,
                                                               tmp_path: Path) -> None:
    """Of the same user, with the socket in its view: the kernel tells another user namespace."""
    path = str(tmp_path / "cache/hardrun/sessions/dev")
    outside = subprocess.run([sys.executable, "-c", _CONNECT, path], capture_output=True,
                             check=True)
    assert outside.stdout == b"True 1\n"
    inside = hardrun.run(["/usr/bin/python3", "-c", _CONNECT, path], ro=path, policy="agent",
                         capture_output=True)
    assert inside.stdout in (b"False 0\n", b"")
    assert inside.stdout or b"line 6" in inside.stderr  # the answer, after it had connected


def test_jn_06_a_listener_of_another_kind_is_not_believed(tmp_path: Path) -> None:
    place = tmp_path / "cache/hardrun/sessions"
    place.mkdir(parents=True, mode=0o700)
    place.parent.chmod(0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(place / "dev"))
        other.listen()
        assert run("dev", "--", "true").returncode == 125
    (place / "dev").unlink()


def test_a_policy_that_was_tightened_holds_for_the_next_command(session: Background,
                                                                tmp_path: Path) -> None:
    directory = tmp_path / "config/hardrun/policy.d"
    directory.mkdir(parents=True, mode=0o755)
    policy = directory / "tight.yaml"
    policy.write_text("apiVersion: hardrun/v1\nkind: Policy\nmetadata: {name: tight}\n"
                      "match: {command: sh}\nbounds: {limits: {memory: 32M}}\n")
    policy.chmod(0o644)
    done = run("dev", "--", "sh", "-c", "echo ran")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"limits.memory" in done.stderr
    assert run("dev", "--", "echo", "ran").stdout == b"ran\n"


def test_a_pool_gives_each_command_a_sandbox_of_its_own(pooled: str) -> None:
    for number in range(5):
        done = run("--pool", pooled, "--", "sh", "-c", f"ls /tmp; echo > /tmp/used; exit {number}")
        assert (done.stdout, done.returncode) == (b"", number)
    assert run("--pool", pooled, "--", "no-such-command").returncode == 127
    assert run("--pool", pooled + "x", "--", "true").returncode == 125
    assert run("--pool", pooled, "dev", "--", "true").returncode == 125
    assert run("--", "true").returncode == 125


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_pool_that_ends_leaves_nothing(tmp_path: Path, end: signal.Signals) -> None:
    path = tmp_path / "pool.sock"
    with Background(["pool", "--size", "2", str(path)]) as made:
        until(path.exists)
        until(lambda: sum(status.parent == made.process.pid
                          for status in procfs.statuses().values()) == 2)
        children = [pid for pid, s in procfs.statuses().items() if s.parent == made.process.pid]
        made.process.send_signal(end)
        made.process.wait(PATIENCE)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    assert path.exists() == (end == signal.SIGKILL)


@pytest.mark.parametrize("words, told", [
    (["run", "--session", "dev", "--verify", "--", "true"], "no gate"),
    (["pool", "-t", "pool.sock"], "no terminal"),
    (["pool", "--size", "0", "pool.sock"], "size"),
    (["pool", "/no/such/directory/pool.sock"], "can't listen"),
], ids=["gate", "terminal", "size", "directory"])
def test_what_can_not_be_is_refused_in_one_line(words: list[str], told: str) -> None:
    done = subprocess.run([*HARDRUN, *words], capture_output=True, text=True, check=False,
                          timeout=60)
    assert done.returncode == 125
    assert told in done.stderr.splitlines()[0]


# In a pid namespace of its own a number can be given anew at will.
_REUSED = """
import ctypes, os, socket, sys, threading
from hardrun.executor import named

def held(number, inside):
    reading, writing = os.pipe()
    forked, tell = os.pipe()
    client = os.fork()
    if not client:
        assert not inside or ctypes.CDLL(None).unshare(0x10000000) == 0
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.connect("socket")
        if os.fork():
            os.write(tell, b".")
            os._exit(0) if number else os.waitpid(-1, 0)
        else:
            try:
                end.send(b'{"command": "true"}')
                os.write(writing, end.recv(1000) or b"refused")
            except OSError:
                os.write(writing, b"refused")
        os._exit(0)
    os.read(forked, 1)  # or it would be given the number that is free
    if number:
        os.waitpid(client, 0)
        other = 0
        while other != client:
            with open("/proc/sys/kernel/ns_last_pid", "w") as last:
                last.write(str(client - 1))
            if not (other := os.fork()):
                os.execvp("sleep", ["sleep", "100"])
    return reading

def answer(command):
    raise named.BadInput("it was let in")

listener = named.Listener(path="socket")
ends = [held(False, False), held(False, True), held(True, True)]
threading.Thread(target=listener.serve, args=(answer,), daemon=True).start()
print([b"let in" in os.read(end, 1000) for end in ends])
"""


def test_a_number_that_became_another_processs_opens_nothing() -> None:
    """A sandbox connects, the process that did so ends, and its number goes to one outside."""
    done = subprocess.run(["unshare", "-Urpf", "--mount-proc", "--kill-child", sys.executable,
                           "-c", _REUSED], capture_output=True, text=True, check=False,
                          timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("[True, False, False]\n", "")
