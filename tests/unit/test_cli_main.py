"""The command line's own answers: help, mistakes in one line, exit statuses, cheap imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hardrun.cli import main
from hardrun.errors import HardrunError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("words, line, hint", [
    (["run"], "no command given", "hardrun run [options] -- COMMAND ARGUMENT..."),
    (["run", "--"], "there is no command after --", "hardrun run [options] -- COMMAND ARGUMENT..."),
    (["run", "--", ""], "there is no command after --",
     "hardrun run [options] -- COMMAND ARGUMENT..."),
    (["run", "ls", "-l"], "the command must stand after --: ls", "hardrun run [options] -- ls -l"),
    (["explain", "--memory", "1G"], "no command given",
     "hardrun explain [options] -- COMMAND ARGUMENT..."),
    (["run", "--memory"], "Option '--memory' requires an argument.", "hardrun --help"),
    (["compile", "--", "ls"], "Missing option '-o' / '--output'.", "hardrun compile --help"),
    (["rum"], "No such command 'rum'.", "hardrun --help"),
])
def test_a_mistake_is_one_line_a_hint_and_125(words: list[str], line: str, hint: str,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(words) == 125
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"hardrun: {line}\n  hint: {hint}\n")


def test_a_misspelt_option_is_answered_with_the_right_one(
        capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["run", "--memroy", "1G", "--", "ls"]) == 125
    assert "'--memory'" in capsys.readouterr().err


def test_an_option_of_the_command_is_not_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["explain", "--memory", "no size", "--", "ls", "--debug", "--bad"]) == 125
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "--bad" not in err


@pytest.mark.parametrize("words", [["--debug", "run"], ["run", "--debug"]])
def test_debug_shows_the_traceback(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(words) == 125
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(words) == 0
    out = capsys.readouterr().out
    for name in main.COMMANDS:
        assert f"\n  {name} " in out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    import hardrun

    assert main.main(["--version"]) == 0
    assert hardrun.__version__ in capsys.readouterr().out
    assert f'version = "{hardrun.__version__}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", ["run", "explain", "compile"])
def test_the_three_commands_share_their_options(name: str,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    for flag in ("--policy", "--trust", "--label", "--rootfs", "--ro", "--rw", "--tmpfs",
                 "--toolchain", "--workdir", "--env", "--user", "--hostname", "--network",
                 "--memory", "--cpus", "--pids", "--cpu-time", "--stack", "--output-limit",
                 "--timeout", "-i", "-t"):
        assert f" {flag}" in out


def test_a_mistake_of_ours_is_one_line_too(monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(main.group, "main", broken)
    assert main.main(["run"]) == HardrunError.exit_code
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "hardrun: internal error: ZeroDivisionError: division; by zero"
    assert len(err) == 2


def modules_after(statement: str) -> set[str]:
    script = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True,
                         env={"PYTHONPATH": str(ROOT), "HOME": "/nonexistent"})
    return set(run.stdout.split())


def test_importing_hardrun_imports_nothing_else() -> None:
    assert {name for name in modules_after("import hardrun") if name.startswith("hardrun")} == {
        "hardrun"}


def test_public_names_are_there() -> None:
    import hardrun

    assert set(hardrun.__all__) == set(hardrun._HOMES)
    for name in hardrun.__all__:
        assert getattr(hardrun, name).__name__ == name
    with pytest.raises(AttributeError):
        hardrun.no_such_name  # noqa: B018
