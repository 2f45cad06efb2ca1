"""Ways out that were tried on real sandboxes: each test fails without the defence it is about."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import hardrun
from hardrun.kernel.seccomp import tables
from tests.installed import HARDRUN

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"


class User:
    """An ordinary user with a home, keys in it and a shell."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.work = self.home / "work"
        self.work.mkdir(parents=True)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.hardrun("run", *words)

    def hardrun(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {"HOME": str(self.home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8",
                       "PYTHONPATH": str(ROOT)}
        return subprocess.run([HARDRUN, *words],
                              cwd=self.work, env=environment, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=False)


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


def refused(run: subprocess.CompletedProcess[str]) -> bool:
    return run.returncode == 125 and "a known way out" in run.stderr


@pytest.mark.parametrize("asked", [".aws", ".aws/credentials", "dotfiles/aws", "dotfiles"])
@pytest.mark.parametrize("flag", ["--ro", "--rw"])
def test_credentials_behind_a_symlink_are_a_known_way_out(user: User, flag: str,
                                                          asked: str) -> None:
    (user.home / "dotfiles/aws").mkdir(parents=True)
    (user.home / "dotfiles/aws/credentials").write_text("key")
    (user.home / ".aws").symlink_to("dotfiles/aws")
    assert refused(user.run(flag, str(user.home / asked), "--", "true"))


def test_a_home_that_is_a_symlink_hides_no_way_out(user: User, tmp_path: Path) -> None:
    (user.home / ".ssh").mkdir()
    resolved = user.home
    user.home = tmp_path / "link"
    user.home.symlink_to(resolved)
    for home in (resolved, user.home):
        assert refused(user.run("--ro", str(home / ".ssh"), "--", "true"))


def test_a_root_file_system_with_the_keys_in_it_is_refused(user: User) -> None:
    (user.home / ".ssh").mkdir()
    for rootfs in ("/", str(user.home), str(user.home / ".ssh")):
        assert refused(user.run("--rootfs", rootfs, "--", "/bin/true")), rootfs


@pytest.mark.parametrize("flag", ["--ro", "--rw"])
def test_a_stored_plan_does_not_outlive_the_symlink_it_was_made_through(user: User,
                                                                        flag: str) -> None:
    for release in "12":
        (user.work / release).mkdir()
        (user.work / release / "name").write_text(release)
    current = user.work / "current"
    for release in "1121":
        current.unlink(missing_ok=True)
        current.symlink_to(release)
        assert user.run(flag, "current:/data", "--", "cat", "/data/name").stdout == release


def test_a_directory_as_standard_input_does_not_lead_out_of_the_root(user: User) -> None:
    """Through it the host's files could be seen and the sockets of its services reached."""
    program = user.work / "program"
    assert user.hardrun("compile", "-o", str(program), "--", "true").returncode == 0
    directory = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        run = subprocess.run([program], stdin=directory, cwd="/", capture_output=True, check=False)
    finally:
        os.close(directory)
    assert run.returncode == 125
    assert b"EISDIR" in run.stderr


def test_a_workload_that_makes_pid_1_its_tracer_does_not_end_by_a_stop() -> None:
    script = ("import ctypes, os, signal\n"
              "libc = ctypes.CDLL(None)\n"
              "libc.ptrace(0, 0, 0, 0)\n"  # PTRACE_TRACEME
              "os.kill(os.getpid(), signal.SIGUSR1)\n")
    result = hardrun.run([PYTHON, "-c", script], policy="build", timeout="1s", check=False)
    assert result.outcome == "timeout"


def test_a_signal_of_the_workload_to_pid_1_is_not_taken_for_the_parent_s() -> None:
    """si_pid 0 stands for the parent; rt_sigqueueinfo(2) lets the sender write it."""
    script = ("import ctypes, time\n"
              "info = (ctypes.c_int * 32)(10, 0, -1, 0, 0, 0)\n"  # SI_QUEUE, pid 0
              "answer = ctypes.CDLL(None).syscall(NUMBER, 1, 10, info)\n"
              "time.sleep(0.2)\n"
              "print(answer)\n")
    number = tables.numbers(os.uname().machine)["rt_sigqueueinfo"]
    result = hardrun.run([PYTHON, "-c", script.replace("NUMBER", str(number))],
                         capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "0\n")


MODE_3 = """
import errno, fcntl, json, os, struct, sys
found = {}
def attempt(name, action):
    try:
        action(os.open(sys.argv[1], 3 | (os.O_TRUNC if name == "truncate" else 0)))
        found[name] = "through"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
attempt("open", os.close)
attempt("attribute", lambda fd: os.setxattr(fd, "user.a", b""))
attempt("group", lambda fd: os.fchown(fd, -1, os.getgid()))
attempt("flags", lambda fd: fcntl.ioctl(fd, 0x40086602, struct.pack("i", 0x40)))
attempt("truncate", os.close)
print(json.dumps(found))
"""


def test_what_is_shown_read_only_is_not_changed_through_access_mode_3(tmp_path: Path) -> None:
    """For such a descriptor Landlock asks for no right (fs/open.c, OPEN_FMODE); the mount does."""
    file = tmp_path / "file"
    for access, answer in (("ro", "EROFS"), ("rw", "through")):
        file.write_text("kept")
        result = hardrun.run([PYTHON, "-c", MODE_3, str(file)], policy="agent", capture_output=True,
                             text=True, **{access: [str(tmp_path)]})
        assert json.loads(result.stdout) == {
            "open": "through", **dict.fromkeys(("attribute", "group", "flags", "truncate"), answer)}
        assert file.read_text() == ("kept" if access == "ro" else "")
