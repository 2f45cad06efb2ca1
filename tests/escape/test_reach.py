"""A program that runs from its own file: only where the command can't reach that file (FD-06)."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hardrun.executor.image import is_fixed
from hardrun.plan.schema import Operation
from tests.escape.conftest import Careless, Made
from tests.escape.layers import LAYERS, Planned, Removal, changed, single_id
from tests.escape.probe import AT_FDCWD, Out, call, words_of
from tests.escape.sandbox import Sandbox
from tests.sandbox.hosts import UNSHARE

pytestmark = pytest.mark.sandbox
WAIT = [call("read", 0, Out(1), 1)]
OWN = "/proc/1/exe"
WRITE_FILE, READ_FILE, TRUNCATE = 2, 4, 0x4000


@pytest.fixture
def on_disk(tmp_path: Path) -> None:
    """Where a program may run from its own file at all."""
    kind = subprocess.run(["stat", "--file-system", "--format=%t", tmp_path], check=True,
                          capture_output=True, text=True).stdout.strip()
    if kind not in ("ef53", "58465342", "9123683e", "1021994"):
        pytest.skip(f"temporary files lie on file system {kind}, not on ext4, XFS, btrfs or tmpfs")


@contextmanager
def running(program: str | Path, *around: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program whose command waits."""
    words = words_of([[call("getpid")], WAIT])
    with subprocess.Popen([*around, program, *words], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def runs_from(program: Path) -> str:
    """What the kernel shows as the file that is executed."""
    with running(program) as process:
        assert is_fixed(f"/proc/{process.pid}/exe")
        return os.readlink(f"/proc/{process.pid}/exe")


def is_copied(made: Sandbox) -> bool:
    """Whether it runs from a memory file, not from its own."""
    program = made.write()
    name = runs_from(program)
    assert name == str(program) or name.startswith("/memfd:hardrun")
    return name != str(program)


@pytest.mark.usefixtures("on_disk")
def test_fd_06_out_of_reach_a_program_runs_from_its_own_file(sandbox: Made) -> None:
    """Nobody writes it as long as it runs, and what it was called does not tell where it lies."""
    made = sandbox()
    assert not is_copied(made)
    with running(made.write()) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 1
        for pid in (process.pid, *children):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert line.startswith(b"hardrun\0")
            assert os.fsencode(made.directory) not in line


def rule(access: int) -> Removal:
    """One more rule of Landlock."""
    def removal(planned: Planned) -> Planned:
        return planned.insert(Operation("landlock_path", ("/tmp", access), "for a test"),
                              after="landlock_path")
    return removal


def handled(without: int) -> Removal:
    """A ruleset that leaves a right alone, and rules that do not name it."""
    def less(place: int) -> Callable[[Operation], Operation]:
        return lambda o: o._replace(values=(
            *o.values[:place], int(str(o.values[place])) & ~without, *o.values[place + 1:]))
    return lambda planned: planned.change("landlock_ruleset", less(0)).change(
        "landlock_path", less(1))


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize("removal", [
    LAYERS["Landlock"], LAYERS["not dumpable"], handled(TRUNCATE), handled(WRITE_FILE),
    handled(READ_FILE), rule(WRITE_FILE), lambda p: p.drop("mount_proc")])
def test_fd_06_it_is_copied_where_a_part_of_that_is_missing(
    sandbox: Made, removal: Removal
) -> None:
    made = sandbox()
    assert not is_copied(made)
    assert is_copied(made.removed(removal))


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize("how", ["ro", "rw"])
def test_fd_06_it_is_copied_where_the_sandbox_is_given_its_directory(
    sandbox: Made, tmp_path: Path, how: str
) -> None:
    assert is_copied(sandbox(**{how: [str(tmp_path)]}))
    (tmp_path / "other").mkdir()
    assert not is_copied(sandbox(**{how: [str(tmp_path / "other")]}))


def test_fd_06_it_is_copied_where_it_has_no_name(sandbox: Made, tmp_path: Path) -> None:
    """Landlock lets everybody open what lies in no mount."""
    program = sandbox().write()
    descriptor = os.open(program, os.O_RDONLY)
    program.unlink()
    words = words_of([[call("getpid")], WAIT])
    with subprocess.Popen([f"/proc/self/fd/{descriptor}", *words], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, pass_fds=[descriptor]) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        assert os.readlink(f"/proc/{process.pid}/exe").startswith("/memfd:hardrun")
        process.kill()
    os.close(descriptor)


@pytest.mark.usefixtures("on_disk")
def test_fd_06_it_is_copied_where_it_has_another_name(sandbox: Made, tmp_path: Path) -> None:
    """Landlock goes by directories, and knows but one that a file lies in."""
    program = sandbox().write()
    assert runs_from(program) == str(program)
    os.link(program, tmp_path / "other")
    assert runs_from(program).startswith("/memfd:hardrun")


def test_fd_06_it_is_copied_where_its_mode_and_not_the_kernel_keeps_it(sandbox: Made) -> None:
    """The owner changes the mode; and a verifier asks for ETXTBSY."""
    program = sandbox().write()
    program.chmod(0o555)
    assert runs_from(program).startswith("/memfd:hardrun")


def test_fd_06_over_other_files_it_is_copied(sandbox: Made, tmp_path: Path) -> None:
    """Whoever is given what lies below an overlay writes the file there while it runs above."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    made = sandbox(rw=[str(tmp_path / "upper")]).removed(single_id, changed("bind", 3, 2))
    program, words = made.write("program"), words_of([[call("getpid")], WAIT])
    overlay = shlex.join(["mount", "-t", "overlay", "-o", "userxattr," + ",".join(
        f"{kind}dir={tmp_path}/{kind}" for kind in ("lower", "upper", "work")),
        "none", str(tmp_path / "merged")])
    script = (f"{overlay} || exit 77; cp {shlex.quote(str(program))} {tmp_path}/merged/program; "
              f"exec {shlex.join([f'{tmp_path}/merged/program', *words])}")
    with subprocess.Popen([*UNSHARE, "sh", "-c", script], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        started = process.stdout.readline()
        if not started and process.wait() == 77:
            pytest.skip("needs an overlay of an ordinary user's")
        assert os.readlink(f"/proc/{process.pid}/exe").startswith("/memfd:hardrun")


@pytest.mark.usefixtures("on_disk")
def test_fd_06_by_a_second_name_of_its_directory_nothing_starts(
    sandbox: Made, tmp_path: Path
) -> None:
    """Names do not show it, Landlock does: a rule holds for a directory, whatever it is called."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    made = sandbox(ro=[f"{tmp_path}/other:/data"]).removed(single_id, changed("bind", 3, 2))
    program = made.write("one/sandboxed")
    alias = shlex.join(["mount", "--bind", str(tmp_path / "one"), str(tmp_path / "other")])
    words = shlex.join([str(program), *words_of([[call("getpid")]])])
    unaliased, aliased = (subprocess.run([*UNSHARE, "sh", "-c", f"{first} && {words}"], check=False,
                                         capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
                          for first in ("true", alias))
    assert unaliased.returncode == 0, unaliased
    assert (aliased.returncode, aliased.stdout) == (125, b"")
    assert b"this program lies in what the sandbox is given: move it elsewhere" in aliased.stderr


def test_cve_2019_5736_fd_06_either_layer_alone_keeps_the_command_from_it(
    sandbox: Made, careless: Careless
) -> None:
    """An executor that trusts its file blindly, so that each can be taken away. A file that runs
    can't be written in any case (ETXTBSY): that it can be opened at all is what is looked at."""
    made = sandbox().by(careless("runs from any file"))
    attempts = [[call("openat", AT_FDCWD, OWN, flags, 0)]
                for flags in (os.O_RDONLY, os.O_RDONLY | os.O_TRUNC)]
    for removed in ((), ("not dumpable",), ("Landlock",)):
        answers = made.removed(*(LAYERS[name] for name in removed)).attack(*attempts)
        assert {answer.word for answer in answers} <= {"EACCES", "ENOENT"}, removed
    answers = made.removed(LAYERS["Landlock"], LAYERS["not dumpable"]).attack(*attempts)
    assert [answer.word for answer in answers] == ["ok", "ETXTBSY"]


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize("given", [False, True])
def test_cve_2019_5736_fd_06_an_entry_point_enters_no_file_that_could_be_written(
    sandbox: Made, tmp_path: Path, given: bool
) -> None:
    """#!/proc/self/exe: refused by Landlock, or by the sealed copy, as any command of its own."""
    entry = tmp_path / "data" / "entry"
    entry.parent.mkdir()
    entry.write_text("#!/proc/self/exe\n")
    entry.chmod(0o755)
    trees = [f"{entry.parent}:/data", *([str(tmp_path)] if given else [])]
    program = sandbox(ro=trees).removed(changed("execute", 0, "/data/entry")).write()
    before = program.read_bytes()
    done = subprocess.run([program], stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
                          check=False)
    assert done.returncode == (125 if given else 126)
    assert (b"EACCES" in done.stderr) is not given
    assert program.read_bytes() == before
