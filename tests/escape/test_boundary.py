"""What the executor takes from outside (PL-02, PL-06): one image that nobody can change, and not
its environment, its arguments, a configuration file or the rights of a set-user-ID file."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.escape import own_calls
from tests.escape.conftest import Made
from tests.escape.layers import single_id
from tests.escape.probe import Out, answers_of, call, contents, words_of
from tests.escape.sandbox import Sandbox
from tests.sandbox.raw import Program

pytestmark = pytest.mark.sandbox
ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
STEERING = {"LD_PRELOAD": "/nowhere/evil.so", "LD_LIBRARY_PATH": "/nowhere", "LD_AUDIT": "/nowhere",
            "MALLOC_CHECK_": "3", "GCONV_PATH": "/nowhere", "LOCPATH": "/nowhere", "TZ": "/nowhere",
            "HOSTALIASES": "/nowhere", "HARDRUN_PLAN": "/nowhere", "HARDRUN_PAUSE": "7",
            "XDG_CONFIG_HOME": "/nowhere", "HOME": "/nowhere"}


@contextmanager
def memory_file(content: bytes, seals: int = 0) -> Iterator[int]:
    """A memory file that holds a program."""
    descriptor = os.memfd_create("image", os.MFD_ALLOW_SEALING)
    try:
        os.write(descriptor, content)
        if seals:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        yield descriptor
    finally:
        os.close(descriptor)


def held(descriptor: int, directory: Path) -> tuple[str, int]:
    """What a program from this file runs from in the end: its name, and the seals of that."""
    waiting = directory / "go"
    os.mkfifo(waiting)
    with subprocess.Popen([f"/proc/self/fd/{descriptor}", *words_of([[call("@hold", 60_000)]])],
                          pass_fds=[descriptor], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL) as process:
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            while not children.read_text().strip():  # then it has cloned
                assert process.poll() is None
            own = os.open(f"/proc/{process.pid}/exe", os.O_RDONLY)
            try:
                return os.readlink(f"/proc/{process.pid}/exe"), fcntl.fcntl(own, fcntl.F_GET_SEALS)
            finally:
                os.close(own)
        finally:
            process.kill()


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_WRITE, ALL_SEALS & ~fcntl.F_SEAL_WRITE,
                                   ALL_SEALS & ~fcntl.F_SEAL_SEAL, ALL_SEALS])
def test_pl_02_what_runs_is_sealed_whatever_the_caller_made_of_its_file(
    sandbox: Made, tmp_path: Path, seals: int
) -> None:
    """One seal less, and the file could still be written or the seal be undone: it is copied."""
    with memory_file(sandbox().write().read_bytes(), seals) as descriptor:
        name, found = held(descriptor, tmp_path)
        assert found & ALL_SEALS == ALL_SEALS
        assert name.startswith("/memfd:image" if seals == ALL_SEALS else "/memfd:hardrun")


def test_pl_02_the_plan_is_read_from_the_sealed_copy(sandbox: Made, tmp_path: Path) -> None:
    """Whoever writes to the file meanwhile changes nothing that is read behind the check."""
    path = sandbox(ro=[str(tmp_path)]).removed(single_id).write()
    asked = [a for a in own_calls.trace([path], tmp_path, program=str(path))
             if a.process == "parent"]
    sealed = next(i for i, a in enumerate(asked) if a.name == "execveat")
    assert [a.name for a in asked[:sealed] if a.name == "mmap"]  # to find the image, no more
    assert not [a for a in asked[:sealed] if a.name in ("keyctl", "clone3", "getgroups", "prctl")]
    behind = [a for a in asked[sealed:] if a.name in ("openat", "fcntl")]
    assert '"/proc/self/exe"' in behind[[a.name for a in behind].index("openat")].arguments
    assert [a for a in behind if "F_GET_SEALS" in a.arguments]


def test_pl_02_another_file_is_not_executed_under_its_name(executor: Path, sandbox: Made) -> None:
    """hardrun-exec DESCRIPTOR: with a profile on its path, anything else would run as it."""
    whole = sandbox().write().read_bytes()
    other = shutil.which("true")
    assert other is not None
    for content, seals in ((Path(other).read_bytes(), ALL_SEALS), (whole, 0),
                           (executor.read_bytes(), ALL_SEALS), (b"", ALL_SEALS)):
        with memory_file(content, seals) as descriptor:
            done = subprocess.run(["hardrun-exec", str(descriptor), "hardrun"], check=False,
                                  executable=executor, pass_fds=[descriptor], capture_output=True)
            assert (done.returncode, done.stdout) == (125, b"")
            assert b"not an image of this program" in done.stderr
    with memory_file(whole, ALL_SEALS) as descriptor:  # and the control
        done = subprocess.run(["hardrun-exec", str(descriptor), "hardrun", *words_of(
            [[call("getpid")]])], check=False, executable=executor, pass_fds=[descriptor],
            stdin=subprocess.DEVNULL, capture_output=True)
        assert answers_of(done.stdout)[0].word == "ok", done


# -- PL-06 ----------------------------------------------------------------------------------------


def requests(made: Sandbox, directory: Path, environment: dict[str, str]) -> list[tuple[str, str]]:
    """Which process asks for what, in order, without what differs from start to start."""
    path = made.removed(single_id).write()
    return [(a.process, a.name) for a in own_calls.trace(
        [path], directory, program=str(path), environment={"PATH": os.environ["PATH"],
                                                          **environment})
            if a.process in ("init", "workload") and a.name != "rt_sigtimedwait"]


def test_pl_06_no_variable_changes_what_is_done(sandbox: Made, tmp_path: Path) -> None:
    def each(environment: dict[str, str]) -> dict[str, list[str]]:
        found = requests(sandbox(), tmp_path, environment)
        return {who: [name for process, name in found if process == who]
                for who in ("init", "workload")}

    plain, steered = each({}), each(STEERING)
    assert plain["init"]
    assert steered == plain
    asked = own_calls.trace([sandbox().removed(single_id).write()], tmp_path, environment={
        "PATH": os.environ["PATH"], **STEERING}, program=str(tmp_path / "sandboxed"))
    assert not [a for a in asked if "nowhere" in a.arguments and a.name.startswith("open")]


def test_pl_06_an_empty_environment_is_enough(sandbox: Made) -> None:
    answer = sandbox().one(*contents("/proc/self/environ"), env={})
    names = {word.partition(b"=")[0] for word in answer.out.rstrip(b"\0").split(b"\0")}
    assert names == {b"USER", b"LOGNAME", b"HOME", b"TMPDIR"}  # the plan's own


def test_pl_06_every_argument_is_the_commands(sandbox: Made, executor: Path, tmp_path: Path
                                             ) -> None:
    """There is no flag, and no word of the caller's stands where it can be read inside."""
    path = Program(executor, tmp_path).write(["/usr/bin/printf", "%s|"])
    words = ["--help", "--version", "--", "-c", "--plan=/etc/passwd", ""]
    done = subprocess.run([path, *words], check=False, capture_output=True)
    assert done.stdout == "".join(f"{word}|" for word in words).encode()
    made = sandbox()
    [answer, *_] = made.attack(contents("/proc/self/cmdline"), env={"SECRET": "canary"})
    assert answer.word == "ok"
    done = made.start(words_of([contents("/proc/1/cmdline")]))
    assert answers_of(done.stdout)[0].steps[0].word in ("ENOENT", "EACCES")


def test_pl_06_neither_the_executor_nor_what_is_made_of_it_has_rights_of_its_own(
    sandbox: Made, executor: Path
) -> None:
    for file in (executor, sandbox().write()):
        status = file.stat()
        assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID)
        with pytest.raises(OSError, match="No data available"):
            os.getxattr(file, "security.capability")


def test_pl_06_a_set_group_id_copy_starts_nothing(sandbox: Made) -> None:
    """Of a group that its owner is in, which is all that an ordinary user can make of it."""
    groups = [group for group in os.getgroups() if group != os.getgid()]
    if not groups:
        pytest.skip("this user is in one group")
    path = sandbox().removed(single_id).write()
    words = words_of([[call("getresgid", Out(4), Out(4), Out(4))]])
    assert subprocess.run([path, *words], check=False, stdin=subprocess.DEVNULL,
                          capture_output=True).returncode == 0
    os.chown(path, -1, groups[0])
    path.chmod(0o2755)
    done = subprocess.run([path, *words], check=False, stdin=subprocess.DEVNULL,
                          capture_output=True)
    assert (done.returncode, done.stdout) == (125, b""), done
