"""What else a process gets from where it comes: namespaces, keys, environment, signals (NS)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import hardrun
from hardrun.kernel.landlock import abi_version
from tests.escape.conftest import Made
from tests.escape.layers import LAYERS, Planned
from tests.escape.probe import (
    NUMBERS,
    Answer,
    Call,
    Out,
    Result,
    answers_of,
    call,
    contents,
    words_of,
)
from tests.escape.sandbox import POLICIES, Sandbox
from tests.sandbox.raw import Program, bind, operation

PATIENCE = 10.0
"""Seconds after which a process that should be gone counts as left behind."""


def output(prepare: str, *argv: str | Path, environment: dict[str, str] | None = None) -> bytes:
    """What a command prints that is started by a process that has done something to itself."""
    script = f"import ctypes, os, signal, sys\n{prepare}\nos.execv(sys.argv[1], sys.argv[1:])"
    return subprocess.run([sys.executable, "-c", script, *argv], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, check=True, timeout=60,
                          env={**os.environ, **(environment or {})}).stdout


def launched(prepare: str, program: Path, *steps: tuple[Call, ...],
             environment: dict[str, str] | None = None) -> list[Answer]:
    """The same for the probe, or a sandbox with the probe in it."""
    return answers_of(output(prepare, program, *words_of(steps), environment=environment))


# -- namespaces -----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_ns_01_every_namespace_is_new(sandbox: Made, probe: Path, policy: str) -> None:
    """The host's time is the sandbox's as well."""
    names = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
    steps = [(call("readlinkat", -100, f"/proc/self/ns/{name}", Out(64), 64),) for name in names]
    host = [os.readlink(f"/proc/self/ns/{name}") for name in names]
    inside = [answer.text for answer in sandbox(policy).attack(*steps)]
    assert [name for name, a, b in zip(names, inside, host, strict=True) if a == b] == ["time"]
    assert [answer.text for answer in launched("", probe, *steps)] == host


def connected(kind: int, address: bytes, family: int = 1) -> tuple[Call, ...]:
    """Steps that connect a socket."""
    return (call("socket", family, kind, 0), call("connect", Result(0), address, len(address)))


@pytest.fixture
def abstract() -> Iterator[bytes]:
    """The address of a listener with an abstract name, outside."""
    name = f"\0hardrun-escape-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(name)
        listener.listen()
        yield struct.pack("=H", 1) + name.encode()


@pytest.mark.parametrize("policy", POLICIES)
def test_ns_02_cve_2020_15257_an_abstract_socket_of_the_host_is_out_of_reach(
        sandbox: Made, abstract: bytes, policy: str) -> None:
    made, steps = sandbox(policy), connected(1, abstract)
    assert made.one(*steps).word in ("ECONNREFUSED", "EPERM")
    assert made.removed(LAYERS["network namespace"]).one(*steps).word == "EPERM"  # Landlock alone
    assert made.removed(LAYERS["Landlock"]).one(*steps).word == "ECONNREFUSED"
    both = made.removed(LAYERS["network namespace"], LAYERS["Landlock"])
    assert both.one(*steps).word == "ok"


def test_ns_02_nothing_that_listens_on_the_host_is_reached(sandbox: Made) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = struct.pack("=H", 2) + struct.pack("!H4s8x", listener.getsockname()[1],
                                                     b"\x7f\0\0\1")
        made, steps = sandbox(), connected(1, address, family=2)
        assert made.one(*steps).word == "ECONNREFUSED"
        assert made.removed(LAYERS["network namespace"]).one(*steps).word == "ok"


@pytest.mark.skipif(abi_version() < 6, reason="Landlock holds abstract sockets back from ABI 6 on")
@pytest.mark.parametrize("policy", ["build", "contained"])
def test_ns_03_the_hosts_network_is_a_danger_and_not_its_abstract_sockets(
        sandbox: Made, abstract: bytes, policy: str) -> None:
    made, steps = sandbox(policy, network="host"), connected(1, abstract)
    assert any(danger.control == "network" and danger.reason for danger in made.decision.dangers)
    assert made.one(*steps).word == "EPERM"
    assert made.removed(LAYERS["Landlock"]).one(*steps).word == "ok"


@pytest.mark.parametrize("policy", ["untrusted", "judge", "agent"])
def test_ns_03_the_hosts_network_is_not_given(policy: str) -> None:
    with pytest.raises(hardrun.PolicyRefused, match="network"):
        hardrun.run(["true"], policy=policy, network="host")


# -- PID 1 and its parent -------------------------------------------------------------------------


@pytest.mark.sandbox
def test_ns_05_pid_1_is_out_of_the_commands_reach_and_ends_everything(sandbox: Made) -> None:
    made = sandbox()
    answer = made.one(call("kill", 1, signal.SIGKILL), call("kill", 1, signal.SIGSTOP),
                      call("kill", 1, signal.SIGSEGV), call("@hold", 100), call("getpid"))
    assert answer.word == "ok"
    with subprocess.Popen([made.write(), *words_of([[call("@hold", 60_000)]])],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = [child_of(process.pid)]
        until_it_runs(first[0], made.probe.name)
        while len(first) < 3:  # PID 1, the probe, and its child that holds
            first.append(child_of(first[-1]))
        os.kill(first[0], signal.SIGKILL)
        assert process.wait(timeout=PATIENCE) == 137
    assert not [pid for pid in first if exists(pid)]


def until_it_runs(init: int, name: str) -> None:
    """Until the only child of PID 1 is the command."""
    children = Path(f"/proc/{init}/task/{init}/children")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        names = [Path(f"/proc/{pid}/comm") for pid in children.read_text().split()]
        if [path.read_text() for path in names if path.exists()] == [f"{name}\n"]:
            return
        time.sleep(0.002)
    raise AssertionError(f"{init} runs no {name}")


def child_of(pid: int) -> int:
    """The first child of a process, as soon as it has one."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.002)
    raise AssertionError(f"{pid} makes no child")


def exists(pid: int) -> bool:
    """Whether a process is there and more than a zombie."""
    try:
        return not re.search(r"^State:\s+[ZX]", Path(f"/proc/{pid}/status").read_text(), re.M)
    except OSError:
        return False


def gone(pid: int) -> bool:
    """Whether a process ends within our patience."""
    deadline = time.monotonic() + PATIENCE
    while exists(pid) and time.monotonic() < deadline:
        time.sleep(0.002)
    return not exists(pid)


@pytest.mark.sandbox
@pytest.mark.skipif(shutil.which("newuidmap") is None or not set(os.getgroups()) - {os.getgid()},
                    reason="no helper is needed here")
def test_ns_06_pid_1_dies_with_its_parent_while_it_waits_for_it(sandbox: Made,
                                                                tmp_path: Path) -> None:
    """A helper that never ends, which nothing binds to the parent's life, is the control."""
    helper, seen = tmp_path / "helper", tmp_path / "seen"
    helper.write_text(f"#!/bin/sh\necho $$ >{seen}.new; mv {seen}.new {seen}; exec sleep 1000\n")
    helper.chmod(0o755)

    def hanging(planned: Planned) -> Planned:
        return planned.change("write_id_map_helper",
                              lambda o: o._replace(values=(str(helper), o.values[1])))

    made = sandbox().removed(hanging)
    with subprocess.Popen([made.write()], stdin=subprocess.DEVNULL) as process:
        init = child_of(process.pid)
        deadline = time.monotonic() + PATIENCE
        while not seen.exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        waiting = int(seen.read_text())
        assert exists(init)
        process.kill()
    try:
        assert gone(init)
        assert exists(waiting)
    finally:
        os.kill(waiting, signal.SIGKILL)


@pytest.mark.sandbox
def test_ns_06_a_parent_that_is_killed_at_any_moment_leaves_nothing(sandbox: Made) -> None:
    """What is left is found by the fixture that looks after every test here."""
    program, words = sandbox().write(), words_of([[call("@hold", 60_000)]])
    for number in range(60):
        with subprocess.Popen([program, *words], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL) as process:
            time.sleep(number * 0.0004)
            process.kill()
        assert process.returncode == -signal.SIGKILL


# -- signals --------------------------------------------------------------------------------------

IGNORE = """
for number in (1, 2, 10, 13, 15, 17, 34, 50, 64):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {3, 10, 12, 15, 17, 40})
"""


def test_ns_07_no_signal_is_blocked_or_ignored(sandbox: Made) -> None:
    def masks(status: str) -> dict[str, int]:
        return {name: int(mask, 16)
                for name, mask in re.findall(r"^Sig(Blk|Ign):\s+(\w+)$", status, re.M)}

    [inside] = launched(IGNORE, sandbox().write(), contents("/proc/self/status"))
    assert masks(inside.text) == {"Blk": 0, "Ign": 0}
    outside = masks(output(IGNORE, "/bin/cat", "/proc/self/status").decode())
    assert all(mask.bit_count() >= 6 for mask in outside.values())


# -- names ----------------------------------------------------------------------------------------


def test_ns_08_the_name_is_the_sandboxs_own(sandbox: Made) -> None:
    host, longest = os.uname(), "a" * 64
    uname = call("uname", Out(390))
    named = sandbox(hostname=longest).one(uname)
    assert (field(named.out, 1), field(named.out, 5)) == (longest, "(none)")
    renamed = sandbox().removed(LAYERS["seccomp"], LAYERS["capability sets"]).one(
        call("sethostname", "taken", 5), call("setdomainname", "taken", 5), uname)
    assert (field(renamed.out, 1), field(renamed.out, 5)) == ("taken", "taken")
    assert os.uname() == host
    with pytest.raises(hardrun.BadInput, match="--hostname"):
        sandbox(hostname="a" * 65)


def field(utsname: bytes, number: int) -> str:
    """A field of struct new_utsname."""
    return os.fsdecode(utsname[65 * number:65 * (number + 1)].split(b"\0", 1)[0])


# -- keys -----------------------------------------------------------------------------------------

KEY = f"""
call = ctypes.CDLL(None).syscall
assert call({NUMBERS["keyctl"]}, 1, None) > 0
assert call({NUMBERS["add_key"]}, b"user", b"hardrun-canary", b"secret", 6, -3) > 0
"""


def test_ns_09_no_key_of_the_callers_session_is_found(sandbox: Made) -> None:
    search = (call("keyctl", 10, -3, "user", "hardrun-canary", 0),)

    def found(made: Sandbox) -> str:
        return launched(KEY, made.write(), search)[0].word

    made = sandbox()
    assert found(made) == "EPERM"
    assert found(made.removed(LAYERS["seccomp"])) == "ENOKEY"
    assert found(made.removed(LAYERS["session keyring"])) == "EPERM"
    assert found(made.removed(LAYERS["seccomp"], LAYERS["session keyring"])) == "ok"


# -- the environment ------------------------------------------------------------------------------

SECRETS = {"LD_PRELOAD": "/nowhere/evil.so", "LD_LIBRARY_PATH": "/nowhere", "GCONV_PATH": "/",
           "BASH_ENV": "/nowhere", "PYTHONPATH": "/nowhere", "GITHUB_TOKEN": "canary",
           "AWS_SECRET_ACCESS_KEY": "canary", "https_proxy": "http://canary@localhost",
           "SSH_AUTH_SOCK": "/nowhere", "HARDRUN_CANARY": "canary", "XDG_RUNTIME_DIR": "/nowhere"}


@pytest.mark.parametrize("policy", POLICIES)
def test_ns_10_no_variable_comes_in_that_was_not_granted(sandbox: Made, probe: Path,
                                                         policy: str) -> None:
    def names(program: Path) -> set[str]:
        [answer] = launched("", program, contents("/proc/self/environ", 32768),
                            environment=SECRETS)
        variables = answer.out.rstrip(b"\0").split(b"\0")
        return {os.fsdecode(variable.partition(b"=")[0]) for variable in variables}

    made = sandbox(policy)
    control = made.decision.control("environment").value
    assert isinstance(control, tuple)
    granted = re.compile("|".join([*(re.escape(str(name)).replace(r"\*", ".*") for name in control),
                                   "HOME", "USER", "LOGNAME", "PATH", "TMPDIR"]))
    assert not [name for name in names(made.write()) if not granted.fullmatch(name)]
    assert set(SECRETS) <= names(probe)


# -- attributes of a process ----------------------------------------------------------------------

ODD = f"""
call = ctypes.CDLL(None).syscall
call({NUMBERS["personality"]}, 0x0040000)  # ADDR_NO_RANDOMIZE
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE
os.umask(0)
"""
ATTRIBUTES = (call("personality", 0xFFFFFFFF), call("prctl", 42, 0, 0, 0, 0), call("umask", 0o777))


@pytest.mark.parametrize("policy", POLICIES)
def test_ns_12_what_the_caller_did_to_itself_is_undone(sandbox: Made, probe: Path,
                                                       policy: str) -> None:
    def values(program: Path) -> list[int]:
        return [step.value for step in launched(ODD, program, ATTRIBUTES)[0].steps]

    assert values(sandbox(policy).write()) == [0, 0, 0o77 if policy == "judge" else 0o22]
    assert values(probe) == [0x0040000, 1, 0]


SLOWER = f"""
os.nice(7)
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
ctypes.CDLL(None).syscall({NUMBERS["ioprio_set"]}, 1, 0, 3 << 13)  # IOPRIO_CLASS_IDLE
"""
PLACE = (call("getpriority", 0, 0), call("sched_getscheduler", 0), call("ioprio_get", 1, 0),
         call("prlimit64", 0, 13, 0, Out(16)), call("prlimit64", 0, 14, 0, Out(16)),
         call("sched_getaffinity", 0, 128, Out(128)))


def test_ns_12_what_makes_a_sandbox_slower_stays_as_the_caller_wished(sandbox: Made,
                                                                      probe: Path) -> None:
    inside, outside = (launched(SLOWER, program, PLACE)[0]
                       for program in (sandbox().write(), probe))
    assert [step.value for step in inside.steps[:3]] == [20 - 7, os.SCHED_BATCH, 3 << 13]
    assert [step.value for step in outside.steps[:3]] == [20 - 7, os.SCHED_BATCH, 3 << 13]
    assert inside.out == outside.out
    assert int.from_bytes(inside.out, "little").bit_count() == 1


FASTER = f"""
import resource
for limit in (resource.RLIMIT_RTPRIO, resource.RLIMIT_NICE):
    try:
        resource.setrlimit(limit, (39, 39))
    except ValueError:  # a container's root
        pass
ctypes.CDLL(None).syscall({NUMBERS["ioprio_set"]}, 1, 0, 1 << 13)  # IOPRIO_CLASS_RT
os.nice(-5)
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
"""


@pytest.mark.root
def test_ns_12_real_time_does_not_come_along(executor: Path, probe: Path) -> None:
    """Started by root, which alone can hand it to a user; the sandbox is that user's."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        shutil.copy(probe, directory / "probe")
        made = Program(executor, directory)
        shown = [operation("make_file", "/tmp/probe", 0o755, b""),
                 bind(str(directory / "probe"), "/tmp/probe")]
        [inside] = launched(FASTER, Path(made.write(["/tmp/probe"], shown)), PLACE)
        [outside] = launched(FASTER, directory / "probe", PLACE)
    ordinary = [20, os.SCHED_OTHER, 0]
    assert [step.value for step in inside.steps[:3]] == ordinary
    assert inside.steps[3].out + inside.steps[4].out == bytes(32)
    assert [step.value for step in outside.steps[:3]] == [20 + 5, os.SCHED_FIFO, 1 << 13]
    assert outside.steps[3].out + outside.steps[4].out in (bytes(32), struct.pack("4Q", *[39] * 4))
