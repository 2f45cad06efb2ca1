"""The first minute of a new user, on this host and on odd ones made of it."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from hardrun.host.probe import probe
from tests import first_minute
from tests.first_minute import Seen, Shell
from tests.sandbox.containers import RUNC, Container
from tests.sandbox.hosts import ROOT, UNSHARE_ROOT, Host

# Ubuntu's restriction: namespaces can be made, and what is done in them is refused with EACCES.
RESTRICTED = ("fsopen", "move_mount", "pivot_root", "sethostname")
SWITCH = "apparmor_restrict_unprivileged_userns"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def shell(home: Path, tmp_path: Path) -> Shell:
    programs = first_minute.installed(tmp_path / "bin")
    return first_minute.shell_in(home / "project", first_minute.environment(home, programs))


def _ubuntu(home: Path, programs: Path, refused: Sequence[str] = RESTRICTED) -> Shell:
    """A shell where Ubuntu's switch is set, and the kernel refuses as AppArmor does there."""
    copy = shlex.quote(str(home.parent / "kernel"))
    script = (
        f"set -e; mkdir -p {copy}; cp -r /proc/sys/kernel/. {copy} 2>/dev/null || true; "
        f"echo 1 > {copy}/{SWITCH}; mount --bind {copy} /proc/sys/kernel; exec \"$@\"")
    faked = [word for name in refused for word in ("--errno", f"{name}=EACCES")]
    variables = first_minute.environment(home, programs)
    return first_minute.shell_in(
        home / "project", variables, *UNSHARE_ROOT, "sh", "-c", script, "sh",
        "env", "-C", str(ROOT), sys.executable, "-m", "tests.fake_kernel", *faked,
        "--", "env", "-C", str(home / "project"))


def test_the_commands_are_there() -> None:
    typed = [command.word for command in first_minute.commands()]
    assert typed[0] == "hardrun demo"
    assert {"hardrun run", "hardrun compile", "hardrun explain", "hardrun why"} <= set(typed)


@pytest.mark.slow
def test_on_this_host_everything_is_as_readme_shows(shell: Shell) -> None:
    if probe().tier != "full":
        pytest.skip("this host lacks something: hardrun doctor")
    assert set(first_minute.play(shell).values()) == {"shown"}


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")
def test_on_a_host_restricted_like_ubuntu(home: Path, tmp_path: Path) -> None:
    shell = _ubuntu(home, first_minute.installed(tmp_path / "bin"))
    answers = first_minute.play(shell)
    assert set(answers.values()) <= {"shown", "actionable"}
    told = shell("hardrun run --policy contained -- true")
    assert first_minute.actionable(told)
    assert SWITCH in told.stderr
    assert "profile" in told.stderr


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")
def test_a_compiled_program_says_what_helps_where_it_is_restricted(home: Path, tmp_path: Path
                                                                   ) -> None:
    programs = first_minute.installed(tmp_path / "bin")
    free = _ubuntu(home, programs, refused=())
    made = free("hardrun compile --policy contained -o program -- echo ran")
    assert made.status == 0, made
    assert free("./program") == Seen(0, "ran\n", "")
    told = _ubuntu(home, programs)("./program")
    assert first_minute.actionable(told), told
    assert told.status == 125
    assert SWITCH in told.stderr
    assert "'userns,'" in told.stderr


@pytest.mark.skipif(RUNC is None, reason="needs runc")
def test_in_an_unprivileged_container(home: Path, tmp_path: Path) -> None:
    host = Host(tmp_path / "inside")
    (host.directory / "solve.py").write_text(first_minute.SOLVE)
    programs = first_minute.installed(host.home / "bin")
    host.environment["PATH"] = f"{programs}:{host.environment['PATH']}"
    container = Container(tmp_path / "bundle")

    def shell(line: str) -> Seen:
        return Seen(*container(host, line))

    assert set(first_minute.play(shell).values()) <= {"shown", "actionable"}
    assert shlex.split(first_minute.commands()[1].line)[0] == "hardrun"
