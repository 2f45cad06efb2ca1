"""The comparison with bubblewrap and podman works; ``make escape-peers`` makes all of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.escape import peers
from tests.escape.attacks import Attack
from tests.escape.probe import call
from tests.escape.properties import write
from tests.escape.registry import ATTACKS
from tests.sandbox.containers import PODMAN, RUNC, Podman

FEW = [attack for attack in ATTACKS if attack.id in ("FS-17 mount", "FS-17 chroot")]
PID_1 = Attack(property="US-05", name="of PID 1", layers=(), steps=(call("ptrace", 0x4206, 1),))
A_DEVICE = Attack(property="DV-01", name="a device", layers=(), options={"devices": ["tty"]},
                  steps=(call("getpid"),))


def test_hardrun_holds(probe: Path, tmp_path: Path) -> None:
    table = peers.measure([peers.hardrun(probe, tmp_path)], FEW)
    assert {str(cells[0]) for cells in table.values()} == {"EPERM (holds)"}


@pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
def test_bubblewrap_without_a_filter_lets_a_call_through(probe: Path, tmp_path: Path) -> None:
    """What works there works in the comparison: the probe is really inside, and is asked."""
    wrapped = peers.bubblewrap(probe, tmp_path)
    assert wrapped is not None
    table = peers.measure([wrapped], [*FEW, A_DEVICE])
    assert str(table["FS-17 chroot"][0]) == "ENOENT (works)"
    assert str(table["FS-17 mount"][0]) == "EPERM (holds)"
    assert str(table["DV-01 a device"][0]) == peers.NOT_COMPARABLE


@pytest.mark.skipif(not (PODMAN and RUNC), reason="podman, runc or newuidmap is not installed")
def test_podman_answers(probe: Path, tmp_path: Path) -> None:
    (tmp_path / "podman").mkdir()
    with Podman(tmp_path / "podman") as container:
        table = peers.measure([peers.podman(probe, container)], [*FEW[:1], PID_1])
    assert str(table["FS-17 mount"][0]) == "EPERM (holds)"
    assert str(table["US-05 of PID 1"][0]) == peers.NOT_COMPARABLE


def test_the_page_is_written_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: peers -->\nold\n<!-- end -->\nafter\n")
    peer = peers.Peer("one", "`one --flag`", "nothing", lambda _: None)
    write(page, "peers", peers.lines_of([peer], {"FS-17 mount": [peers.Cell("EPERM", "holds")]}))
    text = page.read_text()
    assert text.startswith("before\n<!-- measured: peers -->\n")
    assert "| FS-17 | mount | EPERM (holds) |\n<!-- end -->\nafter" in text
    assert "| holds | 1 |" in text
