"""Commands that come to a running sandbox, beside a hostile one that waits for them there."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import hardrun
from hardrun.executor import image, serve
from hardrun.kernel import procfs
from hardrun.plan.format import decode
from hardrun.plan.serve import MOST_BYTES, REPLY, REQUEST, Told, request
from tests.escape.conftest import Careless
from tests.escape.paused import VARIABLE, Paused

pytestmark = pytest.mark.sandbox
POLICIES = ("untrusted", "agent", "build")
NEVER = 0xFFFFFFFF
# Tries for every process that it sees what the right to trace it gives.
ATTACKER = """
import json, os, sys
def works(what, *arguments):
    try:
        what(*arguments)
    except OSError:
        return False
    return True
for line in sys.stdin:
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        at = f"/proc/{pid}/"
        tries = [(os.listdir, at + "fd"), (os.readlink, at + "root"), (os.readlink, at + "cwd"),
                 (os.readlink, at + "exe"), (os.open, at + "mem", 2), (os.readlink, at + "ns/mnt"),
                 (os.open, at + "environ", 0), (os.open, at + "maps", 0)]
        found[pid] = [t[1][len(at):] for t in tries if works(*t)]
    print(json.dumps(found), flush=True)
"""
POSTURE = """
for f in status limits cgroup uid_map gid_map attr/current mountinfo; do
    echo == $f; cat /proc/self/$f 2>&1; done
for n in /proc/self/ns/*; do readlink $n; done
ls /proc/self/fd; umask; id; cat /proc/keys 2>&1 | head -c 0; stat -Lc %F /proc/self/fd/[012]
"""
# of a process, or of the moment
DIFFERS = ("Pid:", "PPid:", "Tgid:", "NSpid:", "NSpgid:", "NStgid:", "NSsid:", "Vm", "Rss",
           "Hugetlb", "voluntary", "nonvoluntary", "Threads:", "SigQ:", "Cpus", "Mems",
           "FDSize:", "Name:", "State:", "Ngid:", "CoreDumping:", "untag", "Kthread:", "THP_",
           "x86_")


@contextmanager
def by(executor: Path | None, monkeypatch: pytest.MonkeyPatch, paused: Paused | None = None,
       **options: Any) -> Iterator[hardrun.Sandbox]:
    """A sandbox by another build of the executor."""
    if executor is not None:
        monkeypatch.setattr(image, "read_executor", executor.read_bytes)
    if paused is not None:
        monkeypatch.setenv(VARIABLE, paused.environment[VARIABLE])
    with hardrun.Sandbox(**options) as made:
        yield made


def steps(sandbox: hardrun.Sandbox) -> list[str]:
    return [o.name for o in decode(sandbox._served.channels.plan).operations]


def steps_of(policy: str) -> list[str]:
    """Of a sandbox that is not started."""
    with hardrun.Sandbox(policy=policy) as sandbox:
        return steps(sandbox)


def init_of(sandbox: hardrun.Sandbox) -> int:
    return next(p for p, s in procfs.statuses().items() if s.parent == sandbox.pid)


def wait(paused: Paused) -> None:
    deadline = time.monotonic() + 60
    while not paused.stopped:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def reached(sandbox: hardrun.Sandbox, paused: Paused, step: str) -> dict[int, list[str]]:
    """What a command inside reaches of PID 1 (1) and of a joiner that stands before a step (0)."""
    with sandbox.spawn(["/usr/bin/python3", "-c", ATTACKER], stdin=subprocess.PIPE,
                       stdout=subprocess.PIPE) as attacker:
        assert attacker.stdin is not None
        assert attacker.stdout is not None
        attacker.stdin.write(b"ready?\n")
        attacker.stdin.flush()
        attacker.stdout.readline()
        paused.next(steps(sandbox).index(step))
        joining = threading.Thread(target=sandbox.run, args=(["true"],))
        joining.start()
        wait(paused)
        [joiner] = [s.pids[-1] for s in procfs.statuses().values()
                    if s.parent == init_of(sandbox) and s.name == "hardrun"]
        attacker.stdin.write(b"now\n")
        attacker.stdin.flush()
        found = json.loads(attacker.stdout.readline())
        paused.go()
        joining.join()
    return {0: found.get(str(joiner), []), 1: found.get("1", [])}


@pytest.mark.parametrize("step", ["new_session", "change_directory", "close_descriptors",
                                  "load_seccomp", "execute"])
def test_jn_01_a_joiner_can_not_be_reached_into_before_its_exec(
        pausing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    with Paused(tmp_path, NEVER) as paused, \
            by(pausing, monkeypatch, paused, policy="build") as sandbox:
        assert reached(sandbox, paused, step) == {0: [], 1: []}


def test_jn_01_a_joiner_that_is_dumpable_is_reached(
        careless: Careless, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Paused(tmp_path, NEVER) as paused, \
            by(careless("joins open"), monkeypatch, paused, policy="build") as sandbox:
        found = reached(sandbox, paused, "close_descriptors")
    assert {"fd", "root", "mem"} <= set(found[0])


def posture(text: bytes) -> list[str]:
    """What a command's processes have in common; mounts and namespaces without their numbers."""
    kept = []
    for line in text.decode(errors="replace").splitlines():
        if line.startswith(DIFFERS):
            continue
        words = line.split()
        if " - " in line and len(words) > 6:  # mountinfo: ids and devices differ
            line = " ".join([*words[3:6], *words[6:]])
        kept.append(line.partition("[")[0] if line.endswith("]") else line)
    return sorted(kept)


def without_devices(lines: list[str]) -> list[str]:
    return [" ".join(w for w in line.split() if not w.startswith("/dev/")) for line in lines]


@pytest.mark.parametrize("policy", POLICIES)
def test_jn_02_a_joiner_is_held_to_what_a_run_is(policy: str, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = hardrun.run(["sh", "-c", POSTURE], policy=policy, capture_output=True)
    with hardrun.Sandbox(policy=policy) as sandbox:
        joined = [sandbox.run(["sh", "-c", POSTURE], capture_output=True) for _ in range(2)]
    for found in joined:
        assert posture(found.stdout) == posture(ran.stdout)
    assert b"Seccomp:\t2" in ran.stdout
    with hardrun.Pool(policy=policy, size=1) as pool:
        pooled = pool.run(["sh", "-c", POSTURE], capture_output=True)
    assert posture(pooled.stdout) == posture(ran.stdout)


def test_jn_02_a_joiner_without_a_filter_differs(
        careless: Careless, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = hardrun.run(["sh", "-c", POSTURE], policy="agent", capture_output=True)
    with by(careless("joins unfiltered"), monkeypatch, policy="agent") as sandbox:
        found = sandbox.run(["sh", "-c", POSTURE], capture_output=True)
    assert set(posture(ran.stdout)) - set(posture(found.stdout)) == {
        "Seccomp:\t2", "Seccomp_filters:\t1"}


def test_jn_02_commands_can_signal_each_other_and_nobody_else() -> None:
    """One Landlock domain, that of PID 1, which they can't signal any way that matters."""
    with hardrun.Sandbox(policy="agent") as sandbox, \
            sandbox.spawn(["sleep", "1000"]) as other:
        script = "for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p = $$ ] || kill -KILL $p; done"
        sandbox.run(["sh", "-c", script])
        assert other.wait(30).signal == signal.SIGKILL
        assert sandbox.run(["true"]).returncode == 0


def test_jn_03_no_number_leads_to_a_sandbox() -> None:
    """Commands go by a socket that PID 1 alone has: whoever has its number later gets none."""
    with hardrun.Sandbox(policy="agent") as sandbox:
        assert serve.is_ready(sandbox._served.at)
        os.kill(init_of(sandbox), signal.SIGKILL)
        sandbox._served.process.wait()
        assert not serve.is_ready(sandbox._served.at)
        with pytest.raises(serve.SandboxEnded):
            serve.Command(sandbox._served.at, serve.Asked(("true",)))


def test_jn_03_no_namespace_is_entered_by_who_joins(tmp_path: Path) -> None:
    """By setns(2) PID 1 alone enters one, at the start: that of the network, made for it."""
    script = ("import hardrun\nwith hardrun.Sandbox(policy='agent') as s:\n"
              " s.run(['true']); s.run(['true'])")
    log = tmp_path / "log"
    subprocess.run(["strace", "-f", "-qq", "-o", log, "-e", "trace=setns,clone,ptrace",
                    sys.executable, "-c", script], check=True, capture_output=True)
    calls = log.read_text(encoding="utf-8", errors="replace")
    entered = re.findall(r"setns\((?!-1).*", calls)
    assert {"CLONE_NEWNET) = 0" in " ".join(line.split()) for line in entered} == {True}
    assert calls[calls.rindex(entered[-1]):].count("CLONE_VFORK") >= 2
    assert "ptrace(" not in calls


@pytest.mark.parametrize("step", ["new_session", "set_umask", "set_limit", "change_directory",
                                  "close_descriptors", "load_seccomp", "execute"])
def test_a_step_that_fails_ends_the_command_and_not_the_sandbox(
        pausing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.chdir(tmp_path)
    with Paused(tmp_path, NEVER) as paused, \
            by(pausing, monkeypatch, paused, policy="build") as sandbox:
        paused.next(steps(sandbox).index(step), errno.EXDEV, stop=False)
        with pytest.raises(hardrun.ExecutorError, match="injected: EXDEV"):
            sandbox.run(["sh", "-c", "echo ran > /tmp/ran"])
        assert sandbox.run(["sh", "-c", "ls /tmp"], capture_output=True).stdout == b""


@pytest.mark.parametrize("step", ["make_private", "pivot_root", "serve"])
def test_a_sandbox_that_can_not_be_set_up_is_an_exception(
        pausing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    names = steps_of("build")
    with Paused(tmp_path, names.index(step), errno.EXDEV, stop=False) as paused, \
            pytest.raises(hardrun.ExecutorError, match="injected: EXDEV"), \
            by(pausing, monkeypatch, paused, policy="build"):
        pass


@pytest.mark.parametrize("step", ["new_session", "close_descriptors", "load_seccomp", "execute"])
@pytest.mark.parametrize("victim", ["joiner", "init", "launcher"])
def test_whoever_is_killed_while_a_command_joins_leaves_nothing(
        pausing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, victim: str
        ) -> None:
    with Paused(tmp_path, NEVER) as paused, \
            by(pausing, monkeypatch, paused, policy="build") as sandbox:
        paused.next(steps(sandbox).index(step))
        ended: list[BaseException | hardrun.Result] = []

        def join() -> None:
            try:
                ended.append(sandbox.run(["sleep", "1000"]))
            except hardrun.HardrunError as error:
                ended.append(error)

        joining = threading.Thread(target=join)
        joining.start()
        wait(paused)
        init = init_of(sandbox)
        [joiner] = [p for p, s in procfs.statuses().items() if s.parent == init]
        os.kill({"joiner": joiner, "init": init, "launcher": sandbox.pid}[victim], signal.SIGKILL)
        joining.join()
        assert isinstance(ended[0], hardrun.ExecutorError) or ended[0].outcome != "exited"
        if victim == "joiner":
            paused.next(NEVER)
            assert sandbox.run(["true"]).returncode == 0
    # the fixture of all such tests looks for processes that are left


def test_jn_04_a_joiner_is_a_child_of_pid_1_in_its_namespace(
        pausing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Paused(tmp_path, NEVER) as paused, \
            by(pausing, monkeypatch, paused, policy="build") as sandbox:
        paused.next(steps(sandbox).index("new_session"))
        joining = threading.Thread(target=sandbox.run, args=(["true"],))
        joining.start()
        wait(paused)
        statuses, init = procfs.statuses(), init_of(sandbox)
        [joiner] = [s for s in statuses.values() if s.parent == init]
        paused.go()
        joining.join()
        assert len(joiner.pids) == len(statuses[init].pids) == len(procfs.status().pids) + 1
        assert statuses[init].pids[-1] == 1


@pytest.mark.parametrize("directory", ["/", "/usr/../../..", "../../../../..", "/tmp/way"])
def test_jn_04_a_working_directory_is_one_of_the_sandbox(directory: str) -> None:
    with hardrun.Sandbox(policy="agent") as sandbox:
        sandbox.run(["ln", "-s", "/proc/1/root", "/tmp/way"])
        try:
            found = sandbox.run(["sh", "-c", "pwd; stat -c %d:%i . /"], workdir=directory,
                                capture_output=True)
        except hardrun.BadInput:
            assert directory == "/tmp/way"
            return
        here, root = found.stdout.split()[1:]
        assert (found.stdout.split()[0], here) == (b"/", root)


def test_jn_05_a_name_is_looked_up_inside(tmp_path: Path) -> None:
    outside = tmp_path / "bin"
    outside.mkdir()
    program = outside / "program"
    program.write_text("#!/bin/sh\necho outside\n")
    program.chmod(0o755)
    assert subprocess.run([program], capture_output=True, check=True).stdout == b"outside\n"
    with hardrun.Sandbox(policy="build", tmpfs="/plant") as sandbox:
        path = {"PATH": f"{outside}:/plant:/usr/bin:/bin"}
        with pytest.raises(hardrun.CommandNotFound):
            sandbox.run(["program"], env=path)
        with pytest.raises(hardrun.CommandNotFound):
            sandbox.run([str(program)])
        sandbox.run(["sh", "-c", "echo '#!/bin/sh\nid -u; ls /proc/self/fd; grep NoNewPrivs "
                     "/proc/self/status' > /plant/program; chmod +x /plant/program"])
        done = sandbox.run(["program"], env=path, capture_output=True)
        assert done.returncode == 0
        assert b"NoNewPrivs:\t1" in done.stdout


# -- what PID 1 takes ------------------------------------------------------------------------------


def send(sandbox: hardrun.Sandbox, data: bytes, descriptors: list[int]) -> bytes | None:
    """Send a packet with a channel and these descriptors; the reply, None for none."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        socket.send_fds(sandbox._served.at, [data], [theirs.fileno(), *descriptors])
        theirs.close()
        ours.settimeout(30)
        return ours.recv(4096) or None


def kind(reply: bytes | None) -> Told:
    assert reply is not None
    return Told(REPLY.unpack(reply)[0])


TRUE = request([b"/usr/bin/true"], b"", [], 0)


@contextmanager
def descriptors(tmp_path: Path) -> Iterator[dict[str, int]]:
    (tmp_path / "file").write_text("secret")
    os.mkfifo(tmp_path / "fifo")
    master, terminal = pty.openpty()
    pair = socket.socketpair()
    unsealed = os.memfd_create("unsealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    found = {
        "file": os.open(tmp_path / "file", os.O_RDWR), "directory": os.open("/", os.O_RDONLY),
        "O_PATH": os.open("/", os.O_PATH), "terminal": terminal, "socket": pair[0].fileno(),
        "fifo": os.open(tmp_path / "fifo", os.O_RDWR), "unsealed": unsealed,
        "zero": os.open("/dev/zero", os.O_RDONLY)}
    try:
        yield found
    finally:
        for name, descriptor in found.items():
            if name != "socket":
                os.close(descriptor)
        os.close(master)
        for one in pair:
            one.close()


def test_only_pipes_the_null_device_and_sealed_memory_go_in(tmp_path: Path) -> None:
    with hardrun.Sandbox(policy="agent") as sandbox, descriptors(tmp_path) as known, \
            open(os.devnull, "r+b") as null:
        fine = null.fileno()
        for name, descriptor in known.items():
            for place in range(3):
                passed = [fine] * 3
                passed[place] = descriptor
                assert kind(send(sandbox, TRUE, passed)) == Told.REFUSED, (name, place)
        sealed = serve.memory_file(b"input")
        assert kind(send(sandbox, TRUE, [sealed, fine, fine])) == Told.ENDED
        assert kind(send(sandbox, TRUE, [fine, sealed, fine])) == Told.REFUSED
        os.close(sealed)


def test_without_that_check_a_file_goes_in(careless: Careless, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    with by(careless("takes any descriptor"), monkeypatch, policy="agent") as sandbox, \
            descriptors(tmp_path) as known, open(os.devnull, "r+b") as null:
        data = request([b"/bin/sh", b"-c", b"echo planted >&0"], b"", [], 0)
        assert kind(send(sandbox, data, [known["file"], null.fileno(), null.fileno()])) == \
            Told.ENDED
    assert (tmp_path / "file").read_text() == "planted\n"


def header(flags: int = 0, argv: int = 1, variables: int = 0,
           magic: bytes = b"HRCMD\r\n\0") -> bytes:
    return REQUEST.pack(magic, flags, argv, variables)


@pytest.mark.parametrize("data", [
    b"", b"x", TRUE[:-1], TRUE + b"\0", TRUE + b"x", TRUE[:24], header(),
    header(magic=b"HRCMD\r\n1") + b"\0true\0", header(flags=2) + b"\0true\0",
    header(argv=0) + b"\0", header(argv=2) + b"\0true\0", header(argv=5000) + b"\0" * 5001,
    header(argv=1, variables=0xFFFFFFFF) + b"\0true\0A=b\0",
    header(argv=0xFFFFFFFF, variables=2) + b"\0true\0A=b\0", header() + b"\0\0",
    header(variables=1) + b"\0true\0A\0", header(variables=1) + b"\0true\0=b\0",
    struct.pack("<8sIIII", b"HRCMD\r\n\0", 0, 1, 0, 7) + b"\0true\0",
    header() + b"\0" + b"x" * MOST_BYTES + b"\0",
], ids=lambda data: f"{len(data)}-{data[:40].hex()}")
def test_a_malformed_request_is_refused_and_nothing_else_happens(data: bytes) -> None:
    with hardrun.Sandbox(policy="agent") as sandbox, open(os.devnull, "r+b") as null:
        fine = null.fileno()
        assert kind(send(sandbox, data, [fine] * 3)) == Told.REFUSED
        assert kind(send(sandbox, TRUE, [fine] * 3)) == Told.ENDED


@pytest.mark.parametrize("number", [1, 2, 4, 20])
def test_another_number_of_descriptors_is_refused(number: int) -> None:
    with hardrun.Sandbox(policy="agent") as sandbox, open(os.devnull, "r+b") as null:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            reply = send(sandbox, TRUE, [null.fileno()] * number)
            assert reply is None or kind(reply) == Told.REFUSED
        socket.send_fds(sandbox._served.at, [TRUE], [])
        assert len(os.listdir("/proc/self/fd")) == before
        assert sandbox.run(["true"]).returncode == 0
