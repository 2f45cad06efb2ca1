"""Odd hosts: it works, or it is one line that says what to do, with exit status 125."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import sys
from pathlib import Path

import pytest

from tests.sandbox.hosts import (
    GREETING,
    HARDRUN,
    NESTED,
    RUN,
    UNSHARE,
    UNSHARE_ROOT,
    Host,
    over,
)

needs_unshare = pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "home")


# -- environment and home ---

@pytest.mark.parametrize("variables", [
    {"XDG_RUNTIME_DIR": None}, {"XDG_RUNTIME_DIR": "/nonexistent"}, {"HOME": None}, {"HOME": ""},
    {"HOME": "/"}, {"HOME": "/nonexistent"}, {"HOME": "relative"}, {"HOME": "/dev/null"},
    {"PATH": None}, {"PATH": ""}, {"TMPDIR": "/nonexistent"}, {"TMPDIR": "relative"},
    {"LANG": None}, {"LC_ALL": "C"}, {"LC_ALL": "nowhere.UTF-8"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"XDG_CACHE_HOME": "/nonexistent"}, {"XDG_CACHE_HOME": "relative"},
    {"XDG_CONFIG_HOME": "/nonexistent"}, {"TERM": None}, {"USER": None, "LOGNAME": None},
], ids=str)
def test_no_variable_is_needed(host: Host, variables: dict[str, str | None]) -> None:
    assert host(f"{RUN} -- {GREETING}", environment=variables).greeted()


@pytest.mark.parametrize("name", ["with space", "with\nnewline", "with'quote", "with#hash", "ünï",
                                  "with\\backslash", "with:colon"])
def test_a_home_of_any_name(host: Host, name: str) -> None:
    home = host.home / name
    (home / "project").mkdir(parents=True)
    project = shlex.quote(str(home / "project"))
    found = host(f"cd {project} && {RUN} --rw . -- sh -c 'echo hello; echo x > made'",
                 home=str(home))
    assert found.greeted()
    assert (home / "project/made").read_text() == "x\n"


def test_a_home_that_is_reached_through_a_link(host: Host) -> None:
    link = host.home.parent / "link"
    link.symlink_to(host.home)
    found = host(f"cd {shlex.quote(str(link))}/work && {RUN} --rw . -- sh -c "
                 "'echo hello; echo x > made'", home=str(link))
    assert found.greeted()
    assert (host.directory / "made").exists()


@needs_unshare
def test_a_read_only_home(host: Host) -> None:
    home = shlex.quote(str(host.home))
    scene = f"mount --bind {home} {home} && mount -o remount,bind,ro {home} && cd {home}/work"
    assert host(f"{scene} && {NESTED} -- {GREETING}", *UNSHARE).greeted()
    assert not (host.home / ".cache").exists()


def test_a_home_that_nobody_else_may_enter(host: Host) -> None:
    """As on NFS with root squashed: nothing may be opened by another id than the caller's."""
    host.home.chmod(0o700)
    host.directory.chmod(0o700)
    found = host(f"{RUN} --rw . -- sh -c 'echo hello; echo x > made'")
    assert found.greeted()
    status = (host.directory / "made").stat()
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())


def test_policies_that_can_not_be_read_are_no_policies_that_are_not_there(host: Host) -> None:
    """They could tighten the run: a closed directory, or a home whose server is gone."""
    closed = host.home / ".config"
    closed.mkdir(mode=0)
    try:
        found = host(f"{RUN} -- {GREETING}")
        assert found.refused(f"{closed}/hardrun/policy.d", "can't be read", "XDG_CONFIG_HOME")
        elsewhere = {"XDG_CONFIG_HOME": "/nonexistent"}
        assert host(f"{RUN} -- {GREETING}", environment=elsewhere).greeted()
    finally:
        closed.chmod(0o700)


# -- working directories ---

def test_a_working_directory_that_is_gone(host: Host) -> None:
    found = host(f'mkdir gone; cd gone; rmdir "$PWD"; {RUN} -- {GREETING}')
    assert found.refused("working directory is gone", "cd to a directory")


@pytest.mark.parametrize("options", ["", "--rw .", "--ro ."])
def test_a_working_directory_that_can_not_be_read(host: Host, options: str) -> None:
    (host.directory / "closed").mkdir()
    found = host(f"cd closed; chmod 0 .; {RUN} {options} -- {GREETING}")
    (host.directory / "closed").chmod(0o700)
    assert found.greeted() or found.refused("closed", "EACCES")


@pytest.mark.parametrize("options", ["", "--rw .", "--ro ."])
def test_a_working_directory_below_one_that_can_not_be_read(host: Host, options: str) -> None:
    (host.directory / "closed/inner").mkdir(parents=True)
    found = host(f"cd closed/inner; chmod 0 ..; {RUN} {options} -- {GREETING}")
    (host.directory / "closed").chmod(0o700)
    assert found.greeted() or found.refused("Permission denied", "hint: name a path")


# -- descriptors and limits ---

@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-", ">&-", "<&- >&-",
                                    "<&- >&- 2>&-"])
def test_closed_descriptors(host: Host, closed: str) -> None:
    found = host(f"{RUN} -- sh -c 'echo hello; exit 3' {closed}")
    assert found == (3, "" if " >&-" in f" {closed}" else "hello\n", "")


@pytest.mark.parametrize("limit", [
    "-n 32", "-l 0", "-v 400000", "-s 256", "-c 0", "-t 30", "-i 1", "-q 0", "-x 1", "-r 0"])
def test_low_limits(host: Host, limit: str) -> None:
    assert host(f"ulimit {limit} 2>/dev/null; {RUN} -- {GREETING}").greeted()


@pytest.mark.parametrize("limit,words", [
    ("-n 7", ("Too many open files", "ulimit -n 64")),
    ("-f 0", ("File too large", "ulimit -f unlimited"))])
def test_a_limit_that_leaves_no_room_is_named(host: Host, limit: str, words: tuple[str, ...]
                                              ) -> None:
    assert host(f"ulimit {limit}; {RUN} -- {GREETING}").refused(*words)


def test_a_limit_of_processes_that_leaves_no_room_is_named(host: Host) -> None:
    # sh(1) of Debian knows it as -p, others as -u; the tests' own threads count, too
    found = host(f"(ulimit -p 1 || ulimit -u 1) 2>/dev/null; ulimit -p 1 2>/dev/null || ulimit -u 1"
                 f"; {RUN} -- {GREETING}")
    assert found.refused("Resource temporarily unavailable", "ulimit -u")


@pytest.mark.parametrize("umask", ["077", "777", "000"])
def test_any_umask(host: Host, umask: str) -> None:
    assert host(f"umask {umask}; {RUN} -- {GREETING}").greeted()
    plans = host.home / ".cache/hardrun/plans"
    if plans.exists():
        assert stat.S_IMODE(plans.stat().st_mode) & 0o077 == 0


def test_a_full_device_for_what_is_said(host: Host) -> None:
    found = host(f"{HARDRUN} run --memory 99G -- true 2>/dev/full")
    assert (found.status, found.stdout, found.stderr) == (125, "", "")


# -- ids ---

@needs_unshare
@pytest.mark.parametrize("uid", [0, 77777, 4_000_000_000])
def test_an_id_without_an_account(host: Host, uid: int) -> None:
    around = ("unshare", "--user", f"--map-user={uid}", f"--map-group={uid}", "--mount")
    assert host(f"{NESTED} -- {GREETING}", *around).greeted()


@needs_unshare
def test_groups_that_the_namespace_around_does_not_map_are_told(host: Host) -> None:
    if not set(os.getgroups()) - {os.getgid()}:
        pytest.skip("this user has no supplementary groups")
    found = host(f"{RUN} -- {GREETING}", *UNSHARE_ROOT)
    assert found.refused("can't be dropped", "the user namespace around", "start hardrun outside")


# -- file systems ---

@needs_unshare
def test_no_shared_memory(host: Host) -> None:
    scene = "mount -t tmpfs none /dev && mknod /dev/null c 1 3 2>/dev/null; : > /dev/null"
    found = host(f"{scene}; {NESTED} -- sh -c 'echo hello > /dev/shm/x && cat /dev/shm/x'",
                 *UNSHARE_ROOT)
    # Without device nodes around there is nothing to bind: named, or not needed.
    assert found.greeted() or found.refused("/dev/")


@needs_unshare
@pytest.mark.parametrize("options", ["noexec", "size=4k,nr_inodes=64"])
def test_a_tmp_that_is_full_or_of_no_use(host: Host, options: str) -> None:
    scene = over("/tmp", f"mount -t tmpfs -o {options} none") + "cd /\n"
    assert host(f"{scene}{NESTED} -- {GREETING}", *UNSHARE_ROOT).greeted()


@needs_unshare
def test_a_read_only_root(host: Host) -> None:
    scene = "mount --make-rprivate / && mount -o remount,bind,ro /"
    assert host(f"{scene} && {NESTED} -- {GREETING}", *UNSHARE_ROOT).greeted()


@needs_unshare
@pytest.mark.parametrize("file_system,journal", [("ramfs", "delete"), ("tmpfs", "wal")])
def test_ids_are_given_away_once_whatever_their_state_lies_on(host: Host, file_system: str,
                                                              journal: str) -> None:
    """ramfs stands for a server's: it is not among those of which shared memory is known."""
    program = ("import os; from hardrun.state import database, ranges\n"
               "path = os.path.realpath('state')\n"
               "wish = ranges.Wish(((4000000000, 64),), ((4000000000, 64),), 32)\n"
               "leases = [ranges.take(wish, path) for _ in range(2)]\n"
               "with database.transaction(path) as change:\n"
               "    [[mode]] = change.execute('PRAGMA journal_mode').fetchall()\n"
               "print(mode, *sorted(lease.first_uid for lease in leases))")
    found = host(f"mkdir state && mount -t {file_system} none state && exec {sys.executable} -P -c "
                 + shlex.quote(program), *UNSHARE_ROOT)
    assert found == (0, f"{journal} 4000000000 4000000032\n", "")


@needs_unshare
def test_a_partly_covered_proc_leaves_sandboxes_without_one(host: Host) -> None:
    scene = "mount --bind /dev/null /proc/version"
    found = host(f"{scene} && {NESTED} -- sh -c 'ls /proc 2>/dev/null; echo hello'", *UNSHARE_ROOT)
    assert found.greeted()
    told = host(f"{scene} && {HARDRUN} explain --policy contained -- true", *UNSHARE_ROOT)
    assert "no proc of its own" in told.stdout


@needs_unshare
def test_no_proc_at_all_is_told(host: Host) -> None:
    scene = "mount -t tmpfs none /proc"
    assert host(f"{scene} && {NESTED} -- {GREETING}", *UNSHARE_ROOT).refused("/proc", "mount proc")


# -- sysctls of namespaces: the real ones, lowered in a namespace that is the test's own ---

@needs_unshare
def test_no_user_namespaces_left(host: Host) -> None:
    scene = "echo 0 > /proc/sys/user/max_user_namespaces"
    found = host(f"{scene} && {NESTED} -- {GREETING}", *UNSHARE_ROOT)
    assert found.refused("ENOSPC", "user.max_user_namespaces = 15000")


@needs_unshare
@pytest.mark.parametrize("kind", ["net", "ipc", "uts"])
def test_no_namespaces_of_another_kind_left(host: Host, kind: str) -> None:
    scene = f"echo 0 > /proc/sys/user/max_{kind}_namespaces"
    found = host(f"{scene} && {NESTED} -- {GREETING}", *UNSHARE_ROOT)
    assert found.refused("ENOSPC", f"user.max_{kind}_namespaces = ")


@needs_unshare
def test_a_chroot(host: Host) -> None:
    scene = "mount --rbind / /mnt && exec chroot /mnt"
    found = host(f"{scene} sh -c {shlex.quote('cd /; ' + NESTED + ' -- ' + GREETING)}",
                 *UNSHARE_ROOT)
    assert found.refused("EPERM", "chroot")
