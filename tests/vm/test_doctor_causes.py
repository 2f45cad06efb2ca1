"""Causes that only a kernel with AppArmor, SELinux, Debian's switch or cgroup v2 has: for real.

What can be made on any kernel is in tests/sandbox/scenes.py, which says of these where they are.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.pains import BYPASS
from tests.vm.guest import as_root, run_as, sysctl

DOCTOR = ("hardrun", "doctor", "--json")


def doctor(*around: str, user: str = "", environment: dict[str, str] | None = None
           ) -> dict[str, Any]:
    """Doctor's document, for whoever runs the tests or another user."""
    if user:
        done = run_as(user, [*around, *DOCTOR])
    else:
        done = subprocess.run([*around, *DOCTOR], capture_output=True, text=True, check=False,
                              env={**os.environ, **(environment or {})})
    assert done.stdout, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def told(fact: dict[str, Any]) -> tuple[str, str]:
    """Cause and fix, of which none may switch a protection off."""
    assert not BYPASS.search(fact["fix"])
    return fact["cause"], fact["fix"]


@contextmanager
def _undone(*back: Sequence[str]) -> Iterator[None]:
    try:
        yield
    finally:
        for argv in back:
            as_root(*argv)


@pytest.mark.vm("apparmor")
def test_a_profile_like_dockers_lets_the_namespace_be_made_and_no_mount() -> None:
    profile = ("profile like-docker flags=(attach_disconnected) {\n  file, capability, network, "
               "signal, ptrace, unix, umount, pivot_root,\n  deny mount,\n}\n")
    as_root("apparmor_parser", "-r", stdin=profile)
    try:
        found = doctor("aa-exec", "-p", "like-docker", "--")
        assert found["user_namespaces"]["available"]
        cause, fix = told(found["mount_namespace"])
        assert cause == "apparmor-profile"
        assert "'mount,'" in fix
        assert "like-docker" in fix
        assert doctor()["mount_namespace"]["cause"] == ""
    finally:
        as_root("apparmor_parser", "-R", stdin=profile)


@pytest.mark.vm("apparmor")
def test_controllers_that_are_not_delegated_come_with_the_drop_in_that_delegates_them() -> None:
    cause, fix = told(doctor(user="plain")["cgroup"])
    assert cause == "cgroup-not-delegated"
    assert "enable-linger" in fix
    # as systemd delegates by itself, without this machine's drop-in
    scope = ["systemd-run", "--quiet", "--wait", "--pipe", "--uid=plain", "--gid=plain",
             "-p", "Delegate=memory pids", "--", "env", "HOME=/home/plain",
             "PATH=/opt/venv/bin:/usr/bin", *DOCTOR]
    found = json.loads(run_as("root", scope).stdout)
    assert found["cgroup"]["available"]
    assert "not delegated: cpu" in found["cgroup_delegation"]["detail"]
    cause, fix = told(found["cgroup_delegation"])
    assert cause == "cgroup-not-delegated"
    assert "Delegate=cpu cpuset io memory pids" in fix


@pytest.mark.vm("apparmor")
def test_a_home_on_a_network_file_system_is_told(tmp_path: Path) -> None:
    """A server that is gone, as well: whatever is opened there answers ENOTCONN."""
    as_root("modprobe", "fuse")
    mode = as_root("stat", "-c", "%a", "/dev/fuse").strip()
    as_root("chmod", "666", "/dev/fuse")
    with _undone(("chmod", mode, "/dev/fuse")):
        scene = ("exec 3<>/dev/fuse; mount -i -t fuse.sshfs -o fd=3,rootmode=40000,user_id=0,"
                 f"group_id=0 server: {tmp_path}; exec 3>&-; HOME={tmp_path} exec ")
        around = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
        done = subprocess.run([*around, scene + " ".join(DOCTOR)], capture_output=True, text=True,
                              check=False)
        document = json.loads(done.stdout)
        assert told(document["places"]["home"])[0] == "home-in-network"
        assert document["tier"] == "full"
        run = "hardrun run --policy contained -- echo hello"
        refused = subprocess.run([*around, scene + run], capture_output=True, text=True,
                                 check=False)
        assert refused.returncode == 125
        assert "policy.d: can't be read: Transport endpoint is not connected" in refused.stderr
        ran = subprocess.run([*around, f"{scene} env XDG_CONFIG_HOME=/nonexistent {run}"],
                             capture_output=True, text=True, check=False)
        assert (ran.stdout, ran.stderr) == ("hello\n", "")
    assert doctor()["places"]["home"]["cause"] == ""


@pytest.mark.vm("apparmor")
def test_a_policy_that_was_loaded_since_is_not_answered_from_memory(tmp_path: Path) -> None:
    """Doctor remembers faults here too: AppArmor counts the changes of its policy."""
    from hardrun.kernel import lsm

    environment = {"XDG_CACHE_HOME": str(tmp_path)}

    def files() -> set[str]:
        doctor(environment=environment)
        return set(os.listdir(tmp_path / "hardrun/hosts"))

    before, revision = files(), lsm.apparmor_revision()
    assert revision is not None
    assert files() == before
    profile = "profile hardrun-test-revision { file, }\n"
    as_root("apparmor_parser", "-r", stdin=profile)
    try:
        assert lsm.apparmor_revision() != revision
        assert files() > before
    finally:
        as_root("apparmor_parser", "-R", stdin=profile)


@pytest.mark.vm("selinux")
def test_an_selinux_that_only_reports_is_told() -> None:
    assert doctor()["selinux"]["available"]
    as_root("setenforce", "0")
    with _undone(("setenforce", "1")):
        found = doctor()["selinux"]
    assert told(found) == ("selinux-permissive", "as root: setenforce 1")


@pytest.mark.vm("selinux")
def test_a_domain_that_may_make_no_sandbox_is_told() -> None:
    """A type of ours: what runs in a sandbox may make none itself, whatever else would let it."""
    from hardrun.kernel import selinux

    own = selinux.context_of()
    assert own is not None
    inner = str(own._replace(type="hardrun_agent_t"))
    found = doctor("runcon", inner)
    causes = {name: told(fact) for name, fact in found.items()
              if isinstance(fact, dict) and fact.get("cause")}
    assert causes["mount_namespace"][0] == "selinux-domain", found["mount_namespace"]
    assert inner in found["mount_namespace"]["layer"]
    assert inner in found["selinux"]["detail"]  # whether SELinux enforces, this type can't read
    assert "audit2allow" in causes["mount_namespace"][1]


@pytest.mark.vm("bare")
@pytest.mark.parametrize("name,value,cause", [
    ("kernel.unprivileged_userns_clone", "1", "unprivileged-userns-clone"),
    ("user.max_user_namespaces", "10000", "max-user-namespaces")])
def test_each_switch_is_told_by_its_own_name(name: str, value: str, cause: str) -> None:
    """Both are off here: what is told is what refuses first, and with the one the other goes."""
    switches = {"kernel.unprivileged_userns_clone": "1", "user.max_user_namespaces": "10000"}
    others = {other: sysctl(other, on) for other, on in switches.items() if other != name}
    with _undone(*(("sysctl", "-q", f"{other}={before}") for other, before in others.items())):
        found, fix = told(doctor()["user_namespaces"])
        assert found == cause
        assert f"{name} = " in fix
        before = sysctl(name, value)
        with _undone(("sysctl", "-q", f"{name}={before}")):
            assert doctor()["user_namespaces"]["available"]
