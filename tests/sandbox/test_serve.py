"""The decision service: what it answers, to whom, and that a run goes on without it.

The front-end that is tested has a script beside it instead of the command line: what it starts was
stored, or the service decided it.
"""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hardrun import cache
from hardrun.kernel import peers, procfs
from hardrun.plan.schema import schema_id
from tests.installed import HARDRUN
from tests.sandbox.test_frontend import HANDED_OVER, LIMIT, POLICY, Front

PATIENCE = 30
WAIT = 0.02


def until(what: Callable[[], object]) -> None:
    """Wait for something that has to happen."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(WAIT)


class Served(Front):
    """A user with a service."""

    process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> int:
        """Start the service; its pid, when it listens."""
        self.process = subprocess.Popen([HARDRUN, "serve", *words], cwd="/", env=self.environment,
                                        stdin=subprocess.DEVNULL)
        until(self.socket.exists)
        return self.process.pid

    @property
    def socket(self) -> Path:
        return self.home / ".cache/hardrun/service"

    def decided(self, *words: str | bytes) -> str:
        """What comes of a request that the service decides, within the time that it has here.

        On a busy machine 50 ms may pass: then the front-end goes on without it, which shows.
        """
        for _ in range(50):
            shutil.rmtree(self.plans, ignore_errors=True)
            found = self(*words)
            if not found.startswith(HANDED_OVER):
                return found
        return found

    def connect(self) -> socket.socket:
        """A connection to the service, as a front-end makes one."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(PATIENCE)
        here = os.open(self.socket.parent, os.O_PATH)
        try:
            until(lambda: connection.connect_ex(f"/proc/self/fd/{here}/service") == 0)
        finally:
            os.close(here)
        return connection


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Served]:
    front = Served(tmp_path)
    yield front
    if front.process is not None:
        front.process.kill()
        front.process.wait()


def test_a_request_not_seen_before_starts_without_python(front: Served) -> None:
    assert not front.hits("run", "--", "echo", "a")
    front.start()
    assert front.decided("run", "--", "echo", "b", "c") == "b c\n"


def test_what_it_decides_is_what_the_command_line_decides(front: Served) -> None:
    words = ("run", "--policy", "agent", "--memory", "100M", "--", "sh", "-c", "ulimit -d; env")
    told = front.whole(*words)
    alone = front.plan.read_bytes()
    front.start()
    assert front.decided(*words) == told
    until(lambda: list(front.plans.iterdir()))
    assert front.plan.read_bytes() == alone


def test_what_it_decided_is_stored(front: Served) -> None:
    front.start()
    assert front.decided("run", "--", "echo", "b") == "b\n"
    until(front.plans.exists)
    until(lambda: list(front.plans.iterdir()))
    assert front.process is not None
    front.process.kill()
    front.process.wait()
    assert front("run", "--", "echo", "c") == "c\n"


def test_directory_and_variables_are_those_of_whoever_asks(front: Served) -> None:
    front.start()
    for name in ("one", "two"):
        directory = front.work / name
        directory.mkdir()
        front.environment["LANG"] = name
        front.environment["PATH"] = f"/usr/bin:/{name}"
        words = ("run", "--ro", ".", "--", "sh", "-c", "pwd; echo $LANG; echo $PATH")
        for _ in range(50):
            found = front(*words, cwd=directory)
            if not found.startswith(HANDED_OVER):
                break
        assert found.splitlines()[:2] == [str(directory), name]


def test_a_policy_that_changes_is_decided_anew(front: Served) -> None:
    policy = front.home / ".config/hardrun/policy.d/mine.yaml"
    policy.parent.mkdir(parents=True)
    front.start()
    for limit in (100, 60, 80):
        policy.write_text(POLICY.format(limit))
        assert front.decided(*LIMIT) == f"{limit}\n"
    policy.write_text("no policy")
    assert front.decided(*LIMIT).startswith(HANDED_OVER)


@pytest.mark.parametrize("words", [
    ["run", "--network", "host", "--", "echo"], ["run", "--no-such-option", "--", "echo"],
    ["run", "--", "no-such-command"], ["run", "--report", "fd:1", "--", "echo"],
    ["run", "--verify", "--", "echo"], ["run", "--policy", "agent", "--rw", ".", "--", "echo"],
    ["run", "--env", "TOKEN=secret", "--", "echo"], ["run", "--userns", "auto", "--", "echo"],
    ["run", "--help", "--", "echo"], ["run", "--refresh", "--", "echo"],
    ["run", "--cgroup-parent", "/nowhere", "--", "echo"],
], ids=lambda words: words[1])
def test_what_has_to_be_said_is_left_to_the_command_line(front: Served, words: list[str]) -> None:
    front.start()
    assert front.decided("run", "--", "echo", "b") == "b\n"
    for _ in range(3):
        assert front(*words) == " ".join([HANDED_OVER, *words])


# -- who asks -----------------------------------------------------------------------------------

def test_the_socket_is_the_users_alone(front: Served) -> None:
    front.start()
    for path in (front.socket, front.socket.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert path.stat().st_uid == os.geteuid()


def _surrounded(front: Served, *around: str) -> str:
    """What comes of a request by a process in other surroundings."""
    found = HANDED_OVER
    for _ in range(5):
        shutil.rmtree(front.plans, ignore_errors=True)
        found = front._run(around[0], *around[1:], front.native, "run", "--", "echo", "b").stdout \
            .decode()
    return found


@pytest.mark.parametrize("around", [
    ("unshare", "--user", "--map-current-user"), ("unshare", "--user", "--mount"),
    ("setpriv", "--no-new-privs"), ("prlimit", "--nofile=100:100"),
], ids=" ".join)
def test_other_surroundings_get_no_answer(front: Served, around: tuple[str, ...]) -> None:
    """A sandbox that was granted the directory is among these: it can't have plans stored."""
    front.start()
    assert front.decided("run", "--", "echo", "b") == "b\n"
    assert _surrounded(front, *around).startswith(HANDED_OVER)
    assert not front.plans.exists()


def test_a_front_end_of_another_version_gets_no_answer(front: Served) -> None:
    front.start()
    for message in (b"0.0.9:1", b"", b"\0" * 1000):
        with front.connect() as connection:
            connection.send(message)
            assert connection.recv(100) == b""


def test_words_without_end_get_no_answer(front: Served) -> None:
    front.start()
    word = "x" * 100_000
    assert front("run", "--", "echo", *[word] * 3).startswith(HANDED_OVER)
    assert front.decided("run", "--", "echo", "b") == "b\n"


@pytest.mark.root
def test_another_user_gets_no_answer_and_is_not_listened_to(front: Served) -> None:
    """Both ways: whoever answers has to be the user, too."""
    front.start()
    front.socket.chmod(0o777)
    for path in (front.socket.parent, *front.socket.parents):
        if path.stat().st_uid == 0 and path.stat().st_mode & 0o077 == 0:
            path.chmod(0o755)
    script = ("import os, socket, sys\n"
              "os.setgid(65534); os.setuid(65534)\n"
              "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(30)\n"
              "s.connect(sys.argv[1])\n"
              "try:\n"
              "    s.send(sys.argv[2].encode()); print(s.recv(100))\n"
              "except ConnectionError:\n"
              "    print(b'')\n")
    here = os.open(front.socket.parent, os.O_PATH)
    try:
        done = subprocess.run(["/usr/bin/python3", "-c", script, f"/proc/self/fd/{here}/service",
                               cache.identity(schema_id())], capture_output=True, text=True,
                              pass_fds=(here,), check=False)
    finally:
        os.close(here)
    assert done.stdout == "b''\n", done.stderr


@pytest.mark.root
def test_nobody_but_the_user_is_believed(front: Served) -> None:
    """Root's front-end, and somebody else who listens in the place of root's service."""
    front.home.joinpath(".cache/hardrun").mkdir(mode=0o700, parents=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here = os.open(front.socket.parent, os.O_PATH)
    listener.bind(f"/proc/self/fd/{here}/service")
    os.close(here)
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        listener.listen(1)  # whose credentials the kernel notes
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    try:
        assert front("run", "--", "echo") == f"{HANDED_OVER} run -- echo"
        listener.settimeout(PATIENCE)
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(100) == b""  # hung up before anything was said
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        listener.close()


# -- what it answers ----------------------------------------------------------------------------

@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE])
@pytest.mark.parametrize("content", ["an image", "another program", ""])
def test_what_is_no_sealed_image_of_this_program_is_not_executed(
        front: Served, seals: int, content: str) -> None:
    directory = front.home / ".cache/hardrun"
    directory.mkdir(mode=0o700, parents=True)
    program = {"an image": Path(HARDRUN).read_bytes() + b"x" * 100, "": b"",
               "another program": Path("/usr/bin/true").read_bytes() * 10}[content]
    image = os.memfd_create("image", os.MFD_ALLOW_SEALING)
    os.write(image, program)
    fcntl.fcntl(image, fcntl.F_ADD_SEALS, seals)
    here = os.open(directory, os.O_PATH)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"/proc/self/fd/{here}/service")
        listener.listen(1)
        os.close(here)
        until(lambda: _executes_nothing(front, listener, image))
    os.close(image)


def _executes_nothing(front: Served, listener: socket.socket, image: int) -> bool:
    """Answer with an image; whether that was in time, and was not executed."""
    with subprocess.Popen([front.native, "run", "--", "echo"], env=front.environment,
                          stdout=subprocess.PIPE) as process:
        connection, _ = listener.accept()
        with connection:
            try:
                socket.send_fds(connection, [b"/nowhere"], [image])
            except BrokenPipeError:
                return False
            assert process.communicate()[0].decode() == f"{HANDED_OVER} run -- echo"
    return True


# -- when it is gone, silent or busy --------------------------------------------------------------

def test_a_run_goes_on_without_a_silent_service(front: Served) -> None:
    pid = front.start()
    until(lambda: len(_workers(pid)) == 2)
    processes = [pid, *_workers(pid)]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        assert front("run", "--", "echo", "b") == f"{HANDED_OVER} run -- echo b"
        assert front.whole("run", "--", "echo", "b") == "b\n"
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def test_a_run_goes_on_without_a_service_that_was_killed(front: Served) -> None:
    pid = front.start()
    os.kill(pid, signal.SIGKILL)
    assert front.process is not None
    front.process.wait()
    assert front.socket.exists()
    assert front("run", "--", "echo", "b") == f"{HANDED_OVER} run -- echo b"
    front.socket.unlink()
    front.start()  # what is left of the one before does not keep the next one from it
    assert front.decided("run", "--", "echo", "b") == "b\n"


def test_killed_in_the_middle_of_a_request(front: Served) -> None:
    pid = front.start()
    until(lambda: len(_workers(pid)) == 2)
    workers = _workers(pid)
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    process = subprocess.Popen([front.native, "run", "--", "echo", "b"], cwd=front.work,
                               env=front.environment, stdout=subprocess.PIPE)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    assert process.communicate()[0].decode() in {f"{HANDED_OVER} run -- echo b", "b\n"}
    until(lambda: len(_workers(pid) - workers) == 2)  # the service has others by then
    assert front.decided("run", "--", "echo", "b") == "b\n"


def _workers(pid: int) -> set[int]:
    return set(procfs.descendants(pid, procfs.statuses())) - {pid}


def test_one_worker_that_hangs_does_not_keep_the_other_from_answering(front: Served) -> None:
    pid = front.start()
    until(lambda: len(_workers(pid)) == 2)
    one, _ = _workers(pid)
    os.kill(one, signal.SIGSTOP)
    assert front.decided("run", "--", "echo", "b") == "b\n"
    os.kill(one, signal.SIGKILL)
    until(lambda: len(_workers(pid) - {one}) == 2)


def test_its_workers_do_not_outlive_it(front: Served) -> None:
    pid = front.start()
    until(lambda: len(_workers(pid)) == 2)
    workers = _workers(pid)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not [worker for worker in workers if Path(f"/proc/{worker}").exists()])


def test_who_says_nothing_holds_up_nobody(front: Served) -> None:
    front.start()
    silent = [front.connect() for _ in range(4)]
    assert front.decided("run", "--", "echo", "b") == "b\n"
    for connection in silent:
        assert connection.recv(100) == b""  # after a while the service hangs up
        connection.close()


def test_more_than_it_can_take_go_on_alone(front: Served) -> None:
    front.start()
    silent = [front.connect() for _ in range(30)]
    assert front("run", "--", "echo", "b") in {f"{HANDED_OVER} run -- echo b", "b\n"}
    for connection in silent:
        connection.close()
    until(lambda: front.decided("run", "--", "echo", "b") == "b\n")


def test_many_at_once(front: Served) -> None:
    front.start()
    running = [subprocess.Popen([front.native, "run", "--", "echo", str(n)], cwd=front.work,
                                env=front.environment, stdout=subprocess.PIPE) for n in range(12)]
    for number, process in enumerate(running):
        assert process.communicate()[0].decode() in {
            f"{number}\n", f"{HANDED_OVER} run -- echo {number}"}
    assert front.decided("run", "--", "echo", "b") == "b\n"


# -- its life -----------------------------------------------------------------------------------

def test_it_ends_when_nobody_asks(front: Served) -> None:
    front.start("--idle", "300ms")
    assert front.process is not None
    assert front.process.wait(PATIENCE) == 0
    assert not front.socket.exists()
    assert front("run", "--", "echo", "b") == f"{HANDED_OVER} run -- echo b"


def test_there_is_one_for_a_user(front: Served) -> None:
    front.start()
    done = front._run(HARDRUN, "serve")
    assert done.returncode == 125
    assert done.stderr.startswith(b"hardrun: a decision service of this user is running\n")
    assert front.whole("serve", "--start") == ""
    assert front.decided("run", "--", "echo", "b") == "b\n"


def test_without_a_place_it_says_so(front: Served) -> None:
    directory = front.home / ".cache/hardrun"
    for mode, why in ((0o777, "not the caller's alone"), (0o500, "Permission denied")):
        shutil.rmtree(directory, ignore_errors=True)
        (directory / "plans").mkdir(parents=True)
        directory.chmod(mode)
        done = front._run(HARDRUN, "serve")
        assert (done.returncode, done.stderr.decode()) == (
            125, f"hardrun: there is no place for the service's socket: {why}\n"
            "  hint: set HOME or XDG_CACHE_HOME to a directory of your own\n")
    directory.chmod(0o700)


def test_it_is_started_in_the_background_and_stopped(front: Served) -> None:
    try:
        front.whole("serve", "--start", "--idle", "1m")
        until(front.socket.exists)
        with front.connect() as connection:
            pid, uid = peers.credentials(connection)
        assert uid == os.geteuid()
        assert procfs.status(pid).parent != os.getpid()
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert {os.readlink(f"/proc/{pid}/fd/{n}") for n in range(3)} == {"/dev/null"}
        assert front.decided("run", "--", "echo", "b") == "b\n"
    finally:
        front.whole("serve", "--stop")
    until(lambda: not front.socket.exists())
    done = front._run(HARDRUN, "serve", "--stop")
    assert (done.returncode, done.stderr) == (
        125, b"hardrun: there is no decision service of this user\n  hint: hardrun serve\n")


def test_the_first_run_starts_it_where_the_user_says_so(front: Served) -> None:
    assert front.whole("run", "--", "echo", "a") == "a\n"
    assert not front.socket.exists()
    front.environment["HARDRUN_SERVE"] = "1"
    try:
        assert front.whole("run", "--refresh", "--", "echo", "a") == "a\n"
        until(front.socket.exists)
        assert front.decided("run", "--", "echo", "b") == "b\n"
    finally:
        front.whole("serve", "--stop")
    until(lambda: not front.socket.exists())


def test_what_the_host_can_do_is_tried_anew_when_it_has_changed(front: Served) -> None:
    """Under a lower hard limit it would be another answer; that one does not get any."""
    front.start()
    assert front.decided("run", "--", "echo", "b") == "b\n"

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096))

    shutil.rmtree(front.plans, ignore_errors=True)
    assert front("run", "--", "echo", "b", preexec_fn=lower).startswith(HANDED_OVER)
