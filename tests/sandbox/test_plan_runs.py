"""Compiled plans, run for real: what the kernel says of the view, and programs that people use."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hardrun.plan.format import encode
from tests.planning import plan

from .raw import Program

HOME = "/home/tester"


@pytest.fixture
def program(executor: Path, tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(executor, tmp_path_factory.mktemp("program"))


def run(program: Program, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Compile a command given as flags and run it to its end."""
    planned = plan(*argv, **options)
    path = program.write_plan(encode(planned.operations, planned.unsafe))
    return subprocess.run([path, *argv[1:]], capture_output=True, text=True, timeout=60,
                          errors="surrogateescape", stdin=subprocess.DEVNULL)


def shell(program: Program, script: str, **options: Any) -> str:
    """The output of a shell script that must succeed."""
    result = run(program, "bash", "-ec", script, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_root_holds_the_list_and_nothing_else(program: Program) -> None:
    names = shell(program, "ls -A /").split()
    assert set(names) <= {"bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "nix",
                          "proc", "run", "sbin", "tmp", "usr", "var"}
    assert "shadow" not in shell(program, "ls -A /etc").split()


def test_the_devices_are_those_of_the_list_and_work(program: Program) -> None:
    assert set(shell(program, "ls -A /dev").split()) == {
        "fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
        "zero"}
    assert shell(program, "echo x >/dev/null; head -c2 /dev/zero | od -An -tx1;"
                          " echo y >/dev/stdout").split() == ["00", "00", "y"]


def test_every_mount_is_nosuid_and_what_is_not_private_is_read_only(program: Program) -> None:
    for line in shell(program, "cat /proc/self/mountinfo").splitlines():
        fields = line.split()
        path, flags = fields[4], set(fields[5].split(","))
        assert "nosuid" in flags, line
        assert ("nodev" in flags) is not path.startswith("/dev/") or path == "/dev/shm", line
        if path not in ("/tmp", HOME, "/proc", "/dev/shm") and not path.startswith("/dev/"):
            assert "ro" in flags, line


@pytest.mark.parametrize("path", ["/x", "/etc/x", "/usr/x", "/dev/x", "/run/x", "/var/x"])
def test_nothing_can_be_made_outside_private_places(program: Program, path: str) -> None:
    result = run(program, "touch", path)
    assert result.returncode == 1
    assert "Read-only file system" in result.stderr or "Permission denied" in result.stderr


def test_home_and_tmp_are_empty_writable_and_share_one_limit(program: Program) -> None:
    assert shell(program, f"ls -A /tmp; ls -A {HOME}") == ""
    result = run(program, "bash", "-c", "head -c 3M /dev/zero >/tmp/a; head -c 3M /dev/zero >~/b",
                 values={"limits.tmpfs": 4 << 20})
    assert "No space left on device" in result.stderr


def test_shared_memory_can_not_be_executed(program: Program) -> None:
    result = run(program, "bash", "-c", "cp /bin/true /dev/shm/t && /dev/shm/t")
    assert result.returncode == 126


def test_no_user_namespace_can_be_made_even_without_a_filter(program: Program) -> None:
    result = run(program, "unshare", "-U", "true")
    assert "No space left on device" in result.stderr


def test_a_grant_is_writable_and_another_read_only_beneath_it(program: Program,
                                                              tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    result = run(program, "bash", "-c", "pwd; touch new; touch inner/new", rw=["."],
                 ro=["inner"], caller_directory=str(tmp_path))
    assert result.stdout.strip() == str(tmp_path)
    assert (tmp_path / "new").exists()
    assert "Read-only file system" in result.stderr
    assert not (tmp_path / "inner/new").exists()


def test_a_grant_at_another_destination_is_found_there(program: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    assert shell(program, "cat /deep/down/file; cat /one", ro=[
        f"{tmp_path}:/deep/down", f"{tmp_path}/file:/one"]) == "contentcontent"


def test_a_writable_grant_refuses_device_nodes_and_set_user_id_files(program: Program,
                                                                     tmp_path: Path) -> None:
    result = run(program, "mknod", f"{tmp_path}/null", "c", "1", "3", rw=[str(tmp_path)])
    assert result.returncode == 1
    flags = shell(program, f"grep ' {tmp_path} ' /proc/self/mountinfo", rw=[str(tmp_path)])
    assert "nosuid,nodev" in flags


def test_what_runs_later_outside_can_be_neither_changed_nor_moved_away(program: Program,
                                                                       tmp_path: Path) -> None:
    (tmp_path / "deep/.git/hooks").mkdir(parents=True)
    (tmp_path / "deep/.git/config").write_text("old")
    script = ("echo new >deep/.git/config; touch deep/.git/hooks/pre-commit; rm -rf deep/.git;"
              " mv deep elsewhere; mv deep/.git deep/git; ln deep/.git/config deep/link")
    result = run(program, "bash", "-c", script, rw=["."], caller_directory=str(tmp_path), values={
        "filesystem.protected": frozenset({".git/hooks", ".git/config"})})
    assert (tmp_path / "deep/.git/config").read_text() == "old"
    assert os.listdir(tmp_path / "deep/.git/hooks") == []
    assert not (tmp_path / "elsewhere").exists()
    assert "Device or resource busy" in result.stderr


def test_without_the_protection_the_same_script_gets_through(program: Program,
                                                             tmp_path: Path) -> None:
    (tmp_path / ".git/hooks").mkdir(parents=True)
    run(program, "bash", "-c", "touch .git/hooks/pre-commit", rw=["."],
        caller_directory=str(tmp_path))
    assert os.listdir(tmp_path / ".git/hooks") == ["pre-commit"]


def test_a_rootfs_is_the_root_and_read_only(program: Program, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("usr", "etc"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "etc/hostname").write_text("image\n")
    script = "cat /etc/hostname; touch /etc/x 2>/dev/null || echo ro; touch /tmp/x; echo $HOME"
    assert shell(program, script, rootfs=str(root), ro=["/usr"]).split() == ["image", "ro", "/tmp"]
    writable = {"filesystem.read_only_root": False}
    shell(program, "touch /etc/x", rootfs=str(root), ro=["/usr"], values=writable)
    assert (root / "etc/x").exists()


def test_a_command_that_asks_for_a_terminal_gets_a_private_one(program: Program) -> None:
    result = run(program, "tty", terminal=True)
    assert result.returncode in (0, 1)
    assert "/home" not in result.stdout


def test_limits_are_in_force(program: Program) -> None:
    result = run(program, "bash", "-c", "ulimit -n; ulimit -u; ulimit -d; ulimit -c; umask")
    assert result.stdout.split() == ["1024", "256", str(1 << 20), "0", "0022"]


def test_a_stored_plan_runs_while_nothing_has_changed(program: Program) -> None:
    assert shell(program, "echo $0 $#", pinned=False).startswith("bash 0")


PROGRAMS = {
    "python3": "python3 -c 'import ssl, sqlite3, multiprocessing; multiprocessing.Queue();"
               " print(40 + 2)'",
    "git": "git init -q . && touch a && git add a && git -c user.name=a -c user.email=b@c"
           " commit -qm x && git rev-list --count HEAD && echo 42",
    "gcc": "printf 'int main(void){return 42;}' >a.c && gcc a.c -o a && { ./a || echo $?; }",
    "node": "node -e 'console.log(42)'",
    "java": "java -Xmx64m -XX:+PrintFlagsFinal -version >/dev/null 2>&1 && echo 42",
    "perl": "perl -e 'print 42'",
}


@pytest.mark.parametrize("command", PROGRAMS)
def test_programs_that_people_use_run(program: Program, tmp_path: Path, command: str) -> None:
    if shutil.which(command, path="/usr/bin:/bin") is None:
        pytest.skip(f"{command} is not installed in /usr/bin")
    output = shell(program, PROGRAMS[command], rw=["."], caller_directory=str(tmp_path),
                   values={"filesystem.visible": frozenset({
                       "/usr", "/etc/alternatives", "/etc/ld.so.cache", "/etc/java-17-openjdk"})})
    assert output.split()[-1] == "42"
