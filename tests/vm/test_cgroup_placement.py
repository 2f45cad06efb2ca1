"""Where a sandbox is put: read from /proc before its first instruction, held to, and taken away."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.raw import Program
from tests.sandbox.test_cgroup_bus import (
    a_bus,
    job_removed,
    pids_of,
    refusal,
    scope,
    until_it_hangs_up,
)
from tests.vm.groups import DIRECT, ROOT, Held, members, none_left

pytestmark = pytest.mark.vm("selinux")
GATE = """
import json, os, pathlib, sys
from hardrun.executor import start
from hardrun.request import decide
def look(pid):
    group = pathlib.Path("/sys/fs/cgroup" + open(f"/proc/{pid}/cgroup").read().strip()[3:])
    inside = (group / "cgroup.procs").read_text().split()
    print(json.dumps([str(group), str(pid) in inside, os.readlink(f"/proc/{pid}/exe"),
                      (group / "memory.max").read_text().strip()]))
request = decide(["true"], limits={"memory": "64M"}, cgroup_parent=sys.argv[1] or None)
start.run(start.Program.of(request), [], at_gate=look)
"""


@pytest.fixture(autouse=True)
def _no_group_left() -> Iterator[None]:
    yield
    none_left()


@pytest.mark.parametrize("around, parent, placed", [
    pytest.param((), "", r"/hardrun-[0-9a-f]{16}\.scope/hardrun-[0-9]+$", id="by systemd"),
    pytest.param(DIRECT, ".", r"/run-[^/]+\.scope/hardrun-[0-9]+$", id="written directly")])
def test_at_the_gate_the_command_is_in_the_group_that_was_promised(
        around: tuple[str, ...], parent: str, placed: str) -> None:
    done = subprocess.run([*around, sys.executable, "-c", GATE, parent], capture_output=True,
                          text=True, timeout=100, stdin=subprocess.DEVNULL)
    group, inside, program, limit = json.loads(done.stdout)
    assert re.search(placed, group)
    assert (inside, program, limit) == (True, os.path.realpath("/usr/bin/true"), str(64 << 20))


def test_a_scope_that_is_somewhere_else_is_refused(executor: Path, tmp_path: Path) -> None:
    """A bus that moves the processes, says that all is done, and has put them where it likes."""
    own = ROOT / Path("/proc/self/cgroup").read_text().strip().removeprefix("0::/")
    decoy = own / "decoy.scope"
    decoy.mkdir()
    moved: list[list[int]] = []

    def serve(caller: socket.socket, asked: bytes) -> None:
        for pid in pids_of(asked):
            (decoy / "cgroup.procs").write_text(str(pid))
        moved.append(members(decoy))
        caller.sendall(b"OK 1\r\n" + job_removed(asked, "done"))
        until_it_hangs_up(caller, asked)

    try:
        with a_bus(tmp_path / "bus", serve):
            done = Program(executor, tmp_path).run(["echo", "ran"], scope(tmp_path / "bus"))
        assert "not moved by systemd: EXDEV" in refusal(done)
        assert [len(pids) for pids in moved] == [2]
    finally:
        decoy.rmdir()


def _scope(held: Held) -> str:
    return held.group.parent.name


def test_a_scope_that_is_stopped_ends_its_sandbox() -> None:
    """systemd ends every process of it, and takes the groups away."""
    with Held("--memory", "64M") as held:
        subprocess.run(["systemctl", "--user", "stop", _scope(held)], check=True, timeout=100)
        assert held.process.wait(60) == 128 + signal.SIGTERM


def test_a_group_that_is_killed_and_removed_ends_the_sandbox_that_it_limited() -> None:
    """By its user, while the parent can do nothing: what is gone is not waited for."""
    with Held("--memory", "64M") as held:
        group, pids = held.group, held.members
        held.process.send_signal(signal.SIGSTOP)
        (group / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + 60
        while members(group) and time.monotonic() < deadline:
            time.sleep(0.1)
        group.rmdir()
        assert len(pids) == 2
        held.process.send_signal(signal.SIGCONT)
        assert held.process.wait(60) == 128 + signal.SIGKILL


def test_a_delegated_parent_that_goes_between_decision_and_start_is_refused(tmp_path: Path) -> None:
    """The program has its name: it makes none anew, and runs nowhere else."""
    program = str(tmp_path / "program")
    script = ('own=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); mkdir $own/manager $own/boxes; '
              'echo $$ > $own/manager/cgroup.procs; echo +pids > $own/cgroup.subtree_control; '
              f'hardrun compile --cgroup-parent $own/boxes --pids 20 -o {program} -- echo ran; '
              f'{program}; rmdir $own/boxes; {program}; echo $?')
    done = subprocess.run([*DIRECT, "sh", "-c", script], capture_output=True, text=True,
                          timeout=200, stdin=subprocess.DEVNULL)
    assert done.stdout == "ran\n125\n", done.stderr
    assert re.search(r"^hardrun: make a cgroup below .*/boxes: open: ENOENT", done.stderr, re.M)
