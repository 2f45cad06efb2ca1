"""The native front-end: what it starts from the cache with no interpreter, and what it does not.

Beside the copy that is tested there is no command line but a script that tells its words, so that
whatever does not come from a stored plan shows.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import re
import resource
import shutil
import stat
import subprocess
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hardrun import cache
from hardrun.executor import image
from hardrun.plan.format import decode, unpack
from hardrun.plan.schema import schema_id
from tests.installed import HARDRUN, without_python

HANDED_OVER = "handed over:"
POLICY = """\
apiVersion: hardrun/v1
kind: Policy
metadata: {{name: mine, description: test}}
match: {{command: sh}}
bounds: {{limits: {{open_files: {}}}}}
"""
LIMIT = ("run", "--", "sh", "-c", "ulimit -n")


class Front:
    """A user's home, the front-end without Python, and the one that is installed."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.work = self.home / "work"
        self.work.mkdir(parents=True)
        self.native = without_python(directory / "bin",
                                     f'printf "{HANDED_OVER}"; printf " %s" "$@"')
        self.environment = {"HOME": str(self.home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}

    def whole(self, *words: str | bytes, **options: Any) -> str:
        """What the installed program prints; it succeeds."""
        done = self._run(HARDRUN, *words, **options)
        assert done.returncode == 0, done.stderr
        return os.fsdecode(done.stdout)

    def __call__(self, *words: str | bytes, **options: Any) -> str:
        """What comes of the words without Python."""
        done = self._run(self.native, *words, **options)
        assert not done.stderr, done.stderr
        return os.fsdecode(done.stdout)

    def _run(self, program: str, *words: str | bytes,
             **options: Any) -> subprocess.CompletedProcess[bytes]:
        given = {"cwd": self.work, "env": self.environment, "stdin": subprocess.DEVNULL, **options}
        return subprocess.run([program, *words], capture_output=True, check=False, timeout=60,
                              **given)

    def hits(self, *words: str | bytes, **options: Any) -> bool:
        """Whether the request starts from its stored plan."""
        return not self(*words, **options).startswith(HANDED_OVER)

    @property
    def plans(self) -> Path:
        return self.home / ".cache/hardrun/plans"

    @property
    def plan(self) -> Path:
        """The only one."""
        [path] = self.plans.iterdir()
        return path


@pytest.fixture
def front(tmp_path: Path) -> Front:
    return Front(tmp_path)


@pytest.fixture
def stored(front: Front) -> Front:
    """One with a plan for ``run -- echo``."""
    assert front.whole("run", "--", "echo", "a") == "a\n"
    assert front("run", "--", "echo", "b", "c") == "b c\n"
    return front


def test_what_was_not_run_before_is_handed_over(front: Front) -> None:
    assert front("run", "--", "echo", "a") == f"{HANDED_OVER} run -- echo a"
    assert not front.home.joinpath(".cache").exists()


@pytest.mark.parametrize("words", [
    [], ["--version"], ["run"], ["run", "--"], ["run", "echo"], ["run", "--refresh", "--", "echo"],
    ["run", "--policy", "untrusted", "--", "echo"], ["run", "--", "echo\n"],
    ["explain", "--", "echo"], ["RUN", "--", "echo"], ["run", "", "--", "echo"],
], ids=" ".join)
def test_every_other_request_is_handed_over_as_it_is(stored: Front, words: list[str]) -> None:
    assert stored(*words) == (" ".join([HANDED_OVER, *words]) if words else f"{HANDED_OVER} ")


def test_the_workload_starts_with_no_other_program_on_the_way(stored: Front) -> None:
    done = stored._run("/usr/bin/strace", "-qq", "-e", "trace=execve,execveat", "-e", "signal=none",
                       stored.native, "run", "--", "echo", "b")
    calls = [line for line in done.stderr.decode().splitlines() if line.startswith("exec")]
    assert [line.split("(")[0] for line in calls] == ["execve", "execveat"], done.stderr


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")
def test_where_a_profile_is_attached_to_it_the_executor_starts_by_its_path(stored: Front) -> None:
    """As Ubuntu restricts user namespaces: a memory file that it executes keeps the label."""
    scene = ("set -e; mkdir sys; echo 1 >sys/apparmor_restrict_unprivileged_userns; "
             'mount --bind sys /proc/sys/kernel; exec "$@"')
    done = stored._run("/usr/bin/unshare", "--user", "--map-current-user", "--mount", "--keep-caps",
                       "sh", "-c", scene, "sh", "strace", "-qq", "-s", "999", "-e",
                       "trace=execve,execveat", stored.native, "run", "--", "echo", "b")
    _, by_path, sealed, *_ = done.stderr.decode().splitlines()
    words = r'\["hardrun-exec", "\d+", "hardrun", "b"\]'
    assert re.match(rf'execve\("{image.executor_path()}", {words}', by_path), done.stderr
    assert re.match(r'execveat\(\d+, "", \["hardrun", "b"\].*AT_EMPTY_PATH\) = 0', sealed)


def test_what_runs_is_a_sealed_image_with_the_decision_in_it(front: Front) -> None:
    words = ("run", "--", "sh", "-c", "echo ready; read line")
    front.whole(*words, input=b"\n", stdin=None)
    with subprocess.Popen([front.native, *words], cwd=front.work, env=front.environment,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        path = f"/proc/{process.pid}/exe"
        assert image.is_fixed(path)
        assert os.readlink(path).startswith("/memfd:")
        assert json.loads(unpack(Path(path).read_bytes()).decision)["controls"]
        assert front.whole("verify", str(process.pid))
        process.communicate(b"\n")


def test_the_callers_process_stays_the_parent(front: Front) -> None:
    """Limits, umask, descriptors and environment are its own, as by the long way."""
    script = "umask; ulimit -c; ulimit -n; echo $LANG; cat; pwd"
    front.environment["LANG"] = "C"
    words = ("run", "--policy", "agent", "--", "sh", "-c", script)

    def lower() -> None:
        os.umask(0o77)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))

    options: dict[str, Any] = {"stdin": None, "input": b"given\n", "preexec_fn": lower}
    decided = front.whole(*words, **options)
    assert "given" in decided
    assert front(*words, **options) == decided


# -- what makes a plan stale ---------------------------------------------------------------------

def test_a_changed_policy_is_decided_anew(front: Front) -> None:
    policy = front.home / ".config/hardrun/policy.d/mine.yaml"
    policy.parent.mkdir(parents=True)
    for limit in (100, 60, 80):
        policy.write_text(POLICY.format(limit))
        # The plan of the one before has itself made anew, whoever started it.
        assert [front(*LIMIT), front(*LIMIT)] == ([f"{limit}\n"] * 2 if limit != 100 else
                                                  [f"{HANDED_OVER} {' '.join(LIMIT)}"] * 2)
        assert front.whole(*LIMIT) == f"{limit}\n"
    (policy.parent / "another.yaml").write_text(POLICY.format(50).replace("mine", "another"))
    assert front(*LIMIT) == "50\n"
    shutil.rmtree(policy.parent)
    assert int(front(*LIMIT)) > 100


def _lower(which: int, hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(which, (hard, hard))


def test_a_lower_hard_limit_is_decided_anew(stored: Front) -> None:
    before = stored.plan.stat().st_ino
    assert stored("run", "--", "echo", "b") == "b\n"
    assert stored.plan.stat().st_ino == before
    assert stored("run", "--", "echo", "b",
                  preexec_fn=_lower(resource.RLIMIT_NOFILE, 64)) == "b\n"
    assert stored.plan.stat().st_ino != before


def test_another_executor_makes_every_plan_stale(stored: Front) -> None:
    needed = [o.values for o in decode(unpack(stored.plan.read_bytes()).plan).operations
              if o.name == "require_path"]
    status = os.lstat(image.executor_path())
    assert (image.executor_path(), status.st_dev, status.st_ino, status.st_mtime_ns,
            status.st_ctime_ns) in needed


@pytest.mark.parametrize("name", ["HOME", "PATH", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"])
@pytest.mark.parametrize("value", ["", "/usr/bin", None])
def test_a_variable_that_decides_is_part_of_the_request(stored: Front, name: str,
                                                        value: str | None) -> None:
    changed = dict(stored.environment)
    changed.pop(name, None)
    if value is not None:
        changed[name] = value
    unset = name.startswith("XDG") and not value and name not in changed
    assert stored.hits("run", "--", "echo", "b", env=changed) is unset


def test_another_directory_is_another_request(stored: Front) -> None:
    assert not stored.hits("run", "--", "echo", "b", cwd=stored.home)
    gone = stored.work / "gone"
    gone.mkdir()
    script = f'rmdir "$PWD"; exec {stored.native} run -- echo b'
    assert stored._run("/bin/sh", "-c", script, cwd=gone).stdout.startswith(HANDED_OVER.encode())


def test_any_bytes_may_be_in_a_request(front: Front) -> None:
    directory = os.fsencode(front.work) + b"/\xff\xe9 \n"
    os.mkdir(directory)
    words = ("run", "--ro", directory, "--", "echo", b"\xfe")
    assert front.whole(*words, cwd=directory) == "\udcfe\n"
    assert front(*words, cwd=directory) == "\udcfe\n"


def test_python_and_c_make_the_same_key(stored: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cache.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in stored.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(stored.work)
    key = cache.make_key(["run", "--", "echo"], schema_id())
    assert key is not None
    content = cache.load(key)
    assert content is not None
    assert content.startswith(os.fsencode(image.executor_path()) + b"\0")


# -- whom it trusts --------------------------------------------------------------------------------

@pytest.mark.parametrize("damage", [
    lambda data: data[:10],
    lambda data: data[:-1],
    lambda data: data + b"x",
    lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
    lambda data: b"XX" + data[2:],
    lambda data: data[:8] + b"\xff" * 4 + data[12:],
    lambda data: data[:12] + b"\xff" * 4 + data[16:],
    lambda data: b"",
], ids=["header cut", "cut", "longer", "bit flipped", "magic", "key size", "size", "empty"])
def test_a_damaged_file_is_a_miss(stored: Front, damage: Callable[[bytes], bytes]) -> None:
    stored.plan.write_bytes(damage(stored.plan.read_bytes()))
    assert not stored.hits("run", "--", "echo", "b")
    assert stored.whole("run", "--", "echo", "b") == "b\n"
    assert stored.hits("run", "--", "echo", "b")


def test_damage_that_the_checksum_does_not_show_breaks_nothing(stored: Front) -> None:
    """Sizes and content of any kind behind a right checksum: a miss, a run or one line."""
    path, chance = stored.plan, random.Random(1)
    data = path.read_bytes()
    key = int.from_bytes(data[8:12], "little")
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            at = chance.choice((chance.randrange(8, 24), chance.randrange(24 + key, len(data))))
            damaged[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        cut = damaged[:chance.choice((len(data), chance.randrange(20, len(data))))]
        cut[16:20] = zlib.crc32(cut[24:]).to_bytes(4, "little")
        path.write_bytes(cut)
        done = stored._run(stored.native, "run", "--", "echo", "b")
        assert done.returncode in {0, 125}, (done, cut)
        assert done.stderr.startswith(b"hardrun: ") or not done.stderr, done


def test_a_plan_of_another_request_is_a_miss(stored: Front) -> None:
    """Also under the right name: names are checksums, and those can be met."""
    target = stored.plan
    stored.whole("run", "--", "true")
    [other] = set(stored.plans.iterdir()) - {target}
    other.rename(target)
    assert not stored.hits("run", "--", "echo", "b")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_does_not_count(stored: Front, mode: int) -> None:
    stored.plan.chmod(mode)
    assert not stored.hits("run", "--", "echo", "b")


@pytest.mark.parametrize("above", [0, 1])
@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_directory_that_others_may_write_does_not_count(stored: Front, above: int,
                                                          mode: int) -> None:
    directory = (stored.plans, stored.plans.parent)[above]
    directory.chmod(mode)
    assert not stored.hits("run", "--", "echo", "b")
    directory.chmod(0o700)
    assert stored.hits("run", "--", "echo", "b")


@pytest.mark.parametrize("which", [0, 1, 2])
def test_no_symlink_is_followed_to_a_plan(stored: Front, which: int) -> None:
    path = (stored.plan, stored.plans, stored.plans.parent)[which]
    moved = path.rename(stored.home / "moved")
    path.symlink_to(moved)
    assert not stored.hits("run", "--", "echo", "b")


def test_a_cache_home_behind_a_symlink_counts(stored: Front) -> None:
    (stored.home / ".cache").rename(stored.home / "elsewhere")
    (stored.home / ".cache").symlink_to("elsewhere")
    assert stored.hits("run", "--", "echo", "b")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["fifo", "directory"])
def test_what_is_no_file_is_a_miss(stored: Front, make: Callable[[Path], None]) -> None:
    path = stored.plan
    path.unlink()
    make(path)
    assert not stored.hits("run", "--", "echo", "b")


@pytest.mark.root
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_belongs_to_somebody_else_does_not_count(front: Front, which: int,
                                                      tmp_path: Path) -> None:
    """A plan for root, which root would have made, in files of an ordinary user and the reverse."""
    policy = ("--policy", "agent")
    done = front._run(HARDRUN, "run", *policy, "--", "echo", "a")
    if not front.plans.exists():
        pytest.skip(f"root has no sandbox here: {done.stderr.decode()}")
    assert front.hits("run", *policy, "--", "echo", "b")
    path = (front.plan, front.plans, front.plans.parent)[which]
    os.chown(path, 65534, -1)
    assert not front.hits("run", *policy, "--", "echo", "b")


# -- writers -------------------------------------------------------------------------------------

def test_many_writers_never_give_a_torn_plan(front: Front) -> None:
    """Each of them stores whole plans; whoever reads meanwhile gets one of them or none."""
    ended = threading.Event()
    failed: list[str] = []

    def write() -> None:
        for _ in range(5):
            front.whole("run", "--refresh", "--", "echo", "w")

    def read() -> None:
        while not ended.is_set():
            found = front("run", "--", "echo", "b")
            if found not in {"b\n", f"{HANDED_OVER} run -- echo b"}:
                failed.append(found)

    writers = [threading.Thread(target=write) for _ in range(3)]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    reader.join()
    assert not failed
    assert front.hits("run", "--", "echo", "b")
    assert [path.name for path in front.plans.iterdir()] == [front.plan.name]


# -- how it is called ------------------------------------------------------------------------------

def test_its_other_half_is_found_by_the_file_that_runs(stored: Front, tmp_path: Path) -> None:
    """Not by argv, PATH or the name of a link."""
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "hardrun-cli").write_text("#!/bin/sh\necho trapped\n")
    (trap / "hardrun-cli").chmod(0o755)
    (trap / "hardrun").symlink_to(stored.native)
    (trap / "hr").symlink_to(stored.native)
    environment = {**stored.environment, "PATH": f"{trap}:/usr/bin"}
    for program in ("./hardrun", "./hr", "hardrun", str(trap / "hardrun")):
        done = subprocess.run([program, "--version"], cwd=trap, env=environment, check=True,
                              capture_output=True, text=True)
        assert done.stdout == f"{HANDED_OVER} --version"
    done = subprocess.run(["/elsewhere/hardrun", "--version"], executable=stored.native, cwd=trap,
                          env=environment, check=True, capture_output=True, text=True)
    assert done.stdout == f"{HANDED_OVER} --version"


def test_by_a_relative_path(stored: Front) -> None:
    relative = os.path.relpath(stored.native, stored.work)
    assert stored._run(relative, "run", "--", "echo", "b").stdout == b"b\n"


def test_under_another_name_it_is_an_executor_without_a_plan(stored: Front, tmp_path: Path) -> None:
    other = shutil.copy(stored.native, tmp_path / "other")
    done = stored._run(str(other), "run", "--", "echo", "b")
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"hardrun: there is no plan in this program")


def test_without_its_other_half_it_says_so(stored: Front) -> None:
    Path(stored.native).with_name("hardrun-cli").unlink()
    done = stored._run(stored.native, "--version")
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr == b"hardrun: can't execute hardrun-cli, which belongs beside hardrun: " \
                          b"ENOENT\n"
    assert stored._run(stored.native, "run", "--", "echo", "b").stdout == b"b\n"


def _spawn(path: str, argv: list[bytes]) -> int:
    """The exit status of a program with this argv; the C library hands it over as it is."""
    libc = ctypes.CDLL(None)
    words = (ctypes.c_char_p * (len(argv) + 1))(*argv, None)
    pid = os.fork()
    if pid == 0:
        libc.execve(os.fsencode(path), words, (ctypes.c_char_p * 1)(None))
        os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("argv", [[], [b""], [b"hardrun"], [b"", b"run"], [b"x", b"run", b"--"]],
                         ids=str)
def test_an_argv_that_no_shell_makes(front: Front, argv: list[bytes],
                                     capfd: pytest.CaptureFixture[str]) -> None:
    assert _spawn(front.native, argv) == 0
    assert capfd.readouterr().out.startswith(HANDED_OVER)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)], ids=str)
def test_closed_standard_descriptors_are_filled(front: Front, closed: tuple[int, ...]) -> None:
    """What is opened next must not be taken for standard output."""
    words = ("run", "--", "sh", "-c", "ls -l /proc/self/fd >&2; true")
    front.whole(*words)
    script = " ".join(f"{n}>&-" for n in closed)
    tell = front.home / "out"
    done = front._run("/bin/sh", "-c", f'"$@" {script}; echo $? >{tell}', "sh", front.native,
                      *words)
    assert tell.read_text() == "0\n", done.stderr
    assert b"plan" not in done.stderr
    done = front._run("/bin/sh", "-c", f'exec "$@" {script}', "sh", front.native, "--version")
    assert done.stdout == (b"" if 1 in closed else f"{HANDED_OVER} --version".encode())


@pytest.mark.parametrize("words", [LIMIT, ("doctor",), ("exec", "--", "true")])
def test_a_directory_is_no_standard_input(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Python itself ends at one, with status 1 and a dump of its configuration."""
    directory = os.open(tmp_path, os.O_RDONLY)
    done = subprocess.run([HARDRUN, *words], stdin=directory, capture_output=True, check=False)
    os.close(directory)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr == b"hardrun: standard input can't be a directory: EISDIR\n"


def test_a_huge_argv(stored: Front) -> None:
    word = "x" * 100_000
    assert stored("run", "--", "echo", *[word] * 10) == " ".join([word] * 10) + "\n"
    words = ("run", *["--env=LANG"] * 10_000, "--", "echo")
    assert stored(*words) == " ".join([HANDED_OVER, *words])
    words = ("run", "--label", word, "--", "echo")
    assert stored(*words) == " ".join([HANDED_OVER, *words])


def test_what_is_installed_is_the_executor_itself() -> None:
    assert Path(HARDRUN).read_bytes() == Path(image.executor_path()).read_bytes()
    assert stat.S_IMODE(Path(HARDRUN).stat().st_mode) & 0o111 == 0o111


def test_the_whole_program_answers_as_ever(front: Front) -> None:
    assert front.whole("--version").startswith("hardrun, version ")
    assert "Usage: hardrun [OPTIONS] COMMAND" in front.whole()
    assert front.whole("--help") == front.whole()
    assert "Usage: hardrun run" in front.whole("run", "--help")
