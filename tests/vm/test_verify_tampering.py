"""What root or the host changes in a running sandbox is found: limits, labels, who came in."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.vm.groups import PATIENT
from tests.vm.guest import as_root

pytestmark = pytest.mark.vm("apparmor")

LABELLED = """
apiVersion: hardrun/v1
kind: Policy
metadata: {name: labelled, description: A profile that the test loads itself}
within: [untrusted]
bounds: {mandatory: [{apparmor: hardrun-tampered}, refuse]}
"""
PROFILE = "profile hardrun-tampered flags=(attach_disconnected) {{ file, {more} }}"


def load(more: str = "") -> None:
    as_root("apparmor_parser", "-r", stdin=PROFILE.format(more=more))


@contextmanager
def running(*options: str) -> Iterator[int]:
    """A sandbox of a shell that waits; gives the shell's number."""
    process = subprocess.Popen(
        ["hardrun", "run", *PATIENT, *options, "--", "sh", "-c", "echo $$; read x"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip().isdigit()
        yield next(int(p) for p in _children(_children(process.pid)[0]))
    finally:
        process.terminate()
        process.communicate()


def _children(pid: int | str) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def verify(pid: int, *, root: bool = False) -> dict[str, Any]:
    argv = ["hardrun", "verify", "--json", str(pid)]
    text = as_root(*argv, check=False) if root else \
        subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    document: dict[str, Any] = json.loads(text)
    return document


def differing(document: dict[str, Any]) -> dict[int, set[str]]:
    found = {p["pid"]: {c["control"] for c in p["checks"] if c["result"] == "differs"}
             for p in document["processes"]}
    return {pid: controls for pid, controls in found.items() if controls}


def test_a_limit_that_root_raises_is_found() -> None:
    with running() as pid:
        assert verify(pid)["holds"]
        as_root("prlimit", "--pid", str(pid), "--nofile=100000:100000")
        assert differing(verify(pid)) == {pid: {"limits.open_files"}}


def _enter(pid: int, argv: Sequence[str]) -> subprocess.Popen[bytes]:
    entered = subprocess.Popen(
        ["sudo", "-n", "nsenter", "--target", str(pid), "--mount", "--pid", *argv],
        stdout=subprocess.PIPE)
    assert entered.stdout is not None
    assert entered.stdout.readline() == b"in\n"
    return entered


def test_a_process_of_roots_inside_is_found_by_root() -> None:
    with running() as pid:
        entered = _enter(pid, ["sh", "-c", "echo in; exec sleep 600"])
        wrong: dict[int, set[str]] = {}
        try:
            wrong = differing(verify(pid, root=True))
            assert pid not in wrong
            assert any({"membership", "seccomp", "no_new_privs"} <= c for c in wrong.values())
        finally:
            for process in wrong:
                as_root("kill", "-9", str(process), check=False)
            entered.communicate()


def test_root_sees_what_the_user_sees() -> None:
    with running() as pid:
        document = verify(pid, root=True)
        assert differing(document) == {}
        init = document["processes"][0]
        assert {c["control"]: c["result"] for c in init["checks"]}["descriptors"] == "holds"


@pytest.fixture
def labelled(tmp_path: Path) -> Iterator[str]:
    policy = tmp_path / "labelled.yaml"
    policy.write_text(LABELLED)
    policy.chmod(0o644)
    load()
    try:
        yield str(policy)
    finally:
        as_root("apparmor_parser", "-R", stdin=PROFILE.format(more=""))


def test_a_profile_that_is_replaced_by_a_looser_one_is_found(labelled: str) -> None:
    """Name and mode stay what they were: only when it was loaded tells."""
    with running("--policy", labelled) as pid:
        assert differing(verify(pid)) == {}
        load()
        assert differing(verify(pid)) == {}, "the same profile once more changes nothing"
        load("network, capability, ptrace, signal,")
        assert differing(verify(pid)) == {pid: {"mandatory"}}


def test_a_label_that_is_lost_is_found(labelled: str) -> None:
    with running("--policy", labelled) as pid:
        as_root("apparmor_parser", "-R", stdin=PROFILE.format(more=""))
        try:
            assert "mandatory" in differing(verify(pid))[pid]
        finally:
            load()
