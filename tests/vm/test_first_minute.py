"""The first minute of a new user on real hosts: Debian, its users, and Ubuntu's restriction."""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import first_minute
from tests.first_minute import Seen, Shell
from tests.vm.guest import as_root, home, run_as

SWITCH = "apparmor_restrict_unprivileged_userns"
EMULATED = 600.0  # seconds instead of a minute: the machine is ten times as slow
# What Ubuntu's profile of this name takes from a program without one: capabilities, so mounts.
UNPRIVILEGED = """\
abi <abi/3.0>,
profile unprivileged_userns flags=(attach_disconnected) {
  file,
  network,
  unix,
  signal,
  ptrace,
  dbus,
  deny capability,
  deny mount,
  deny pivot_root,
  deny umount,
}
"""
# This kernel has no such switch: a copy of the directory that has it is shown in its place.
FAKED = f"""\
set -e
d=$(mktemp -d)
cp -r /proc/sys/kernel/. $d 2>/dev/null || true
echo 1 > $d/{SWITCH}
chmod -R a+rX $d
mount --bind $d /proc/sys/kernel
"""


def _shell_of(user: str, *around: str) -> Shell:
    project = f"{home(user)}/first"
    as_root("install", "-d", "-o", user, project)
    as_root("sh", "-c", f"cat > {project}/solve.py", stdin=first_minute.SOLVE)

    def type_in(line: str) -> Seen:
        done = run_as(user, [*around, "sh", "-c", line], directory=project)
        return Seen(done.returncode, done.stdout, done.stderr)

    return type_in


@pytest.mark.vm("apparmor")
def test_on_debian() -> None:
    with tempfile.TemporaryDirectory(dir=Path.home()) as directory:
        shell = first_minute.shell_in(Path(directory) / "project", {
            "HOME": str(Path.home()), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
            patience=EMULATED)
        answers = first_minute.play(shell)
    assert set(answers.values()) == {"shown"}, answers


@pytest.mark.vm("apparmor")
def test_as_a_user_without_subordinate_ids() -> None:
    """One who has supplementary groups besides: they can't be dropped, and that is said."""
    as_root("usermod", "-aG", "users", "plain")
    try:
        shell = _shell_of("plain")
        answers = first_minute.play(shell)
        assert set(answers.values()) <= {"shown", "actionable"}, answers
        first = next(line for line in answers if line.startswith("hardrun run"))
        assert answers[first] == "actionable"
        told = shell(first)
        assert "usermod --add-subuids" in told.stderr
        assert "a policy that accepts this: agent, build, contained" in told.stderr
        weaker = first.replace("hardrun run", "hardrun run --policy contained")
        assert shell(weaker).stdout == "45\n"
        # the command that is proposed, as it stands
        command = told.stderr.partition("as root: ")[2].split(";")[0]
        as_root(*shlex.split(command))
        try:
            again = [c for c in first_minute.commands() if c.line == first]
            assert first_minute.play(shell, again) == {first: "shown"}
        finally:
            as_root("sed", "-i", "/^plain:/d", "/etc/subuid", "/etc/subgid")
    finally:
        as_root("gpasswd", "-d", "plain", "users")


@pytest.mark.vm("selinux")
def test_as_a_user_with_ten_groups_and_a_home_elsewhere() -> None:
    answers = first_minute.play(_shell_of("elsewhere"))
    assert set(answers.values()) == {"shown"}, answers


@pytest.fixture
def like_ubuntu() -> Iterator[None]:
    """The switch reads 1, and the profile that Ubuntu puts on such programs is loaded."""
    as_root("apparmor_parser", "-r", stdin=UNPRIVILEGED)
    as_root("sh", "-c", FAKED)
    yield
    as_root("umount", "/proc/sys/kernel")
    as_root("apparmor_parser", "-R", stdin=UNPRIVILEGED)


@pytest.mark.vm("apparmor")
@pytest.mark.usefixtures("like_ubuntu")
def test_where_apparmor_restricts_user_namespaces() -> None:
    shell = _shell_of("elsewhere", "aa-exec", "-p", "unprivileged_userns", "--")
    answers = first_minute.play(shell)
    assert set(answers.values()) <= {"shown", "actionable"}, answers
    assert "actionable" in answers.values()
    told = shell("hardrun run -- true")
    assert SWITCH in told.stderr
    assert "hardrun profile install hardrun" in told.stderr
    found = json.loads(shell("hardrun doctor --json").stdout)
    assert found["mount_namespace"]["cause"] == "apparmor-restricts-userns"


@pytest.mark.vm("apparmor")
@pytest.mark.usefixtures("like_ubuntu")
def test_a_compiled_program_that_apparmor_stops_says_so() -> None:
    """Made while the same label lets it: what a plan depends on is the same then."""
    shell = _shell_of("elsewhere", "aa-exec", "-p", "unprivileged_userns", "--")
    as_root("apparmor_parser", "-r", stdin=UNPRIVILEGED.replace("deny ", ""))
    made = shell("hardrun compile -o program -- echo ran && ./program")
    assert made == Seen(0, "ran\n", "")
    as_root("apparmor_parser", "-r", stdin=UNPRIVILEGED)
    assert first_minute.actionable(told := shell("./program")), told
    assert f"kernel.{SWITCH} is 1" in told.stderr


@pytest.mark.vm("bare")
def test_where_user_namespaces_are_switched_off() -> None:
    shell = _shell_of("elsewhere")
    answers = first_minute.play(shell)
    assert set(answers.values()) <= {"shown", "actionable"}, answers
    found = json.loads(shell("hardrun doctor --json").stdout)
    assert found["user_namespaces"]["cause"] in ("max-user-namespaces",
                                                 "unprivileged-userns-clone")
