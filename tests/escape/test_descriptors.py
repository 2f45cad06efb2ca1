"""Descriptors, working directories, the executor's own file: nothing of the host is left open."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.escape.canary import SECRET, Canary
from tests.escape.conftest import Careless, Made
from tests.escape.layers import LAYERS, Planned, changed
from tests.escape.probe import AT_FDCWD, Out, Result, answers_of, call, words_of
from tests.escape.sandbox import POLICIES, Sandbox
from tests.escape.test_proc_and_devices import kind_of, listing, names_of

pytestmark = pytest.mark.sandbox
AT_EMPTY_PATH = 0x1000
F_GET_SEALS = 1034
LEAKED = 77
NULL = os.makedev(1, 3)
WAIT = [call("read", 0, Out(1), 1)]


@pytest.fixture
def leaked(canary: Canary) -> Iterator[list[int]]:
    """What a careless caller has open: directories of the host, a secret, and at 77 the canary."""
    opened = [os.open("/", os.O_RDONLY) for _ in range(38)]
    opened.append(os.open(canary.path / "secret", os.O_RDWR))
    directory = os.open(canary.path, os.O_RDONLY)
    os.dup2(directory, LEAKED)
    os.close(directory)
    opened.append(LEAKED)
    yield opened
    for descriptor in opened:
        os.close(descriptor)


def without_own_dev(planned: Planned) -> Planned:
    """The image's /dev as it is."""
    kept = [o for o in planned.drop("bind_device").operations
            if o.name not in ("mount_tmpfs", "make_file", "make_symlink")
            or str(o.values[0]) == "/dev/shm" or not str(o.values[0]).startswith("/dev")]
    return planned._replace(operations=tuple(kept))


def open_inside(made: Sandbox, leaked: list[int]) -> set[int]:
    """Descriptors of the command; the one that it reads the list from is 3 or above them all."""
    done = made.start(words_of([listing("/proc/self/fd")]), pass_fds=leaked)
    answer = answers_of(done.stdout)[0]
    return {int(name) for name in names_of(answer)} - {answer.steps[0].value}


# -- what is inherited -----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_cve_2024_21626_fd_01_forty_leaked_descriptors_do_not_arrive(
    sandbox: Made, leaked: list[int], policy: str
) -> None:
    assert open_inside(sandbox(policy), leaked) == {0, 1, 2}


def test_fd_01_pid_1_and_the_last_step_each_close_them_all(
    sandbox: Made, leaked: list[int], careless: Careless
) -> None:
    leaking = careless("leaks descriptors")
    assert open_inside(sandbox().removed(LAYERS["close_range"]), leaked) == {0, 1, 2}
    assert open_inside(sandbox().by(leaking), leaked) == {0, 1, 2}


def test_fd_01_where_neither_does_a_leaked_one_leads_outside(
    sandbox: Made, leaked: list[int], careless: Careless
) -> None:
    made = sandbox().removed(LAYERS["close_range"], LAYERS["Landlock"]).by(
        careless("leaks descriptors"))
    assert open_inside(made, leaked) >= set(leaked)
    reading = [call("openat", LEAKED, "secret", os.O_RDONLY),
               call("read", Result(0), Out(len(SECRET)), len(SECRET))]
    assert answers_of(made.start(words_of([reading]), pass_fds=leaked).stdout)[0].out == SECRET


def held_by_pid_1(made: Sandbox, leaked: list[int]) -> set[str]:
    """What PID 1's descriptors are, where they can be looked at."""
    done = made.start(words_of([listing("/proc/1/fd")]), pass_fds=leaked)
    names = names_of(answers_of(done.stdout)[0])
    words = words_of([call("readlinkat", AT_FDCWD, f"/proc/1/fd/{name}", Out(256), 256)]
                     for name in names)
    done = made.start(words, pass_fds=leaked)
    return {answer.out.rstrip(b"\0").decode() for answer in answers_of(done.stdout)}


def test_cve_2016_9962_fd_02_pid_1_holds_nothing_of_the_host(
    sandbox: Made, leaked: list[int], careless: Careless
) -> None:
    """Even where it could be looked into: the socket to its parent alone."""
    made = sandbox().removed(LAYERS["not dumpable"])
    held = held_by_pid_1(made, leaked)
    assert len(held) == 1
    assert held.pop().startswith("socket:")
    more = held_by_pid_1(made.by(careless("leaks descriptors")), leaked)
    assert any("canary" in link for link in more)


# -- the working directory -------------------------------------------------------------------------


def test_cve_2024_21626_fd_04_a_leaked_directory_is_no_working_directory(
    sandbox: Made, leaked: list[int], careless: Careless
) -> None:
    place = f"/proc/self/fd/{LEAKED}"
    made = sandbox(workdir=place).removed(LAYERS["Landlock"])
    words = words_of([[call("openat", AT_FDCWD, "secret", os.O_RDONLY)]])

    def start(made: Sandbox) -> subprocess.CompletedProcess[bytes]:
        return made.start(words, pass_fds=leaked)

    assert b"chdir: ENOENT" in start(made).stderr
    done = start(made.by(careless("leaks descriptors")))  # the check of the directory alone
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"getcwd: EXDEV" in done.stderr
    done = start(made.by(careless("leaks descriptors", "stays where it is")))
    assert answers_of(done.stdout)[0].word == "ok"


def test_fd_05_a_directory_that_the_command_may_not_enter_is_none_either(
    sandbox: Made, tmp_path: Path
) -> None:
    """It is entered with the rights of the command, which has no capability by then."""
    directory = tmp_path / "closed"
    directory.mkdir()
    made = sandbox(ro=[str(directory)], workdir=str(directory))
    words = words_of([[call("getpid")]])
    directory.chmod(0)
    try:
        done = made.start(words)
        assert (done.returncode, done.stdout) == (125, b"")
        assert b"chdir: EACCES" in done.stderr
        assert made.removed(LAYERS["capability sets"]).start(words).returncode == 0
    finally:
        directory.chmod(0o700)
    assert made.start(words).returncode == 0


# -- the executor's own file -----------------------------------------------------------------------


def overwrites(path: str) -> bool:
    """CVE-2019-5736 in its last step: a program is opened for writing, by what was opened of it
    while it ran, and written to."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return os.pwrite(descriptor, b"#!", 0) == 2
    except OSError:
        return False
    finally:
        os.close(descriptor)


def test_cve_2019_5736_fd_06_the_executor_can_not_be_overwritten(
    sandbox: Made, tmp_path: Path
) -> None:
    """From outside, with all that an attacker inside could get at best: the owner's own rights.

    Of a program that lies in what is given; the others the command does not reach (test_reach.py).
    """
    made = sandbox(ro=[str(tmp_path)])
    program = made.write()
    before = program.read_bytes()
    with subprocess.Popen([program, *words_of([[call("getpid")], WAIT])], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        path = f"/proc/{process.pid}/exe"
        kept = os.open(path, os.O_RDONLY)
        assert fcntl.fcntl(kept, F_GET_SEALS) & 0xF == 0xF
        assert not overwrites(path)
        process.communicate(b"x", timeout=60)
    assert not overwrites(f"/proc/self/fd/{kept}")
    os.close(kept)
    assert program.read_bytes() == before


def test_fd_06_a_program_in_an_ordinary_file_can(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(Path("/usr/bin/cat").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        kept = os.open(f"/proc/{process.pid}/exe", os.O_RDONLY)
        process.communicate(b"", timeout=60)
    assert overwrites(f"/proc/self/fd/{kept}")
    os.close(kept)
    assert program.read_bytes()[:2] == b"#!"


def test_cve_2019_5736_fd_06_an_entry_point_that_is_the_executor_gets_nowhere(
    sandbox: Made, tmp_path: Path
) -> None:
    """What #!/proc/self/exe names is the sealed image, which refuses inside like any command; where
    there is none, because Landlock keeps the command from the file itself, it refuses this, too."""
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "entry").write_text("#!/proc/self/exe\n")
    (directory / "entry").chmod(0o755)
    made = sandbox(ro=[f"{directory}:/data"]).removed(changed("execute", 0, "/data/entry"))
    program = made.write()
    before = program.read_bytes()
    done = subprocess.run([program], stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
                          check=False)
    assert done.returncode in (125, 126)
    assert done.stderr.startswith(b"hardrun: ")
    assert done.stdout == b""
    assert program.read_bytes() == before


# -- standard input and output ---------------------------------------------------------------------


def standard(made: Sandbox, **options: object) -> list[tuple[int, int]]:
    """Mode and device number of descriptors 0 to 2, through the last of which answers come."""
    words = words_of([call("statx", fd, "", AT_EMPTY_PATH, 0x7ff, Out(256))] for fd in range(3))
    return [kind_of(answer) for answer in answers_of(made.start(words, **options).stdout)]


def test_cve_2026_88265_fd_09_the_null_device_is_one_by_its_number(
    sandbox: Made, image: Path, careless: Careless
) -> None:
    (image / "dev/null").write_bytes(b"the image's")
    made = sandbox(rootfs=str(image)).removed(without_own_dev)
    assert standard(made)[0][1] == NULL
    trusting = made.by(careless("trusts names")).removed(LAYERS["read-only mounts"])
    assert standard(trusting)[0][1] != NULL
    (image / "dev/null").unlink()
    (image / "dev/null").symlink_to("/dev/trap")
    (image / "dev/trap").write_bytes(b"")
    assert standard(made)[0][1] == NULL
    assert (image / "dev/trap").read_bytes() == b""


FILES = ("input", "output", "error")


def with_files(made: Sandbox, directory: Path) -> tuple[list[bytes], bytes]:
    """What the links of standard descriptors that are files tell, and what is read of the first.
    Each is opened anew for writing and emptied, where that can be done."""
    for name in FILES:
        (directory / name).write_bytes(SECRET)
    links = [[call("readlinkat", AT_FDCWD, f"/proc/self/fd/{fd}", Out(256), 256)]
             for fd in range(3)]
    reading = [call("lseek", 0, 0, 0), call("read", 0, Out(len(SECRET)), len(SECRET))]
    opening = [[call("openat", AT_FDCWD, f"/proc/self/fd/{fd}", os.O_WRONLY),
                call("ftruncate", Result(0), 0)] for fd in (0, 2)]
    with (open(directory / "input", "rb") as source, open(directory / "output", "ab") as output,
          open(directory / "error", "ab") as error):
        made.start(words_of([*links, reading, *opening]), stdin=source, capture_output=False,
                   stdout=output, stderr=error)
    answers = answers_of((directory / "output").read_bytes()[len(SECRET):])
    return [answer.out.rstrip(b"\0") for answer in answers[:3]], answers[3].out


@pytest.mark.parametrize("alone", [(), ("Landlock", "seccomp")])
def test_fd_10_no_standard_descriptor_tells_or_opens_a_file_of_the_callers(
    sandbox: Made, tmp_path: Path, alone: tuple[str, ...]
) -> None:
    made = sandbox().removed(*(LAYERS[name] for name in alone))
    links, content = with_files(made, tmp_path)
    assert not [link for link in links if os.fsencode(tmp_path) in link]
    assert content == SECRET
    for name in FILES:
        assert (tmp_path / name).read_bytes()[:len(SECRET)] == SECRET


def test_fd_10_a_file_that_is_handed_over_can_be_emptied(
    sandbox: Made, tmp_path: Path, careless: Careless
) -> None:
    made = sandbox().by(careless("leaks descriptors"))
    links, _ = with_files(made, tmp_path)
    assert os.fsencode(tmp_path / "input") in links
    assert (tmp_path / "input").read_bytes() == SECRET, "Landlock alone lets nothing be opened anew"
    with_files(made.removed(LAYERS["Landlock"]), tmp_path)
    assert (tmp_path / "input").read_bytes() == b""


@pytest.mark.parametrize("size", [0, 1, (64 << 20) + 1])
def test_fd_10_a_file_arrives_whole(sandbox: Made, tmp_path: Path, size: int) -> None:
    """As a copy where it is small, else through a pipe."""
    with open(tmp_path / "input", "wb") as file:
        file.truncate(size)
    with open(tmp_path / "input", "rb") as source:
        asked = ["-c", "import os; n = 0\nwhile block := os.read(0, 1 << 20): n += len(block)\n"
                       "print(n)"]
        made = sandbox().removed(changed("execute", 0, "/usr/bin/python3"))
        done = made.start(asked, stdin=source)
        assert (done.stdout, done.stderr) == (b"%d\n" % size, b"")
        assert source.tell() == (0 if size <= 64 << 20 else size)


def test_fd_10_a_file_of_proc_arrives_as_well(sandbox: Made) -> None:
    """It says that its size is 0 and can't be copied."""
    with open("/proc/version", "rb") as source:
        answer = answers_of(sandbox().start(words_of([[call("read", 0, Out(13), 13)]]),
                                            stdin=source).stdout)[0]
    assert answer.out == b"Linux version"


def test_fd_11_no_descriptor_comes_over_from_another_sandbox(sandbox: Made) -> None:
    """CVE-2024-27297: a socket without a path would be a way from one to the other."""
    address = b"\1\0\0" + f"hardrun-{os.getpid()}".encode()
    listening = [call("socket", 1, 5, 0), call("bind", Result(0), address, len(address)),
                 call("listen", Result(0), 1), *WAIT]
    connecting = (call("socket", 1, 5, 0), call("connect", Result(0), address, len(address)))
    network, landlock = LAYERS["network namespace"], LAYERS["Landlock"]
    for removals, word in (((), "ECONNREFUSED"), ((network,), "EPERM"),
                           ((landlock,), "ECONNREFUSED"), ((network, landlock), "ok")):
        made = sandbox().removed(*removals)
        words = words_of([[call("getpid")], listening])
        with subprocess.Popen([made.write("first"), *words], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as first:
            assert first.stdout is not None
            first.stdout.readline()
            found = made.one(*connecting)
            while found.word == "ECONNREFUSED" and word == "ok":
                found = made.one(*connecting)
            assert found.word == word, removals
            assert answers_of(first.communicate(b"x", timeout=60)[0])[0].steps[2].word == "ok"
