"""The command is found in the view, or it is told which flag would show it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardrun.errors import BadInput, CommandNotExecutable, CommandNotFound
from hardrun.plan.lookup import elf_interpreter
from tests.planning import named, plan


def program(path: Path, text: str = "#!/bin/sh\n", mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_command_is_found_along_the_path() -> None:
    assert named(plan("env"), "execute")[0].values == ("/usr/bin/env", "")


def test_a_command_outside_the_view_is_127_and_names_the_flag(tmp_path: Path) -> None:
    tool = program(tmp_path / "tools/tool")
    with pytest.raises(CommandNotFound) as caught:
        plan(str(tool))
    assert str(tool) in caught.value.message
    assert caught.value.hint == f"--ro {tool}"
    assert caught.value.exit_code == 127


def test_a_command_of_the_path_outside_the_view_hints_at_the_toolchain(tmp_path: Path) -> None:
    program(tmp_path / "bin/tool")
    with pytest.raises(CommandNotFound) as caught:
        plan("tool", caller_environment={"PATH": f"{tmp_path}/bin:/usr/bin"})
    assert caught.value.hint == "--toolchain tool"


def test_a_command_of_a_virtual_environment_hints_at_it(tmp_path: Path) -> None:
    program(tmp_path / ".venv/bin/tool")
    (tmp_path / ".venv/pyvenv.cfg").write_text("home = /usr/bin\n")
    with pytest.raises(CommandNotFound) as caught:
        plan("tool", caller_environment={"PATH": f"{tmp_path}/.venv/bin"})
    assert caught.value.hint == f"--ro {tmp_path}/.venv"


def test_a_command_that_nobody_has_says_where_was_looked() -> None:
    with pytest.raises(CommandNotFound, match="/usr/bin"):
        plan("no-such-command-anywhere")


def test_a_script_whose_interpreter_is_outside_names_the_interpreter(tmp_path: Path) -> None:
    interpreter = program(tmp_path / "other/python")
    script = program(tmp_path / "project/run", f"#!{interpreter} -I\n")
    with pytest.raises(CommandNotFound, match=str(interpreter)):
        plan(str(script), ro=[str(script.parent)])


def test_a_script_started_by_env_needs_what_env_looks_for(tmp_path: Path) -> None:
    script = program(tmp_path / "run", "#!/usr/bin/env no-such-language\n")
    with pytest.raises(CommandNotFound, match="no-such-language"):
        plan(str(script), ro=[str(tmp_path)])


def test_a_virtual_environment_whose_python_is_outside_says_so(tmp_path: Path) -> None:
    base = program(tmp_path / "base/bin/python3")
    venv = tmp_path / "project/.venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to(base)
    (venv / "pyvenv.cfg").write_text(f"home = {base.parent}\n")
    with pytest.raises(CommandNotFound, match=str(tmp_path / "base")) as caught:
        plan(str(venv / "bin/python"), ro=[str(tmp_path / "project")])
    assert caught.value.hint == f"--toolchain {venv}/bin/python"


def test_a_file_that_is_no_program_is_126(tmp_path: Path) -> None:
    program(tmp_path / "data", mode=0o644)
    with pytest.raises(CommandNotExecutable, match="permission denied"):
        plan(str(tmp_path / "data"), ro=[str(tmp_path)])
    with pytest.raises(CommandNotExecutable, match="not a regular file"):
        plan(str(tmp_path), ro=[str(tmp_path)])


def test_the_loader_of_a_dynamic_program_is_read_from_its_header() -> None:
    assert elf_interpreter("/usr/bin/env").startswith("/lib")
    assert elf_interpreter("/etc/passwd") == ""


def test_a_run_starts_in_the_callers_directory_when_it_is_granted_else_at_home(
        tmp_path: Path) -> None:
    def start(**flags: object) -> str:
        planned = plan(caller_directory=str(tmp_path), **flags)  # type: ignore[arg-type]
        return str(named(planned, "change_directory")[0].values[0])

    assert start(rw=["."]) == str(tmp_path)
    assert start() == "/home/tester"
    assert start(workdir="/usr") == "/usr"


def test_a_working_directory_outside_the_view_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--workdir") as caught:
        plan(workdir=str(tmp_path))
    assert caught.value.hint == f"--rw {tmp_path}"


def test_a_grant_below_the_callers_directory_is_enough_to_start_there(tmp_path: Path) -> None:
    program(tmp_path / "sub/tool")
    planned = plan("sub/tool", caller_directory=str(tmp_path), ro=["sub"])
    assert named(planned, "change_directory")[0].values == (str(tmp_path),)
    assert named(planned, "argument")[0].values == ("sub/tool",)


def test_a_relative_command_is_the_callers_wherever_it_starts(tmp_path: Path) -> None:
    program(tmp_path / "sub/tool")
    (tmp_path / "elsewhere").mkdir()
    planned = plan("../sub/tool", caller_directory=str(tmp_path / "elsewhere"), ro=["../sub"])
    assert named(planned, "change_directory")[0].values == ("/home/tester",)
    assert named(planned, "execute")[0].values[0] == f"{tmp_path}/sub/tool"
    assert named(planned, "argument")[0].values == (f"{tmp_path}/sub/tool",)
    with pytest.raises(CommandNotFound, match="not in the sandbox's view"):
        plan("sub/tool", caller_directory=str(tmp_path))
