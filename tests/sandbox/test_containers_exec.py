"""``hardrun exec`` in named containers: who gets in, what holds there, what becomes of sockets."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardrun.kernel import procfs
from hardrun.state.containers import Store
from tests.fake_kernel import FakeKernel
from tests.sandbox.containers_named import HARDRUN, Containers, containers, until

pytestmark = pytest.mark.sandbox
ROOT = Path(__file__).resolve().parents[2]
SLEEPS = "exec sleep 600"
POSTURE = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs",
           "Seccomp", "Seccomp_filters", "SigBlk", "SigIgn", "Speculation_Store_Bypass")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Containers]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with containers(tmp_path) as found:
        yield found


@pytest.fixture
def running(made: Containers) -> Containers:
    """One that sleeps, by the name ``a``."""
    done = made.run("a", SLEEPS, "-d")
    assert done.returncode == 0, done.stderr
    return made


def enter(made: Containers, *words: str, flags: tuple[str, ...] = ()
          ) -> subprocess.CompletedProcess[str]:
    return made.call("exec", *flags, made.name("a"), "--", *words)


def socket_of(made: Containers, short: str) -> Path:
    return Path(Store().look(made.name(short))[0].record.socket or "/none")


def processes(made: Containers) -> int:
    pid = made.inspect("a")["pid"]
    return len(procfs.descendants(pid, procfs.statuses()))


# -- one sandbox -----------------------------------------------------------------------------------


def test_commands_share_tmp_the_layer_and_the_namespaces(running: Containers) -> None:
    assert enter(running, "sh", "-c", "echo 1 > /tmp/x; echo 2 > /layer").returncode == 0
    assert enter(running, "cat", "/tmp/x", "/layer").stdout == "1\n2\n"
    inner = "readlink /proc/1/ns/pid /proc/self/ns/*"
    assert enter(running, "sh", "-c", inner).stdout == enter(running, "sh", "-c", inner).stdout
    pid = running.inspect("a")["pid"]
    assert running.call("exec", str(pid), "--", "cat", "/layer").stdout == "2\n"
    assert running.call("stop", "-t", "0", running.name("a")).returncode == 0
    assert Path(running.inspect("a")["layer"], "layer").read_text() == "2\n"


def test_a_later_command_has_the_posture_of_the_first(made: Containers) -> None:
    status = "cat /proc/self/status /proc/self/limits"
    done = made.run("a", f"{status} > /first; {SLEEPS}", "-d")
    assert done.returncode == 0, done.stderr
    until(lambda: "Max realtime timeout" in enter(made, "cat", "/first").stdout)
    first, later = (enter(made, *words).stdout.splitlines()
                    for words in (("cat", "/first"), ("sh", "-c", status)))

    def posture(lines: list[str]) -> list[str]:
        return [line for line in lines if line.startswith(("Max ", *(f"{x}:" for x in POSTURE)))]

    assert len(posture(first)) > 25
    assert posture(later) == posture(first)
    assert any(line.split() == ["Seccomp:", "2"] for line in later)


def test_verify_finds_nothing_with_commands_inside(running: Containers) -> None:
    with subprocess.Popen([*HARDRUN, "exec", running.name("a"), "--", "sh", "-c",
                           "echo ready; exec sleep 600"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        done = running.call("verify", str(running.inspect("a")["pid"]))
        client.kill()
    assert done.returncode == 0, done.stdout + done.stderr


# -- how commands end ------------------------------------------------------------------------------


@pytest.mark.parametrize("words, status", [
    (("sh", "-c", "exit 7"), 7), (("sh", "-c", "kill -TERM $$"), 143), (("no-such",), 127),
    (("/usr",), 126)], ids=["exit", "signal", "absent", "directory"])
def test_statuses_are_those_of_a_run(running: Containers, words: tuple[str, ...], status: int
                                     ) -> None:
    assert enter(running, *words).returncode == status
    assert running.state("a") == "running"


def test_a_time_out_ends_the_command_alone(running: Containers) -> None:
    assert enter(running, "sleep", "600", flags=("--timeout", "300ms")).returncode == 124
    until(lambda: processes(running) == 2)
    assert running.state("a") == "running"


def test_many_at_a_time(running: Containers) -> None:
    clients = [subprocess.Popen([*HARDRUN, "exec", running.name("a"), "--", "sh", "-c",
                                 f"echo {number}; exit {number}"], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, text=True) for number in range(8)]
    for number, client in enumerate(clients):
        assert client.communicate(timeout=60)[0] == f"{number}\n"
        assert client.returncode == number
    until(lambda: processes(running) == 2)


def test_a_client_that_is_killed_takes_its_command_along(running: Containers) -> None:
    with subprocess.Popen([*HARDRUN, "exec", running.name("a"), "--", "sh", "-c",
                           "echo ready; sleep 600"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        client.kill()
    until(lambda: processes(running) == 2)
    assert enter(running, "true").returncode == 0


def test_a_command_ends_with_its_container(running: Containers) -> None:
    with subprocess.Popen([*HARDRUN, "exec", running.name("a"), "--", "sh", "-c",
                           "echo ready; exec sleep 600"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        assert running.call("kill", "-s", "KILL", running.name("a")).returncode == 0
        assert client.wait(60) == 137


def test_an_attached_run_takes_commands(made: Containers) -> None:
    with subprocess.Popen([*HARDRUN, "run", "--name", made.name("a"), *made.options(), "--",
                           "sh", "-c", "echo ready; exec sleep 600"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        assert enter(made, "echo", "in").stdout == "in\n"
        run.send_signal(signal.SIGTERM)


# -- who does not get in ---------------------------------------------------------------------------


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 125, done
    assert len(done.stderr.splitlines()) == 2, done.stderr  # one line and its hint
    for part in parts:
        assert part in done.stderr


def test_one_that_does_not_run_says_so_in_a_line(made: Containers) -> None:
    made.call("create", "--name", made.name("a"), *made.options(), "--", "sleep", "600")
    refused(enter(made, "true"), "does not run", f"hardrun start {made.name('a')}")
    made.call("start", made.name("a"))
    kept = socket_of(made, "a")
    assert enter(made, "true").returncode == 0
    made.call("stop", "-t", "0", made.name("a"))
    refused(enter(made, "true"), "does not run", "hardrun start")
    assert not kept.exists()
    made.call("start", made.name("a"))
    assert enter(made, "true").returncode == 0
    made.call("rm", "-f", made.name("a"))
    refused(enter(made, "true"), made.name("a"))
    assert not kept.exists()


def test_an_executor_that_was_killed_leaves_nothing_that_misleads(running: Containers) -> None:
    kept = socket_of(running, "a")
    assert kept.is_socket()
    assert kept.stat().st_mode & 0o777 == 0o600
    os.kill(running.inspect("a")["pid"], signal.SIGKILL)
    until(lambda: running.state("a") == "exited")
    refused(enter(running, "true"), "does not run")
    running.call("ps", "-a")
    assert not kept.exists()


def test_one_that_is_stopped_ends_no_container(running: Containers) -> None:
    pid = running.inspect("a")["pid"]
    init = next(child for child, state in procfs.statuses().items() if state.parent == pid)
    os.kill(init, signal.SIGSTOP)
    try:
        refused(enter(running, "true"), "does not answer: it is stopped")
    finally:
        os.kill(init, signal.SIGCONT)
    assert enter(running, "true").returncode == 0


def test_a_policy_that_was_tightened_refuses_the_command(made: Containers, tmp_path: Path) -> None:
    policy = tmp_path / "own.yaml"
    text = "apiVersion: hardrun/v1\nkind: Policy\nmetadata: {name: own}\nwithin: [contained]\n"
    policy.write_text(text)
    done = made.run("a", SLEEPS, "-d", policy=str(policy))
    assert done.returncode == 0, done.stderr
    assert enter(made, "true").returncode == 0
    policy.write_text(text + "bounds: {limits: {memory: 32M}}\n")
    refused(enter(made, "true"), "decide otherwise", "limits.memory")
    policy.unlink()
    assert enter(made, "true").returncode == 125


def test_a_policy_that_matches_the_command_decides_about_it(running: Containers, tmp_path: Path
                                                           ) -> None:
    directory = tmp_path / "config/hardrun/policy.d"
    directory.mkdir(parents=True, mode=0o755)
    policy = directory / "tight.yaml"
    policy.write_text("apiVersion: hardrun/v1\nkind: Policy\nmetadata: {name: tight}\n"
                      "match: {command: ls}\nbounds: {limits: {memory: 32M}}\n")
    policy.chmod(0o644)
    refused(enter(running, "ls"), "limits.memory")
    assert enter(running, "true").returncode == 0


def test_other_user_namespaces_are_refused(running: Containers) -> None:
    """A sandbox that was shown the socket would run commands in another one."""
    path = socket_of(running, "a")
    script = ("import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
              "s.connect(sys.argv[1]); print(len(socket.recv_fds(s, 1, 1)[1]))")
    for words, received in (([], "1\n"), (["unshare", "--user", "--map-current-user"], "0\n")):
        done = subprocess.run([*words, HARDRUN[0], "-c", script, str(path)], capture_output=True,
                              text=True, timeout=60, check=False)
        assert done.stdout == received, done.stderr


def test_a_start_at_its_gate_takes_no_command(made: Containers, tmp_path: Path) -> None:
    """A process at the gate is dumpable: nobody else may be inside (CVE-2016-9962)."""
    from hardrun.containers import launch

    made.call("create", "--name", made.name("a"), *made.options(), "--", "sleep", "600")
    answers: list[bytes] = []

    def at_gate(pid: int) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.settimeout(1)
            client.connect(str(socket_of(made, "a")))
            with pytest.raises(TimeoutError):
                answers.append(client.recv(1))

    launch.start_detached(Store(), made.name("a"), check=at_gate)
    assert answers == []
    assert enter(made, "true").returncode == 0
    executor = made.inspect("a")["pid"]
    made.call("rm", "-f", made.name("a"))
    os.waitpid(executor, 0)


def test_the_landlock_tier_starts_and_says_why_it_takes_none(made: Containers) -> None:
    # All in one call: whoever fakes the kernel stays for as long as what it watches.
    script = ('n=$1; shift; "$@" run --name $n -d --policy agent -- sleep 600 && "$@" ps;'
              ' "$@" exec $n -- true; status=$?; "$@" rm -f $n; exit $status')
    kernel = FakeKernel(user_namespaces=errno.EPERM)
    done = kernel.run(["sh", "-c", script, "sh", made.name("a"), *HARDRUN],
                      env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert "running" in done.stdout, done.stderr
    refused(done, "takes no commands: it runs in the landlock tier")


def test_names_of_sessions_and_containers_are_one_kind(made: Containers) -> None:
    made.call("create", "--name", made.name("a"), *made.options(), "--", "true")
    refused(made.call("run", "--session", made.name("a"), "--", "true"),
            f"there is a container {made.name('a')} already")
    with subprocess.Popen([*HARDRUN, "run", "--session", made.name("b"), "--", "sh", "-c",
                           "echo ready; exec sleep 600"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == "ready\n"
        refused(made.call("create", "--name", made.name("b"), *made.options(), "--", "true"),
                f"there is a session {made.name('b')} already")
        session.send_signal(signal.SIGTERM)
