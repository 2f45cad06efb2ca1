"""Which layer refused, and what helps least: cases that users reported, as a table.

Sources: bubblewrap #505 and #798, nsjail #78 and #236, typeclaw #1441, claude-code #93130.
"""

from __future__ import annotations

import errno

import pytest

from hardrun.host.attempt import NOT_ENFORCED, ExecutorUnusable, Failure
from hardrun.host.diagnose import (
    diagnose,
    landlock_missing,
    not_executable,
)
from hardrun.host.distribution import Distribution
from hardrun.host.surroundings import Surroundings
from tests.pains import BYPASS, DOCKER, UBUNTU

DEBIAN = Distribution("debian", "debian", "12")
WSL = Distribution("ubuntu", "debian", "24.04", wsl=True)

CASES = [
    # operation, errno, surroundings, cause, words of the layer, words of the fix
    ("clone", errno.ENOSPC, Surroundings(max_user_namespaces="0"), "max-user-namespaces",
     "sysctl user.max_user_namespaces", "user.max_user_namespaces = 15000"),
    ("clone", errno.ENOSPC, Surroundings(max_user_namespaces="9000"), "userns-used-up",
     "user namespace limit", "end other sandboxes"),
    ("clone", errno.EPERM, Surroundings(unprivileged_userns_clone="0"),
     "unprivileged-userns-clone", "sysctl kernel.unprivileged_userns_clone",
     "kernel.unprivileged_userns_clone = 1"),
    ("clone", errno.EAGAIN, Surroundings(unprivileged_userns_clone="0"), "processes",
     "limit of processes", "ulimit -u"),
    ("clone", errno.EINVAL, Surroundings(), "no-user-namespaces",
     "kernel without user namespaces", "CONFIG_USER_NS"),
    ("clone", errno.ENOSYS, Surroundings(kernel=(5, 2)), "kernel-too-old", "kernel before 5.14",
     "Linux 5.14 or newer"),
    ("clone", errno.ENOSYS, Surroundings(kernel=(4, 4), distribution=WSL), "kernel-too-old",
     "kernel before 5.14", "wsl --update"),
    ("clone", errno.ENOSYS, Surroundings(seccomp=2), "outer-seccomp",
     "seccomp filter of an outer", "clone3"),
    ("clone", errno.EPERM, Surroundings(seccomp=2), "outer-seccomp", "seccomp filter of an outer",
     "clone3"),
    ("clone", errno.EPERM, Surroundings(), "unmapped-caller", "kernel", "chroot"),
    ("write_id_map", errno.EPERM, Surroundings(bare_root=True, nested=True),
     "root-without-setfcap", "CAP_SETFCAP", "runAsNonRoot"),
    ("write_id_map", errno.EROFS, Surroundings(), "proc-read-only", "read-only /proc",
     "bwrap --proc /proc"),
    # a filter is there, but it was tried that it is not what refuses
    ("clone", errno.EPERM, Surroundings(seccomp=2, filtered=()), "unmapped-caller", "kernel",
     "chroot"),
    ("clone", errno.EPERM, UBUNTU._replace(seccomp=2, filtered=()), "apparmor-restricts-userns",
     "AppArmor (kernel.apparmor_restrict", "hardrun profile install hardrun"),
    # Ubuntu lets the namespace be made and refuses what comes after it
    ("write_id_map", errno.EPERM, UBUNTU, "apparmor-restricts-userns",
     "AppArmor (kernel.apparmor_restrict", "hardrun profile install hardrun"),
    ("make_private", errno.EACCES, UBUNTU, "apparmor-restricts-userns",
     "AppArmor (kernel.apparmor_restrict", "hardrun profile install hardrun"),
    ("root_tmpfs", errno.EACCES, UBUNTU._replace(apparmor_label="unprivileged_userns (enforce)"),
     "apparmor-restricts-userns", "AppArmor (kernel.apparmor_restrict",
     "hardrun profile install hardrun"),
    # docker-default permits the namespace and denies the mount
    ("make_private", errno.EACCES, DOCKER, "apparmor-profile", "AppArmor profile docker-default",
     "'mount,'"),
    ("clone", errno.EPERM, DOCKER._replace(apparmor_label="unconfined"), "outer-seccomp",
     "seccomp filter of an outer", "clone3"),
    # both refuse: one without the other changes nothing (typeclaw #1441)
    ("clone", errno.EPERM, DOCKER._replace(filtered=("unshare", "mount")), "outer-seccomp",
     "AppArmor profile docker-default", "allow unshare, mount (hardrun doctor --emit-seccomp"),
    ("clone", errno.EPERM, DOCKER._replace(filtered=("unshare", "mount")), "outer-seccomp",
     "seccomp filter of an outer", "'pivot_root,' to the AppArmor profile docker-default"),
    ("clone", errno.EACCES, Surroundings(selinux_context="user_u:user_r:user_t:s0"),
     "selinux-domain", "SELinux domain user_u", "ausearch"),
    ("mount_proc", errno.EPERM, Surroundings(covered_proc=("/proc/kcore",)), "proc-covered",
     "the caller's own /proc is partly covered (/proc/kcore)", "hostUsers: false"),
    ("mount_proc", errno.EPERM, Surroundings(proc_mounted=False), "no-proc", "no proc is mounted",
     "bwrap --proc /proc"),
    ("mount_proc", errno.EINVAL, Surroundings(), "kernel-too-old", "kernel before 5.8", "masked"),
    ("root_attributes", errno.ENOSYS, Surroundings(kernel=(5, 10)), "kernel-too-old",
     "kernel before 5.14", "newer"),
    ("pivot_root", errno.EINVAL, Surroundings(), "kernel", "kernel", ""),
    ("network namespace", errno.ENOSPC, Surroundings(), "max-namespaces",
     "sysctl user.max_net_namespaces", "user.max_net_namespaces = "),
    ("cgroup namespace", errno.EINVAL, Surroundings(), "no-such-namespace",
     "kernel without cgroup namespaces", "shares it"),
    ("write_id_map_helper", errno.EPERM, Surroundings(no_new_privs=True), "no-new-privs",
     "no_new_privs of the caller", "before it is set"),
    ("clone", errno.ENOSPC, Surroundings(max_user_namespaces="9000", max_mnt_namespaces="0"),
     "max-namespaces", "sysctl user.max_mnt_namespaces", "user.max_mnt_namespaces = 15000"),
    ("clone", errno.ENOSPC, Surroundings(max_user_namespaces="9000", max_pid_namespaces="0"),
     "max-namespaces", "sysctl user.max_pid_namespaces", "user.max_pid_namespaces = 15000"),
    ("write_id_map_helper", errno.EPERM, Surroundings(), "newuidmap-refused", "newuidmap",
     "/etc/subuid"),
    ("join_session_keyring", errno.EDQUOT, Surroundings(keys_maximum="200"), "key-quota",
     "quota of keys (200", "kernel.keys.maxkeys"),
    ("join_session_keyring", errno.EPERM, DOCKER, "outer-seccomp", "seccomp filter of an outer",
     "keyctl"),
    ("load_seccomp", errno.EINVAL, Surroundings(), "no-seccomp", "kernel without seccomp",
     "CONFIG_SECCOMP"),
    ("landlock_ruleset", errno.EPERM, DOCKER, "outer-seccomp", "seccomp filter of an outer",
     "landlock_"),
    ("landlock_restrict", errno.ENOSYS, Surroundings(kernel=(5, 10)), "kernel-too-old",
     "kernel before 5.13", "newer"),
    ("landlock_restrict", errno.EOPNOTSUPP, Surroundings(), "no-landlock",
     "kernel without Landlock", "lsm="),
    (NOT_ENFORCED, errno.ENOEXEC, Surroundings(), "landlock-not-enforced", "Landlock", "kernel"),
]


@pytest.mark.parametrize("operation,number,around,cause,layer,fix", CASES)
def test_the_layer_at_fault_is_named_with_its_least_fix(
    operation: str, number: int, around: Surroundings, cause: str, layer: str, fix: str
) -> None:
    found = diagnose(Failure(operation, number), around)
    assert found.cause == cause
    assert layer in found.layer
    assert fix in found.fix


@pytest.mark.parametrize("operation,number,around,cause,layer,fix", CASES)
def test_no_fix_switches_a_protection_off(
    operation: str, number: int, around: Surroundings, cause: str, layer: str, fix: str
) -> None:
    found = diagnose(Failure(operation, number), around)
    assert not BYPASS.search(found.fix)


@pytest.mark.parametrize("advice", [
    "docker run --security-opt seccomp=unconfined", "--security-opt apparmor=unconfined",
    "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0", "docker run --privileged",
    "privileged: true", "setenforce 0", "--security-opt label=disable", "NoNewPrivileges=no",
    "mount -o remount,suid /usr", "procMount: Unmasked", "podman run --security-opt unmask=ALL",
    "--cap-add SYS_ADMIN", "--dangerously-auto-approve-everything", "aa-complain hardrun"])
def test_what_would_switch_one_off_is_known(advice: str) -> None:
    assert BYPASS.search(advice)


@pytest.mark.parametrize("number,cause", [
    (errno.EMFILE, "open-files"), (errno.ENFILE, "open-files"), (errno.EAGAIN, "processes"),
    (errno.EFBIG, "file-size"), (errno.ENOMEM, "memory")])
def test_a_limit_of_the_callers_own_is_no_fault_of_the_host(number: int, cause: str) -> None:
    found = not_executable(ExecutorUnusable(number, "", "memory file"), Surroundings())
    assert found.cause == cause
    assert found.fix


def test_a_profile_in_complain_mode_confines_nobody() -> None:
    around = Surroundings(apparmor_label="tool (complain)")
    assert around.confining_profile == ""
    assert Surroundings(apparmor_label="unconfined_tool (enforce)").confining_profile


def test_landlock_is_missing_for_a_reason() -> None:
    assert "5.13" in landlock_missing(Surroundings(kernel=(5, 4))).layer
    assert "CONFIG_SECURITY_LANDLOCK" in landlock_missing(Surroundings()).fix


def test_an_executor_that_can_not_be_executed_is_explained() -> None:
    noexec = not_executable(ExecutorUnusable(errno.EACCES, "", "memory file"),
                            Surroundings(memfd_noexec="2"))
    assert noexec.layer == "sysctl vm.memfd_noexec"
    old = not_executable(ExecutorUnusable(0, "it ended without a report", "execution"),
                         Surroundings(kernel=(5, 4)))
    assert (old.cause, "5.14" in old.fix) == ("kernel-too-old", True)
    damaged = not_executable(ExecutorUnusable(errno.ENOEXEC, "", "execution"), Surroundings())
    assert damaged.cause == "installation"
    absent = not_executable(ExecutorUnusable(errno.ENOENT, "", "/x/hardrun-exec"), Surroundings())
    assert absent.layer == "installation"


def test_the_surroundings_of_this_process_can_be_read() -> None:
    assert Surroundings.read().kernel >= (5, 0)
