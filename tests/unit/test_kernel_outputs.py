"""Files that are written where somebody else may have planted a symlink."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from hardrun.kernel.outputs import open_output, write_output
from tests.installed import HARDRUN

WRITE = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def test_a_planted_symlink_is_not_followed(tmp_path: Path) -> None:
    victim, planted = tmp_path / "profile", tmp_path / "out.log"
    victim.write_text("mine\n")
    for target in (victim, tmp_path / "not there yet"):
        planted.symlink_to(target)
        with pytest.raises(OSError, match="name the file itself") as refused:
            write_output(str(planted), b"theirs\n")
        assert refused.value.errno == errno.ELOOP
        planted.unlink()
    assert victim.read_text() == "mine\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["profile"]


def test_files_and_links_of_the_system_are_written(tmp_path: Path) -> None:
    path = str(tmp_path / "new")
    write_output(path, b"first\n")
    write_output(path, b"2\n")
    os.close(open_output("/dev/null", WRITE, 0o600))
    reading, writing = os.pipe()
    saved = os.dup(1)
    os.dup2(writing, 1)
    try:
        os.write(descriptor := open_output("/dev/stdout", WRITE, 0o600), b"here")
        os.close(descriptor)
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(writing)
    assert os.read(reading, 100) == b"here"
    os.close(reading)
    assert Path(path).read_bytes() == b"2\n"


@pytest.mark.parametrize("words", [
    ("run", "--report", "out"), ("run", "--name", "planted", "-d", "--log", "out")])
def test_no_report_and_no_log_goes_through_one(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "profile").write_text("mine\n")
    (tmp_path / "out").symlink_to("profile")
    done = subprocess.run([HARDRUN, *words, "--", "echo", "theirs"], cwd=tmp_path, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 125
    assert f"{words[-2]} out: it is a symlink" in done.stderr
    assert (tmp_path / "profile").read_text() == "mine\n"
