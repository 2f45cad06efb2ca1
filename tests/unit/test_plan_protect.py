"""What is looked for beneath a writable grant because something outside runs it later."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from hardrun.errors import BadInput
from hardrun.plan import protect

NAMES = (".git/hooks", ".git/config", ".envrc", ".vscode", "conf/*.rc")


def found(directory: Path, names: Sequence[str] = NAMES) -> set[str]:
    return {os.path.relpath(path, directory)
            for path in protect.find_protected(str(directory), names)}


def file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


def test_a_name_is_found_at_any_depth_and_nothing_beneath_it_is_listed(tmp_path: Path) -> None:
    for name in (".git/hooks/pre-commit", "a/b/.git/config", "a/.envrc", "conf/x.rc", "hooks/x"):
        file(tmp_path / name)
    assert found(tmp_path) == {".git/hooks", "a/b/.git/config", "a/.envrc", "conf/x.rc"}


def test_upper_and_lower_case_are_one_name(tmp_path: Path) -> None:
    file(tmp_path / "a/.GIT/Hooks/x")
    assert found(tmp_path) == {"a/.GIT/Hooks"}


def test_a_symlink_protects_what_it_leads_to(tmp_path: Path) -> None:
    file(tmp_path / "shared/envrc")
    (tmp_path / ".envrc").symlink_to("shared/envrc")
    assert found(tmp_path) == {".envrc", "shared/envrc"}


def test_a_hook_that_is_a_symlink_protects_the_script(tmp_path: Path) -> None:
    file(tmp_path / "scripts/check")
    (tmp_path / ".git/hooks").mkdir(parents=True)
    (tmp_path / ".git/hooks/pre-commit").symlink_to("../../scripts/check")
    assert found(tmp_path) == {".git/hooks", "scripts/check"}


def test_a_git_directory_under_another_name_is_protected_behind_its_symlink(tmp_path: Path) -> None:
    for name in ("store/hooks/x", "store/config", "store/HEAD"):
        file(tmp_path / name)
    (tmp_path / "work").mkdir()
    (tmp_path / "work/.git").symlink_to("../store")
    assert found(tmp_path) == {"work/.git", "store/hooks", "store/config"}


def test_a_git_file_says_where_hooks_are_taken_from_and_is_protected(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: ../elsewhere\n")
    assert found(tmp_path) == {".git"}


@pytest.mark.parametrize("target", ["/etc", ".", "nowhere", ".vscode", ".."])
def test_a_symlink_that_leads_to_nothing_of_the_grant_protects_itself_alone(
        tmp_path: Path, target: str) -> None:
    directory = tmp_path / "grant"
    directory.mkdir()
    (directory / ".vscode").symlink_to(target)
    assert found(directory) == {".vscode"}


def test_what_can_not_all_be_looked_at_is_an_error(tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protect, "MAXIMUM_ENTRIES", 3)
    for number in range(4):
        file(tmp_path / f".vscode/{number}")
    with pytest.raises(BadInput):
        found(tmp_path)
