"""--toolchain grants the trees that one program needs and nothing beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hardrun.errors import BadInput, CommandNotFound
from hardrun.workload.toolchain import interpreter_of, resolve, walk


def program(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def resolved(home: Path, command: str, *search: Path) -> tuple[list[str], dict[str, str]]:
    found = resolve(command, search_path=":".join(map(str, search)), home=str(home),
                    directory=str(home))
    return ([os.path.relpath(path, home) for path in found.paths],
            {os.path.relpath(path, home): target for path, target in found.links.items()})


def test_uv_a_link_in_local_bin_grants_the_interpreters_tree_and_the_link_alone(
        tmp_path: Path) -> None:
    real = program(tmp_path / ".local/share/uv/python/cpython-3.12.4/bin/python3.12")
    minor = tmp_path / ".local/share/uv/python/cpython-3.12"
    minor.symlink_to("cpython-3.12.4")
    (tmp_path / ".local/bin").mkdir()
    (tmp_path / ".local/bin/python3.12").symlink_to(minor / "bin/python3.12")
    paths, links = resolved(tmp_path, "python3.12", tmp_path / ".local/bin")
    assert paths == [os.path.relpath(real.parent.parent, tmp_path)]
    assert set(links) == {".local/bin/python3.12", ".local/share/uv/python/cpython-3.12"}


def test_a_virtual_environment_brings_the_python_that_it_was_made_from(tmp_path: Path) -> None:
    base = program(tmp_path / "python/bin/python3")
    program(tmp_path / "project/.venv/bin/tool", f"#!{tmp_path}/project/.venv/bin/python\n")
    (tmp_path / "project/.venv/bin/python").symlink_to(base)
    (tmp_path / "project/.venv/pyvenv.cfg").write_text(f"home = {base.parent}\nversion = 3\n")
    paths, _ = resolved(tmp_path, "tool", tmp_path / "project/.venv/bin")
    assert paths == ["project/.venv", "python"]


def test_pyenv_shims_bring_pyenv(tmp_path: Path) -> None:
    program(tmp_path / ".pyenv/shims/python3", "#!/usr/bin/env bash\n")
    assert resolved(tmp_path, "python3", tmp_path / ".pyenv/shims")[0] == [".pyenv"]


def test_nvm_brings_one_version(tmp_path: Path) -> None:
    program(tmp_path / ".nvm/versions/node/v20/bin/node")
    program(tmp_path / ".nvm/versions/node/v18/bin/node")
    paths, _ = resolved(tmp_path, "node", tmp_path / ".nvm/versions/node/v20/bin")
    assert paths == [".nvm/versions/node/v20"]


def test_credentials_beside_a_bin_directory_stay_unseen(tmp_path: Path) -> None:
    program(tmp_path / ".cargo/bin/cargo")
    (tmp_path / ".cargo/credentials.toml").write_text("token")
    assert resolved(tmp_path, "cargo", tmp_path / ".cargo/bin")[0] == [".cargo/bin"]


def test_a_script_in_local_bin_is_granted_alone(tmp_path: Path) -> None:
    program(tmp_path / ".local/bin/tool", "#!/bin/sh\n")
    assert resolved(tmp_path, "tool", tmp_path / ".local/bin")[0] == [".local/bin/tool"]


def test_a_program_of_the_system_needs_nothing(tmp_path: Path) -> None:
    assert resolve("env", search_path="/usr/bin", home=str(tmp_path),
                   directory="/") == ((), {})


def test_an_unknown_command_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(CommandNotFound, match="--toolchain nothing"):
        resolved(tmp_path, "nothing", tmp_path)


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(BadInput, match="too many symbolic links"):
        list(walk(str(tmp_path / "a")))


@pytest.mark.parametrize("text, words", [
    ("#!/bin/sh\n", ["/bin/sh"]),
    ("#! /usr/bin/env -S python3 -I\nx", ["/usr/bin/env", "-S python3 -I"]),
    ("plain", []),
    ("", []),
])
def test_the_interpreter_line_is_split_as_the_kernel_does(tmp_path: Path, text: str,
                                                          words: list[str]) -> None:
    assert interpreter_of(str(program(tmp_path / "script", text))) == words
