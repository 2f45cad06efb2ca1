"""Each machine is what its tests take it for."""

from __future__ import annotations

import errno
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

import hardrun
from tests.vm.guest import as_root, kernel_log, run_as, sysctl

EVERY = pytest.mark.vm("apparmor", "selinux", "bare")
OPEN = pytest.mark.vm("apparmor", "selinux")
UNSHARE_USER = "import ctypes; l = ctypes.CDLL(None, use_errno=True); print(" \
               "ctypes.get_errno() if l.unshare(0x10000000) else 0)"


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8").rstrip("\n\0")


def _modules() -> set[str]:
    return set(as_root("cat", "/sys/kernel/security/lsm").split(","))


def _unshare_user() -> str:
    """The errno with which a new user namespace is refused, by name; nothing if it isn't."""
    done = subprocess.run([sys.executable, "-c", UNSHARE_USER], capture_output=True, text=True,
                          check=True)
    return errno.errorcode.get(int(done.stdout), "")


@EVERY
def test_the_kernel_is_debians_and_has_landlock() -> None:
    assert os.uname().release.startswith("6.1.")
    assert "landlock" in _modules()


@EVERY
def test_the_wheel_is_what_is_tested() -> None:
    assert Path(hardrun.__file__).is_relative_to("/opt/venv")
    assert not os.access(Path(hardrun.__file__).parent, os.W_OK)
    assert subprocess.run(["hardrun", "--version"], check=False).returncode == 0


@EVERY
def test_the_tester_is_an_ordinary_user_with_ranges_and_groups() -> None:
    assert pwd.getpwuid(os.getuid()).pw_name == "tester"
    assert len(os.getgroups()) == 3
    assert "CapEff:\t0000000000000000" in _read("/proc/self/status")
    assert "tester:100000:65536" in _read("/etc/subuid")


@EVERY
def test_other_users_are_there() -> None:
    assert run_as("root", ["id", "-u"]).stdout == "0\n"
    assert run_as("plain", ["id", "-u"]).stdout == "1001\n"
    assert "plain" not in _read("/etc/subuid")
    groups, home = run_as("elsewhere", ["sh", "-c", "id -G; echo $HOME"]).stdout.splitlines()
    assert len(groups.split()) == 11
    assert home == "/srv/elsewhere"


@OPEN
def test_the_cgroup_is_delegated_with_its_controllers() -> None:
    hierarchy, = _read("/proc/self/cgroup").splitlines()
    own = Path("/sys/fs/cgroup" + hierarchy.removeprefix("0::"))
    assert own.stat().st_uid == os.getuid()
    controllers = set((own / "cgroup.controllers").read_text().split())
    assert controllers >= {"cpu", "cpuset", "io", "memory", "pids"}


@pytest.mark.vm("bare")
def test_the_controllers_are_in_hierarchies_of_version_1() -> None:
    assert not [line for line in _read("/proc/mounts").splitlines() if " cgroup2 " in line]
    for controller in ("cpu,cpuacct", "cpuset", "blkio", "memory", "pids"):
        own, = [line for line in _read("/proc/self/cgroup").splitlines()
                if f":{controller}:" in line]
        assert not os.access(f"/sys/fs/cgroup/{controller}{own.split(':')[2]}/cgroup.procs",
                             os.W_OK)


@EVERY
def test_the_users_own_systemd_answers_on_the_session_bus() -> None:
    assert os.environ["DBUS_SESSION_BUS_ADDRESS"].startswith("unix:path=/run/user/1000/bus")
    done = subprocess.run(["systemctl", "--user", "show", "--property=Version"],
                          capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Version=")


@pytest.mark.vm("apparmor")
def test_apparmor_is_in_force_and_selinux_is_not() -> None:
    assert "apparmor" in _modules()
    assert "selinux" not in _modules()
    assert _read("/sys/module/apparmor/parameters/enabled") == "Y"
    assert _read("/proc/self/attr/apparmor/current") == "unconfined"


@pytest.mark.vm("apparmor")
def test_apparmor_denies_what_a_loaded_profile_denies() -> None:
    profile = "profile rig-test { file, deny /etc/hostname r, }\n"
    as_root("apparmor_parser", "--replace", "--skip-cache", stdin=profile)
    try:
        done = subprocess.run(["aa-exec", "-p", "rig-test", "cat", "/etc/hostname"],
                              capture_output=True, text=True, check=False)
    finally:
        as_root("apparmor_parser", "--remove", stdin=profile)
    assert "Permission denied" in done.stderr


@pytest.mark.vm("selinux")
def test_selinux_enforces_and_the_tester_is_unconfined() -> None:
    assert "selinux" in _modules()
    assert "apparmor" not in _modules()
    assert _read("/sys/fs/selinux/enforce") == "1"
    assert ":unconfined_t:" in _read("/proc/self/attr/current")


@pytest.mark.vm("selinux")
def test_files_have_labels() -> None:
    assert ":shadow_t:" in as_root("ls", "-Z", "/etc/shadow")
    assert ":bin_t:" in subprocess.run(["ls", "-LZ", "/usr/bin/cat"], capture_output=True,
                                       text=True, check=True).stdout


@pytest.mark.vm("selinux")
def test_a_denial_is_eacces_and_in_the_log() -> None:
    """A confined shell of the system's own mail user may not read shadow, root or not."""
    done = run_as("root", ["runcon", "-t", "user_t", "-r", "user_r", "-u", "user_u", "-l", "s0",
                           "cat", "/etc/shadow"])
    assert "Permission denied" in done.stderr
    assert any("avc:  denied" in line for line in kernel_log())


@pytest.mark.vm("bare")
def test_no_module_labels_processes() -> None:
    assert not _modules() & {"apparmor", "selinux", "smack"}


@OPEN
def test_user_namespaces_are_open() -> None:
    assert _unshare_user() == ""


@pytest.mark.vm("bare")
def test_user_namespaces_are_refused_each_switch_with_its_errno() -> None:
    assert _unshare_user() == "EPERM"
    clone = sysctl("kernel.unprivileged_userns_clone", "1")
    try:
        assert _unshare_user() == "ENOSPC"
        most = sysctl("user.max_user_namespaces", "100")
        assert _unshare_user() == ""
        sysctl("user.max_user_namespaces", most)
    finally:
        sysctl("kernel.unprivileged_userns_clone", clone)
    assert _unshare_user() == "EPERM"
