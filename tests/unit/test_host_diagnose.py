"""Which layer refused, and what helps least: cases that users reported, as a table.

Sources: bubblewrap #505 and #798, nsjail #78 and #236, typeclaw #1441, claude-code #93130.
"""

from __future__ import annotations

import errno

import pytest

from hardrun.host.attempt import ExecutorUnusable, Failure
from hardrun.host.diagnose import (
    Surroundings,
    apparmor_profile,
    diagnose,
    landlock_missing,
    not_executable,
)

UBUNTU = Surroundings(apparmor_restrict_userns="1", apparmor_label="unconfined")
DOCKER = Surroundings(apparmor_label="docker-default (enforce)", seccomp=2, nested=True)
UNSAFE = ("seccomp=unconfined", "apparmor=unconfined", "--privileged", "setenforce 0",
          "restrict_unprivileged_userns=0", "systempaths=unconfined")

CASES = [
    # operation, errno, surroundings, layer, a word of the fix
    ("clone", errno.ENOSPC, Surroundings(max_user_namespaces="0"),
     "sysctl user.max_user_namespaces", "sysctl -w user.max_user_namespaces"),
    ("clone", errno.ENOSPC, Surroundings(max_user_namespaces="9000"),
     "user namespace limit", "end other sandboxes"),
    ("clone", errno.EPERM, Surroundings(unprivileged_userns_clone="0"),
     "sysctl kernel.unprivileged_userns_clone", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("clone", errno.EINVAL, Surroundings(), "kernel without user namespaces", "CONFIG_USER_NS"),
    ("clone", errno.ENOSYS, Surroundings(kernel=(5, 2)), "kernel before 5.14", "newer kernel"),
    ("clone", errno.ENOSYS, Surroundings(seccomp=2), "seccomp filter of an outer", "clone3"),
    ("clone", errno.EPERM, Surroundings(seccomp=2), "seccomp filter of an outer", "clone3"),
    ("clone", errno.EPERM, Surroundings(), "kernel", "chroot"),
    # Ubuntu lets the namespace be made and refuses what comes after it
    ("write_id_map", errno.EPERM, UBUNTU, "AppArmor (kernel.apparmor_restrict", "--emit-apparmor"),
    ("make_private", errno.EACCES, UBUNTU, "AppArmor (kernel.apparmor_restrict", "--emit-apparmor"),
    ("root_tmpfs", errno.EACCES, UBUNTU._replace(apparmor_label="unprivileged_userns (enforce)"),
     "AppArmor (kernel.apparmor_restrict", "--emit-apparmor"),
    # docker-default permits the namespace and denies the mount
    ("make_private", errno.EACCES, DOCKER, "AppArmor profile docker-default", "'mount,'"),
    ("clone", errno.EPERM, DOCKER._replace(apparmor_label="unconfined"),
     "seccomp filter of an outer", "clone3"),
    ("clone", errno.EACCES, Surroundings(selinux_context="user_u:user_r:user_t:s0"),
     "SELinux domain user_u", "ausearch"),
    ("mount_proc", errno.EPERM, Surroundings(covered_proc=("/proc/kcore",)),
     "the caller's own /proc is partly covered (/proc/kcore)", "hostUsers: false"),
    ("mount_proc", errno.EINVAL, Surroundings(), "kernel before 5.8", "masked"),
    ("root_attributes", errno.ENOSYS, Surroundings(kernel=(5, 10)), "kernel before 5.14", "newer"),
    ("network namespace", errno.ENOSPC, Surroundings(), "sysctl user.max_net_namespaces",
     "sysctl -w user.max_net_namespaces"),
    ("cgroup namespace", errno.EINVAL, Surroundings(), "kernel without cgroup namespaces",
     "shares it"),
    ("write_id_map_helper", errno.EPERM, Surroundings(no_new_privs=True),
     "no_new_privs of the caller", "NoNewPrivileges=no"),
    ("write_id_map_helper", errno.EPERM, Surroundings(), "newuidmap", "/etc/subuid"),
    ("join_session_keyring", errno.EDQUOT, Surroundings(keys_maximum="200"), "quota of keys (200",
     "kernel.keys.maxkeys"),
    ("join_session_keyring", errno.EPERM, DOCKER, "seccomp filter of an outer", "keyctl"),
    ("load_seccomp", errno.EINVAL, Surroundings(), "kernel without seccomp", "CONFIG_SECCOMP"),
    ("landlock_ruleset", errno.EPERM, DOCKER, "seccomp filter of an outer", "landlock_"),
    ("landlock_restrict", errno.ENOSYS, Surroundings(kernel=(5, 10)), "kernel before 5.13",
     "newer"),
]


@pytest.mark.parametrize("operation,number,around,layer,fix", CASES)
def test_the_layer_at_fault_is_named_with_its_least_fix(
    operation: str, number: int, around: Surroundings, layer: str, fix: str
) -> None:
    found = diagnose(Failure(operation, number), around)
    assert layer in found.layer
    assert fix in found.fix


@pytest.mark.parametrize("operation,number,around,layer,fix", CASES)
def test_no_fix_switches_a_protection_off(
    operation: str, number: int, around: Surroundings, layer: str, fix: str
) -> None:
    found = diagnose(Failure(operation, number), around)
    assert not any(bypass in found.fix for bypass in UNSAFE)


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
    absent = not_executable(ExecutorUnusable(errno.ENOENT, "", "/x/hardrun-exec"), Surroundings())
    assert absent.layer == "installation"


def test_the_profile_grants_namespaces_to_one_program() -> None:
    text = apparmor_profile("/opt/a b/hardrun", Surroundings())
    assert 'profile hardrun "/opt/a b/hardrun" flags=(unconfined) {' in text
    assert "  userns,\n" in text


def test_the_profile_is_another_where_unconfined_grants_nothing() -> None:
    text = apparmor_profile("/usr/bin/hardrun", Surroundings(apparmor_restrict_unconfined="1"))
    assert "flags=(default_allow)" in text


def test_the_surroundings_of_this_process_can_be_read() -> None:
    assert Surroundings.read().kernel >= (5, 0)
