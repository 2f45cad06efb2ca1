"""Supplementary groups are dropped for real, where the user has some (CVE-2018-7169, US-02).

A user namespace with one id and setgroups denied keeps them: a file of mode 0040 that belongs to
one of them stays readable, and so does the engine's socket for whoever is in the group docker.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hardrun

pytestmark = [
    pytest.mark.skipif(not set(os.getgroups()) - {os.getgid()},
                       reason="this user has no supplementary groups to drop"),
    pytest.mark.skipif(shutil.which("newgidmap") is None, reason="newgidmap is not installed"),
]


def groups_inside(policy: str, **options: object) -> list[str]:
    """The kernel's word on the groups of a process in the sandbox, but for its primary one."""
    result = hardrun.run(["grep", "^Groups:", "/proc/self/status"], policy=policy,
                         capture_output=True, text=True, **options)  # type: ignore[call-overload]
    groups = str(result.stdout).removeprefix("Groups:").split()
    return [group for group in groups if int(group) != os.getgid()]


def test_the_primary_group_is_one_of_them() -> None:
    """Who changes the gid stays held to what a file refuses that group (CVE-2022-36109, US-03)."""
    result = hardrun.run(["id", "-G"], capture_output=True, text=True)
    status = hardrun.run(["grep", "^Groups:", "/proc/self/status"], capture_output=True, text=True)
    assert str(status.stdout).split()[1:] == [str(os.getgid())] == str(result.stdout).split()


@pytest.mark.parametrize("policy", ["untrusted", "judge", "agent", "build", "contained"])
def test_no_supplementary_group_comes_along(policy: str) -> None:
    assert groups_inside(policy) == []


def test_they_do_come_along_where_a_policy_lets_them(tmp_path: Path) -> None:
    """The negative control: without the defence the kernel shows them, unmapped."""
    (tmp_path / "inherit.yaml").write_text("""\
apiVersion: hardrun/v1
kind: Policy
metadata: {name: inherit}
bounds:
  network: none
  capabilities: []
  seccomp: untrusted
  no_new_privs: true
  filesystem: {visible: [/usr, /etc/ld.so.cache], readable: [], writable: []}
  environment: {inherit: [PATH]}
defaults:
  ids: {supplementary_groups: inherit}
danger:
  - grant: {ids: {supplementary_groups: inherit}}
    reason: the control of this test
""")
    assert "65534" in groups_inside(str(tmp_path / "inherit.yaml"))


def test_the_decision_says_which_programs_dropped_them() -> None:
    decision = hardrun.explain(["true"])
    control = decision.control("ids.supplementary_groups")
    assert control.value == "drop"
    assert control.enforcement.kind == "enforced"
    assert "newgidmap" in " ".join(control.enforcement.by)


def test_a_user_whose_helpers_are_gone_is_refused_and_told_the_fix(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail closed: ``untrusted`` doesn't run with the groups when they can't be dropped."""
    monkeypatch.setattr("hardrun.host.probe._HELPER_DIRECTORIES", ("/nowhere",))
    with pytest.raises(hardrun.HostUnsupported, match="supplementary") as caught:
        hardrun.run(["true"])
    assert "uidmap" in str(caught.value.hint)


@pytest.mark.skipif(len(set(os.getgroups()) - {os.getgid()}) < 2, reason="one group alone")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")
def test_groups_that_look_alike_in_a_namespace_make_no_plan_stale(tmp_path: Path) -> None:
    """In a container of its own user every group that is not mapped is the same one (65534)."""
    program = tmp_path / "program"
    hardrun = f"{sys.executable} -P -m hardrun"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c",
         f"{hardrun} compile --policy contained -o {program} -- echo ran && {program}"],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
    assert (done.stdout, done.stderr) == ("ran\n", "")
