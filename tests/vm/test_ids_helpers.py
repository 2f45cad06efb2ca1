"""Id ranges on a machine whose root takes away what they need, and for a user who has none."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.installed import HARDRUN
from tests.vm.guest import as_root, run_as

pytestmark = pytest.mark.vm("apparmor")
RUN = ("hardrun", "run", "--userns", "auto", "--", "true")


@contextmanager
def changed(*argv: str, back: tuple[str, ...]) -> Iterator[None]:
    as_root(*argv)
    try:
        yield
    finally:
        as_root(*back)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line that says what is wrong and one that says what to do."""
    assert done.returncode == 125, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    for word in words:
        assert word in done.stderr


def run() -> subprocess.CompletedProcess[str]:
    return subprocess.run([HARDRUN, *RUN[1:]], capture_output=True,
                          text=True, check=False)


def test_a_user_without_subordinate_ids_is_told_how_to_get_some() -> None:
    refused(run_as("plain", RUN), "ids.range", "no range for plain alone", "usermod")
    assert run_as("plain", ["hardrun", "run", "--", "true"]).returncode == 0


def test_helpers_that_lost_their_privilege_are_named() -> None:
    assert run().returncode == 0
    helper = "/usr/bin/newuidmap"
    with changed("chmod", "u-s", helper, back=("chmod", "u+s", helper)):
        refused(run(), f"{helper} lost its file capabilities and is not setuid", "uidmap")
    with changed("mv", helper, f"{helper}.away", back=("mv", f"{helper}.away", helper)):
        refused(run(), "newuidmap is not in", "uidmap")
    assert run().returncode == 0


def test_a_compiled_program_is_stale_when_the_ranges_or_helpers_change(tmp_path: Path) -> None:
    """To drop the caller's groups it needs newgidmap and a subordinate id."""
    program = tmp_path / "program"
    subprocess.run([HARDRUN, "compile", "-o", str(program), "--", "true"],
                   check=True)
    assert subprocess.run([program], check=False).returncode == 0
    for change, back in ((("chmod", "u-s", "/usr/bin/newgidmap"), ("chmod", "u+s")),
                         (("touch", "/etc/subgid"), ("true",))):
        with changed(*change, back=(*back, change[-1])):
            done = subprocess.run([program], capture_output=True, text=True, check=False)
            assert done.returncode == 125
            assert "stale" in done.stderr
            assert change[-1] in done.stderr
        subprocess.run([HARDRUN, "compile", "-o", str(program), "--",
                        "true"], check=True)
