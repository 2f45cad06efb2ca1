"""Named containers: they outlive who started them, and every kill leaves what is known."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardrun.containers import manage
from hardrun.containers.asked import Asked
from hardrun.errors import BadInput
from hardrun.kernel import procfs
from hardrun.policy.decision import Decision
from hardrun.state import places
from hardrun.state.containers import Store
from tests import first_minute
from tests.sandbox.containers_named import HARDRUN, Containers, containers, make_image, until

pytestmark = pytest.mark.sandbox
ROOT = Path(__file__).resolve().parents[2]
SLEEPS = "echo ready; exec sleep 600"


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Containers]:
    with containers(tmp_path) as found:
        yield found


def fingerprint(tree: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        digest.update(repr((str(path), status.st_mode, status.st_size, status.st_mtime_ns,
                            status.st_ctime_ns)).encode())
    return digest.hexdigest()


def layer_of(made: Containers, short: str) -> Path | None:
    found = made.inspect(short)["layer"]
    return None if found is None else Path(found)


def processes_below(pid: int) -> set[int]:
    return set(procfs.descendants(pid, procfs.statuses()))


# -- what a container keeps ------------------------------------------------------------------------


def test_what_a_container_wrote_is_there_at_its_next_start(made: Containers) -> None:
    before = fingerprint(made.image)
    done = made.run("a", "echo run >> /count; rm -rf /etc; wc -l < /count; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "1\n", "")
    name = made.name("a")
    assert made.call("start", name).stdout == f"{name}\n"
    assert made.call("wait", name).stdout == "3\n"
    layer = layer_of(made, "a")
    assert layer is not None
    assert (layer / "count").read_text() == "run\nrun\n"
    assert fingerprint(made.image) == before


def test_an_ephemeral_container_keeps_nothing(made: Containers) -> None:
    made.run("a", "echo run >> /count", writable="ephemeral", policy="untrusted")
    assert layer_of(made, "a") is None
    done = made.run("b", "cat /count", writable="ephemeral", policy="untrusted")
    assert done.returncode == 1


def test_a_layer_without_changes_is_gone_at_the_end(made: Containers) -> None:
    assert made.run("a", "true").returncode == 0
    assert layer_of(made, "a") is None


def test_a_command_that_lies_in_the_layer_alone_is_found(made: Containers) -> None:
    name = made.name("a")
    made.call("create", "--name", name, *made.options(), "--env", "PATH=/opt:/usr/bin",
              "--workdir", "/opt", "--", "mine", "found")
    done = made.call("start", name)
    assert done.returncode == 125  # there is no /opt
    assert "change to /opt" in done.stderr
    assert made.state("a") == "created"
    upper = Path(Store().layers, f"{Store().look(name)[0].record.number}.upper")
    (upper / "opt").mkdir(parents=True)
    done = made.call("start", name)
    assert (done.returncode, "mine: not found" in done.stderr) == (127, True), done.stderr
    (upper / "opt/mine").write_text("#!/bin/sh\npwd > /out\n")
    (upper / "opt/mine").chmod(0o755)
    assert made.call("start", name).returncode == 0
    assert made.call("wait", name).stdout == "0\n"
    assert (upper / "out").read_text() == "/opt\n"


def test_the_decision_is_that_of_a_run(made: Containers) -> None:
    made.run("a", "true", writable="ephemeral")
    told = made.call("explain", "--json", *made.options("ephemeral"), "--", "sh", "-c", "true")
    decision = Decision.from_json(told.stdout.encode())
    assert decision.digest == made.inspect("a")["decision"]


def test_each_start_is_decided_anew(made: Containers, tmp_path: Path) -> None:
    """A policy that was tightened meanwhile holds: there is no plan that could be stale."""
    policy = tmp_path / "own.yaml"
    text = "apiVersion: hardrun/v1\nkind: Policy\nmetadata: {name: own}\nwithin: [contained]\n"
    policy.write_text(text)
    name = made.name("a")
    options = ["--policy", str(policy), "--rootfs", str(made.image), "--ro", "/usr",
               "--writable", "persistent"]
    done = made.call("create", "--name", name, *options, "--", "true")
    assert (done.returncode, done.stderr) == (0, "")
    assert made.call("start", name).returncode == 0
    made.call("wait", name)
    policy.write_text(text + "bounds: {filesystem: {overlay: ephemeral}}\n")
    done = made.call("start", name)
    assert done.returncode == 125
    assert "filesystem.overlay" in done.stderr
    assert made.state("a") == "exited"


@pytest.mark.parametrize("flags, message", [
    (("--userns", "auto"), "the layer's files would have ids that the next start does not have"),
    (("-d", "-t"), "a terminal belongs to who waits"),
    (("--log", "x"), "--log is for -d"),
    (("--report", "x"), "a container keeps how it ended"),
])
def test_what_can_not_be_is_refused_in_one_line(
    made: Containers, flags: tuple[str, ...], message: str
) -> None:
    made.image.chmod(0o755)
    done = made.run("a", "true", *flags)
    assert done.returncode == 125
    assert message in done.stderr.splitlines()[0], done.stderr
    assert made.call("inspect", made.name("a")).returncode == 125


@pytest.mark.parametrize("flags, status", [
    (("--userns", "auto"), 125), (("--workdir", "/usr/nothing"), 125)])
def test_what_could_not_be_started_is_not_kept(
    made: Containers, flags: tuple[str, ...], status: int
) -> None:
    name = made.name("a")
    made.image.chmod(0o755)
    done = made.call("create", "--name", name, *made.options(), *flags, "--", "true")
    assert (done.returncode, len(done.stderr.splitlines())) == (status, 2), done.stderr
    assert made.call("inspect", name).returncode == 125


def test_a_name_is_taken_until_it_is_removed(made: Containers) -> None:
    assert made.run("a", "true").returncode == 0
    done = made.run("a", "true")
    assert (done.returncode, "already" in done.stderr) == (125, True)
    assert made.call("rm", made.name("a")).returncode == 0
    assert made.run("a", "true").returncode == 0


def test_rm_at_the_end(made: Containers) -> None:
    made.run("a", "true", "--rm")
    done = made.call("rm", made.name("a"), made.name("never"))
    assert (done.returncode, len(done.stderr.splitlines())) == (125, 4)
    made.run("b", "true", "--rm", "-d")
    made.run("c", "nothing-of-that-name; exit 4", "--rm", "-d")
    assert made.call("wait", made.name("c")).stdout == "4\n"
    until(lambda: made.name("b") not in made.call("ps", "-a").stdout)
    for short in "abc":
        assert made.call("inspect", made.name(short)).returncode == 125


def test_the_example_of_readme(made: Containers, tmp_path: Path) -> None:
    """Typed word for word, over a root that has a shell and nothing else."""
    root = make_image(tmp_path / "rootfs")
    for name in ("bin", "lib", "lib64"):
        (root / "usr" / name).mkdir()
    shell = os.path.realpath("/bin/sh")
    linked = subprocess.run(["ldd", shell], capture_output=True, text=True, check=True).stdout
    for path in ("/bin/sh", *(word for word in linked.split() if word.startswith("/"))):
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path[1:])
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Containers")[1]
    shown = [line[4:] for line in section.split("\n## ")[0].splitlines() if line.startswith("    ")]
    programs = first_minute.installed(tmp_path / "bin")
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    told: list[str] = []
    for line in shown:
        if not line.startswith("$ "):
            assert told.pop(0) == line
            continue
        assert not told
        done = subprocess.run(["sh", "-c", line[2:]], cwd=tmp_path, env=environment, text=True,
                              capture_output=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        told = done.stdout.splitlines()
    assert not told
    assert not (root / "note").exists()


# -- a life of its own -----------------------------------------------------------------------------


def test_a_container_outlives_who_started_it(made: Containers, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = made.run("a", f"cat; {SLEEPS}", "-d", "--log", str(log))
    assert (done.returncode, done.stdout) == (0, made.name("a") + "\n")
    found = made.inspect("a")
    assert found["state"] == "running"
    assert procfs.stat(found["pid"]).session == found["pid"]
    assert procfs.stat(found["pid"]).terminal == 0
    until(lambda: log.read_text() == "ready\n")
    assert made.name("a") in made.call("ps").stdout
    listed = json.loads(made.call("ps", "--format", "json").stdout)
    assert found in listed
    assert made.call("verify", str(found["pid"])).returncode == 0
    below = processes_below(found["pid"])
    assert len(below) == 2
    done = made.call("stop", "-t", "5", made.name("a"))
    assert done.returncode == 0, done.stderr
    assert made.inspect("a")["ended"]["exit_status"] == 128 + signal.SIGTERM
    assert not below & procfs.statuses().keys()


def test_an_attached_one_ends_with_who_started_it(made: Containers) -> None:
    options = ["--name", made.name("a"), *made.options()]
    argv = [*HARDRUN, "run", *options, "--", "sh", "-c", SLEEPS]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    pid = made.inspect("a")["pid"]
    process.kill()
    process.communicate()
    until(lambda: made.state("a") == "exited")
    assert made.inspect("a")["ended"]["outcome"] == "cancelled"
    left = procfs.statuses().get(pid)
    assert left is None or left.state == "Z"  # whoever adopted it has not looked yet


def test_stop_takes_no_for_an_answer_once(made: Containers) -> None:
    made.run("a", "trap '' TERM INT; while :; do sleep 0.1; done", "-d")
    assert made.call("stop", "-t", "0.3", made.name("a")).returncode == 0
    assert made.inspect("a")["ended"]["exit_status"] == 128 + signal.SIGKILL
    assert made.call("stop", made.name("a")).returncode == 0


def test_signals_reach_the_command(made: Containers, tmp_path: Path) -> None:
    log = tmp_path / "log"
    made.run("a", "trap 'echo usr1; exit 5' USR1; echo ready; while :; do sleep 0.05; done", "-d",
             "--log", str(log))
    until(lambda: log.read_text() == "ready\n")
    assert "can't be handed on" in made.call("kill", "-s", "STOP", made.name("a")).stderr
    assert made.call("kill", "-s", "sigusr1", made.name("a")).returncode == 0
    assert made.call("wait", made.name("a")).stdout == "5\n"
    assert log.read_text() == "ready\nusr1\n"
    assert "does not run" in made.call("kill", made.name("a")).stderr


def test_kill_ends_everything(made: Containers) -> None:
    made.run("a", "trap '' TERM INT; while :; do sleep 0.1; done", "-d")
    pid = made.inspect("a")["pid"]
    below = processes_below(pid)
    assert made.call("kill", made.name("a")).returncode == 0
    assert made.call("wait", made.name("a")).stdout == "137\n"
    assert not below & procfs.statuses().keys()


def test_a_running_container_is_removed_by_force_alone(made: Containers) -> None:
    made.run("a", f"touch /x; {SLEEPS}", "-d")
    layer = layer_of(made, "a")
    assert layer is not None
    assert made.call("rm", made.name("a")).returncode == 125
    assert made.state("a") == "running"
    assert made.call("rm", "-f", made.name("a")).returncode == 0
    assert not layer.exists()


# -- kills -----------------------------------------------------------------------------------------


def test_kill_9_of_the_executor_leaves_nothing_running(made: Containers) -> None:
    made.run("a", SLEEPS, "-d")
    pid = made.inspect("a")["pid"]
    below = processes_below(pid)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not below & procfs.statuses().keys())
    assert made.inspect("a")["state"] == "exited"
    assert made.inspect("a")["ended"]["outcome"] == "internal"
    assert made.call("wait", made.name("a")).stdout == "125\n"
    assert made.call("start", made.name("a")).returncode == 0
    assert made.state("a") == "running"


# Where whoever starts a container is killed: before or after a function of its.
STEPS = ("Store.begin after", "launch._new_report after", "Asked.decide after",
         "start.Channels before", "launch._spawn before", "launch._spawn after",
         "Store.note_start before", "Store.note_start after", "start.pass_gate after")
KILLED = """
import os, signal, sys
from hardrun.containers import launch
from hardrun.containers.asked import Asked
from hardrun.executor import start
from hardrun.state.containers import Store
place, when = sys.argv[2].split()
owner, name = place.split(".")
target = {"Store": Store, "launch": launch, "Asked": Asked, "start": start}[owner]
whole = getattr(target, name)
def die(*arguments, **options):
    if when == "after":
        whole(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(target, name, die)
launch.start_detached(Store(), sys.argv[1])
"""


@pytest.mark.parametrize("step", STEPS)
def test_kill_9_of_who_starts_leaves_all_or_nothing(made: Containers, step: str) -> None:
    name = made.name("a")
    seconds = str(10**6 + secrets.randbelow(10**6))
    made.call("create", "--name", name, *made.options(), "--", "sleep", seconds)
    done = subprocess.run([sys.executable, "-c", KILLED, name, step], check=False, timeout=60,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL
    until(lambda: made.state("a") != "starting")
    if step == "start.pass_gate after":  # it was let go: it has a life of its own
        assert made.state("a") == "running"
        assert made.call("stop", name).returncode == 0
    until(lambda: made.state("a") in ("created", "exited"))
    until(lambda: not any(seconds.encode() in _command_line(p) for p in procfs.process_ids()))
    assert not list(Path(places.reports()).glob(f"{Store().look(name)[0].record.number}.*"))
    assert made.call("start", name).returncode == 0
    assert made.state("a") == "running"


REMOVER_KILLED = """
import os, signal, sys
from hardrun.containers import manage
from hardrun.state.containers import Store
whole = manage.remove_tree
def die(path):
    if sys.argv[2] == "after":
        whole(path)
    if path.endswith("upper"):
        os.kill(os.getpid(), signal.SIGKILL)
manage.remove_tree = die
manage.remove(Store(), sys.argv[1])
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_kill_9_of_who_removes_leaves_a_container_to_remove(made: Containers, when: str) -> None:
    made.run("a", "touch /x")
    layer = layer_of(made, "a")
    assert layer is not None
    done = subprocess.run([sys.executable, "-c", REMOVER_KILLED, made.name("a"), when], check=False)
    assert done.returncode == -signal.SIGKILL
    assert made.state("a") == "exited"
    assert made.call("rm", made.name("a")).returncode == 0
    assert not layer.exists()


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_number_that_is_anothers_by_now_gets_no_signal(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    store = Store(str(tmp_path / "state"))
    store.add("a", Asked(("true",), "/", (), {}).to_json())
    record, lock = store.begin("a", str(tmp_path / "{}.report"))
    other = subprocess.Popen(["sleep", "60"])
    try:
        store.note_start(record.number, other.pid, procfs.stat(other.pid).start_time - 1, "x")
        with pytest.raises(BadInput, match="does not run"):
            manage.kill(store, "a", "KILL")
        assert other.poll() is None
    finally:
        os.close(lock)
        other.kill()
        other.wait()


def test_of_many_starts_of_one_name_one_wins(made: Containers) -> None:
    name = made.name("a")
    made.call("create", "--name", name, *made.options(), "--", "sleep", "600")
    starts = [subprocess.Popen([*HARDRUN, "start", name], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
              for _ in range(10)]
    ends = [process.communicate() for process in starts]
    assert [process.returncode for process in starts].count(0) == 1, ends
    assert made.state("a") == "running"


def test_fifty_are_started_side_by_side(made: Containers) -> None:
    names = [made.name(str(number)) for number in range(50)]
    store = Store()
    asked = Asked.now(["sleep", "600"], ["contained"], {
        "rootfs": str(made.image), "ro": ["/usr"], "writable": "persistent"})
    for name in names:
        store.add(name, asked.to_json())
    halves = (names[:30], names[20:])
    starts = [subprocess.Popen([*HARDRUN, "start", *half], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
              for half in halves]
    told = [process.communicate() for process in starts]
    running = made.call("ps").stdout
    assert all(name in running for name in names)
    assert sum(len(out.splitlines()) for out, _ in told) == 50
    assert made.call("rm", "-f", *names).returncode == 0
    assert not list(Path(store.layers).glob("*"))


# -- what it costs ---------------------------------------------------------------------------------


def on_disk(directory: Path) -> tuple[int, int]:
    """Bytes in allocated blocks and inodes of all that lies in a directory."""
    found = [path.lstat() for path in (directory, *directory.rglob("*"))]
    return sum(status.st_blocks * 512 for status in found), len(found)


def test_a_container_that_does_not_run_costs_a_row(
    made: Containers, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    store = Store(str(tmp_path / "state"))
    asked = Asked.now(["sh", "-c", "true"], ["contained"], {
        "rootfs": str(made.image), "ro": ["/usr"], "writable": "persistent"})
    manage.create(store, "first", asked)
    before = on_disk(tmp_path / "state")
    for number in range(100):
        store.add(f"container-{number}", asked.to_json())
    size, inodes = (after - first for after, first in
                    zip(on_disk(tmp_path / "state"), before, strict=True))
    assert inodes == 0
    assert size / 100 <= 0.2 * 12288


def test_a_container_that_runs_costs_its_layer_and_no_more(made: Containers) -> None:
    state = Path(Store().path)
    made.run("zero", "true")
    before = on_disk(state)
    made.run("a", SLEEPS, "-d")
    size, _ = (after - first for after, first in zip(on_disk(state), before, strict=True))
    assert size <= 1.1 * 12288
    made.call("stop", "-t", "1", made.name("a"))
    assert on_disk(state)[0] - before[0] <= 0.2 * 12288
    before = on_disk(state)
    made.run("b", SLEEPS, "-d", writable="ephemeral")
    assert on_disk(state)[1] - before[1] == 0


def test_the_state_is_never_granted(made: Containers, tmp_path: Path) -> None:
    """A sandbox that could write it would decide what others run, and in what."""
    state = Store().path
    other = tmp_path / "home"
    other.mkdir()
    for path in (state, f"{state}/layers", os.path.dirname(state)):
        os.makedirs(path, mode=0o700, exist_ok=True)
        done = made.call("run", "--policy", "contained", "--rw", path, "--", "true",
                         env={**os.environ, "HOME": str(other)})
        assert done.returncode == 125
        assert "would be writable" in done.stderr, done.stderr
