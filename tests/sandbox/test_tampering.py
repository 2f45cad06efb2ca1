"""What somebody changes afterwards, or built weaker than decided, is found by verification."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import hardrun
from hardrun.api import Gate
from hardrun.errors import BadInput, ExecutorError
from hardrun.executor import image, start
from hardrun.kernel import procfs
from hardrun.plan.format import Artefact, encode, pack
from hardrun.plan.probe import HEADER, MEMORY, OFFSET
from hardrun.plan.schema import Operation, Unsafe
from hardrun.request import Request, decide
from hardrun.verify import Sandbox, Verified, find_sandbox, verify_sandbox
from hardrun.verify.find import NotBelieved
from hardrun.verify.probe import Inside
from tests.installed import HARDRUN

ROOT = Path(__file__).resolve().parents[2]
WAITS = "echo ready; read line"


@contextmanager
def sandbox_of(*command: str, options: Sequence[str] = ()) -> Iterator[Sandbox]:
    """A sandbox that has said "ready" and reads a line."""
    argv = [HARDRUN, "run", *options, "--", *command]
    process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        launcher = process.pid
        if "--rw" in options:
            launcher = next(p for p, s in procfs.statuses().items() if s.parent == process.pid)
        yield find_sandbox(launcher)
    finally:
        process.terminate()
        process.communicate()


def differing(processes: Sequence[Verified]) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for process in processes:
        wrong = {c.control for c in process.checks if c.result == "differs"}
        if wrong:
            found[process.pid] = wrong
    return found


def command_of(sandbox: Sandbox) -> int:
    statuses = procfs.statuses()
    return next(p for p in sandbox.processes if statuses[p].parent == sandbox.init)


# -- from outside, while it runs -------------------------------------------------------------------


@contextmanager
def joined(sandbox: Sandbox, *flags: str) -> Iterator[int]:
    """A process that its own user brings into namespaces of the sandbox, which nothing refuses."""
    argv = ["nsenter", "--target", str(command_of(sandbox)), "--user", "--preserve-credentials",
            *flags, "sh", "-c", "echo ready; exec sleep 600"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        children = [p for p, s in procfs.statuses().items() if s.parent == process.pid]
        yield children[0] if children else process.pid
        for child in children:
            os.kill(child, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("flags", [("--mount",), ("--mount", "--pid"), ("--net",)])
def test_a_process_that_came_in_from_outside_is_found(flags: tuple[str, ...]) -> None:
    with sandbox_of("sh", "-c", WAITS) as sandbox:
        assert verify_sandbox(sandbox).holds
        with joined(sandbox, *flags) as pid:
            found = verify_sandbox(sandbox)
            wrong = differing(found.processes)
            assert not wrong.keys() & set(sandbox.processes)
            assert {"membership", "seccomp"} <= wrong[pid]
            foreign = next(p for p in found.processes if p.pid == pid)
            assert {c.control: c.result for c in foreign.checks}["landlock"] == "unknown"
        assert verify_sandbox(sandbox).holds


MOUNTS = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
pid, source, target, kind, flags, data = (os.fsencode(word) for word in sys.argv[1:])
namespaces = [open(f"/proc/{pid.decode()}/ns/{name}") for name in ("user", "mnt")]
for namespace in namespaces:
    assert libc.setns(namespace.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
assert libc.mount(source, target, kind, int(flags), data) == 0, os.strerror(ctypes.get_errno())
"""
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096


def mount(pid: int, target: str, flags: int, kind: str = "none", data: str = "") -> None:
    """What whoever started a sandbox can do to it: the namespace's owner has every capability."""
    subprocess.run([sys.executable, "-c", MOUNTS, str(pid), "none", target, kind, str(flags), data],
                   check=True)


def test_a_mount_that_is_made_writable_afterwards_is_found() -> None:
    with sandbox_of("sh", "-c", WAITS) as sandbox:
        pid = command_of(sandbox)
        mount(pid, "/usr", MS_REMOUNT | MS_BIND)
        assert {"filesystem.visible", "filesystem.writable"} <= \
            differing(verify_sandbox(sandbox).processes)[pid]


def test_a_mount_that_is_added_afterwards_is_found() -> None:
    with sandbox_of("sh", "-c", WAITS) as sandbox:
        pid = command_of(sandbox)
        mount(pid, "/run", 0, kind="tmpfs", data="size=1g")
        assert {"limits.tmpfs", "no_new_privs", "devices"} <= \
            differing(verify_sandbox(sandbox).processes)[pid]


RECEIVES = """
import array, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.bind(sys.argv[1])
    server.listen()
    print("ready", flush=True)
    message, control, *_ = (connection := server.accept()[0]).recvmsg(1, 64)
    connection.send(b"x")
    input()
"""


def test_a_descriptor_that_is_passed_in_afterwards_is_found(tmp_path: Path) -> None:
    address = str(tmp_path / "socket")
    with sandbox_of("/usr/bin/python3", "-c", RECEIVES, address,
                    options=["--rw", str(tmp_path)]) as sandbox, \
            socket.socket(socket.AF_UNIX) as client, open("/etc/hostname", "rb") as file:
        client.connect(address)
        rights = array.array("i", [file.fileno()])
        client.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        assert client.recv(1) == b"x"
        assert differing(verify_sandbox(sandbox).processes) == {
            command_of(sandbox): {"descriptors"}}


def test_a_socket_of_the_hosts_network_is_found(tmp_path: Path) -> None:
    address = str(tmp_path / "socket")
    with sandbox_of("/usr/bin/python3", "-c", RECEIVES, address,
                    options=["--rw", str(tmp_path)]) as sandbox, \
            socket.socket(socket.AF_UNIX) as client, socket.socket() as network:
        network.bind(("127.0.0.1", 0))
        network.listen()
        client.connect(address)
        rights = array.array("i", [network.fileno()])
        client.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        assert client.recv(1) == b"x"
        assert differing(verify_sandbox(sandbox).processes) == {
            command_of(sandbox): {"descriptors"}}


# -- several processes and threads -----------------------------------------------------------------

THREADS = """
import ctypes, struct, threading
libc = ctypes.CDLL(None, use_errno=True)
def own_filter():
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000))
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    head = Program(1, ctypes.addressof(program))
    assert libc.prctl(22, 2, ctypes.byref(head), 0, 0) == 0, ctypes.get_errno()
    barrier.wait()
    forever.wait()
barrier, forever = threading.Barrier(2), threading.Event()
threading.Thread(target=own_filter, daemon=True).start()
threading.Thread(target=forever.wait, daemon=True).start()
barrier.wait()
print("ready", flush=True)
input()
"""


def test_every_thread_is_read() -> None:
    """Filters are a thread's own: one that has another number of them has an entry of its own."""
    with sandbox_of("/usr/bin/python3", "-c", THREADS) as sandbox:
        found = verify_sandbox(sandbox)
        assert (found.holds, found.threads) == (True, 2)
        own = [p for p in found.processes if p.thread]
        assert [p.pid for p in own] == [command_of(sandbox)]
        assert {c.control: c.observed for c in own[0].checks}["seccomp"] == "mode 2, filters: 2"


def test_a_process_that_ended_and_was_not_waited_for_is_passed_over() -> None:
    ends = "import os; os.fork() or os._exit(0); os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT);" \
           "print('ready', flush=True); input()"
    with sandbox_of("/usr/bin/python3", "-c", ends) as sandbox:
        assert len(sandbox.processes) == 3
        assert len(verify_sandbox(sandbox).processes) == 2


def test_one_process_can_be_read_alone() -> None:
    with sandbox_of("sh", "-c", f"sleep 600 & {WAITS}") as sandbox:
        pid = sandbox.processes[-1]
        done = subprocess.run(
            [HARDRUN, "verify", str(sandbox.init), "--process", str(pid),
             "--json"], cwd=ROOT, capture_output=True, text=True)
        assert [p["pid"] for p in json.loads(done.stdout)["processes"]] == [pid]
        outside = subprocess.run(
            [HARDRUN, "verify", str(pid), "--process", str(os.getpid())],
            cwd=ROOT, capture_output=True, text=True)
        assert outside.returncode == 125
        assert "is not in the sandbox" in outside.stderr


# -- built weaker than decided ---------------------------------------------------------------------


def request_for(*argv: str, **options: object) -> Request:
    return decide(list(argv), **options)  # type: ignore[arg-type]


def weakened(request: Request, change: Callable[[Operation], Operation | None],
             unsafe: Unsafe = Unsafe(0)) -> start.Program:
    """The program of a request with some operations changed or left out, and its own Decision."""
    program = start.Program.of(request)
    operations = [new for old in program.operations if (new := change(old)) is not None]
    assert operations != list(program.operations)
    return program._replace(operations=operations, unsafe=program.unsafe | unsafe)


def without(name: str, first: object = None) -> Callable[[Operation], Operation | None]:
    return lambda o: None if o.name == name and first in (None, *o.values[:1]) else o


def instead(name: str, place: int, value: int) -> Callable[[Operation], Operation]:
    def change(o: Operation) -> Operation:
        if o.name != name:
            return o
        return o._replace(values=(*o.values[:place], value, *o.values[place + 1:]))
    return change


def reading_alone(o: Operation) -> Operation | None:
    """A domain, but not the one that was decided."""
    if o.name == "landlock_ruleset":
        return o._replace(values=(READ_FILE, 0, 0))
    if o.name == "landlock_path":
        access = int(o.values[1]) & READ_FILE
        return o._replace(values=(o.values[0], access)) if access else None
    return o


READ_ONLY, READ_FILE, NEWIPC = 1, 4, 0x08000000
WEAKER = [
    ("seccomp", without("load_seccomp"), Unsafe.NO_SECCOMP),
    ("landlock", lambda o: None if o.name.startswith("landlock") else o, Unsafe.NO_LANDLOCK),
    ("landlock", reading_alone, Unsafe(0)),
    ("securebits", without("set_securebits"), Unsafe(0)),
    ("capabilities", without("drop_bounding"), Unsafe.NO_BOUNDING_DROP),
    ("keyring", without("join_session_keyring"), Unsafe(0)),
    ("namespaces.shared", lambda o: o._replace(values=(o.values[0] & ~NEWIPC,))
     if o.name == "clone" else o, Unsafe(0)),
    ("filesystem.read_only_root", without("root_attributes"), Unsafe(0)),
    ("filesystem.visible", lambda o: o._replace(values=(*o.values[:2], o.values[2] & ~READ_ONLY,
                                                        *o.values[3:]))
     if o.name == "bind" else o, Unsafe(0)),
    ("filesystem.proc", instead("mount_proc", 1, 0), Unsafe(0)),
    ("session", without("new_session"), Unsafe.NO_SESSION),
    ("umask", instead("set_umask", 0, 0), Unsafe(0)),
    ("limits.memory", without("set_limit", 2), Unsafe(0)),
    ("limits.pids", without("set_limit", 6), Unsafe(0)),
    ("limits.open_files", without("set_limit", 7), Unsafe(0)),
    ("limits.core", without("set_limit", 4), Unsafe(0)),
    ("limits.tmpfs", instead("root_tmpfs", 0, 1 << 30), Unsafe(0)),
    ("limits.timeout", without("timeout"), Unsafe(0)),
    ("limits.output", instead("standard_io", 2, 0), Unsafe(0)),
    ("environment", lambda o: o._replace(values=("HARDRUN_CANARY",))
     if o.name == "environment_of_caller" else o, Unsafe(0)),
]


@pytest.mark.parametrize("control,change,unsafe", WEAKER)
def test_what_was_built_weaker_than_decided_is_not_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control: str,
    change: Callable[[Operation], Operation | None], unsafe: Unsafe
) -> None:
    """Each defence left out in turn: the plan and the Decision that it carries disagree."""
    monkeypatch.setenv("HARDRUN_CANARY", "1")
    request = request_for("touch", str(tmp_path / "ran"), rw=[str(tmp_path)])
    with pytest.raises(ExecutorError, match=rf"not let go: .*\b{control}: "):
        start.run(weakened(request, change, unsafe), request.argv[1:], at_gate=Gate())
    assert not (tmp_path / "ran").exists()


def test_what_was_built_as_decided_is_let_go(tmp_path: Path) -> None:
    request = request_for("touch", str(tmp_path / "ran"), rw=[str(tmp_path)])
    start.run(start.Program.of(request), request.argv[1:], at_gate=Gate())
    assert (tmp_path / "ran").exists()


def silent(_questions: object) -> Inside:
    return Inside({}, "nobody answers")


@contextmanager
def nobody_inside(_launcher: int, _init: int) -> Iterator[Callable[[object], Inside]]:
    yield silent


def test_what_can_not_be_shown_is_told_and_strictly_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a kernel interface is replaced here, but our own way of asking inside."""
    monkeypatch.setattr("hardrun.verify.probe.asking", nobody_inside)
    argv = ["touch", str(tmp_path / "ran")]
    with pytest.raises(ExecutorError, match="can't be shown: .*landlock: nobody answers"):
        hardrun.run(argv, rw=[str(tmp_path)], verify="strict")
    assert not (tmp_path / "ran").exists()
    told = hardrun.run(argv, rw=[str(tmp_path)], verify=True).unverified
    assert "landlock: nobody answers" in told
    assert "securebits: nobody answers" in told


def test_everything_that_is_enforced_can_be_shown_at_the_start() -> None:
    result = hardrun.run(["true"], verify="strict")
    assert (result.outcome, result.unverified) == ("exited", ())
    with pytest.raises(BadInput, match="verify: 'strictly'"):
        hardrun.run(["true"], verify="strictly")  # type: ignore[typeddict-item]


def test_a_sandbox_with_ids_of_its_own_is_shown_whole() -> None:
    """Its descriptors and environment are another user's, and are read in its user namespace."""
    assert hardrun.run(["true"], userns="auto", verify="strict").unverified == ()
    with sandbox_of("/usr/bin/python3", "-c", THREADS, options=["--userns", "auto"]) as sandbox:
        found = verify_sandbox(sandbox, only=command_of(sandbox))
        assert (found.holds, found.threads) == (True, 2)
        assert {c.control: c.result for p in found.processes for c in p.checks
                if c.control == "descriptors"} == {"descriptors": "holds"}


def test_an_executor_of_somebody_elses_is_not_believed(tmp_path: Path) -> None:
    request = request_for("sh", "-c", WAITS)
    program = start.Program.of(request)
    artefact = pack(Artefact(encode(program.operations, program.unsafe), program.decision))
    path = tmp_path / "program"
    for executor, believed in ((image.read_executor(), True),
                               (image.read_executor() + b"\0", False)):
        path.unlink(missing_ok=True)
        path.write_bytes(executor + artefact)
        path.chmod(0o755)
        process = subprocess.Popen([path, *request.argv[1:]], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            if believed:
                assert verify_sandbox(find_sandbox(process.pid)).holds
            else:
                with pytest.raises(NotBelieved, match="not the one that is installed"):
                    find_sandbox(process.pid)
        finally:
            process.terminate()
            process.communicate()


# -- the way to the probe --------------------------------------------------------------------------

STORM = """
import os, signal
for i in range(2000):
    os.kill(1, signal.SIGCHLD)
print("ready", flush=True)
input()
"""


def test_the_command_can_not_make_pid_1_start_probes() -> None:
    with sandbox_of("/usr/bin/python3", "-c", STORM) as sandbox:
        directory = f"/proc/{sandbox.launcher}/fd"
        path = next(f"{directory}/{n}" for n in os.listdir(directory)
                    if MEMORY in os.readlink(f"{directory}/{n}"))
        with open(path, "rb") as memory:
            asked, answered, _ = HEADER.unpack_from(memory.read(), OFFSET)
        assert (asked, answered) == (0, 0)


def test_the_command_has_no_way_to_the_memory() -> None:
    finds = f"! grep -r {MEMORY} /proc/self/maps /proc/1/maps; ! ls /proc/1/fd/; {WAITS}"
    with sandbox_of("sh", "-ec", finds) as sandbox:
        assert verify_sandbox(sandbox).holds


def test_a_command_that_kills_the_probes_is_not_taken_for_confined() -> None:
    """What is killed gave no answer: unknown, and never refused."""
    kills = "import os, signal\nprint('ready', flush=True)\n" \
            "while True:\n try: os.kill(-1, signal.SIGSYS)\n except OSError: pass\n"
    with sandbox_of("/usr/bin/python3", "-c", kills) as sandbox:
        for process in verify_sandbox(sandbox).processes:
            for check in process.checks:
                assert check.result != "differs", check
                if check.control in ("landlock", "namespaces.nested") and check.result == "unknown":
                    assert "no answer" in check.evidence


def test_two_verifiers_at_once_get_the_same_answers() -> None:
    with sandbox_of("sh", "-c", WAITS) as sandbox:
        argv = [HARDRUN, "verify", "--json", str(sandbox.launcher)]
        verifiers = [subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(4)]
        documents = [json.loads(v.communicate()[0]) for v in verifiers]
        assert all(d["holds"] and d == documents[0] for d in documents)
