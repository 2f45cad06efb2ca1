"""What takes others long is done beside the child's set-up: shown by the order of events, not time.

Whoever is asked answers only when the child has come on: an executor that first waited for the
answer would never get one.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from hardrun.executor.image import executor_path
from hardrun.host import trial
from hardrun.host.attempt import Attempt
from hardrun.host.probe import probe
from tests.escape.calls import Start, parsed
from tests.sandbox.raw import Program, operation
from tests.sandbox.test_cgroup_bus import a_bus, job_removed, refusal, scope, until_it_hangs_up

PATIENCE = 20.0  # seconds; an executor that waits for the answer would use them all
HELPER = """#!/bin/sh
# newuidmap PID ...: what namespaces has it while nobody has mapped its ids?
exec >{seen} 2>&1
for i in $(seq 200); do
	[ "$(readlink /proc/$1/ns/mnt)" = "$(readlink /proc/self/ns/mnt)" ] || break
	sleep 0.1
done
cat /proc/$1/uid_map
readlink /proc/$1/ns/mnt
exit 3
"""


def appears(text: bytes, log: Path) -> bool:
    deadline = time.monotonic() + PATIENCE
    while text not in log.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.02)
    return text in log.read_bytes()


def test_pid_1_has_built_its_view_before_systemd_has_answered(executor: Path, tmp_path: Path
                                                             ) -> None:
    program, log = Program(executor, tmp_path), tmp_path / "calls"
    log.touch()
    built: list[bool] = []

    def serve(caller: socket.socket, asked: bytes) -> None:
        built.append(appears(b"pivot_root(", log))
        caller.sendall(b"OK 1\r\n" + job_removed(asked, "done"))
        until_it_hangs_up(caller, asked)

    path = program.write(["echo", "ran"], scope(tmp_path / "bus"))
    with a_bus(tmp_path / "bus", serve):
        done = strace(path, log)
    assert "not moved by systemd" in refusal(done)  # this bus moves nobody
    assert built == [True]
    parent, init = list(parsed(log.read_text()).values())[:2]
    asked = [c for c in parent if c.name in ("sendto", "send") and "StartTransientUnit" in
             c.arguments]
    assert len(asked) == 1
    assert "execve" not in [c.name for c in init], "it ran before its group was there"


def strace(path: str, log: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    return subprocess.run(["strace", "-f", "-qq", "-s", "4096", *options, "-o", str(log), path],
                          capture_output=True, timeout=60, stdin=subprocess.DEVNULL)


def test_pid_1_makes_its_namespaces_while_its_ids_are_mapped(tmp_path: Path) -> None:
    facts = probe()
    if not facts.id_ranges.available:
        pytest.skip("no subordinate ids: hardrun doctor")
    helper, seen = tmp_path / "newuidmap", tmp_path / "seen"
    helper.write_text(HELPER.format(seen=seen))
    helper.chmod(0o755)
    numbers = (facts.subordinate_uids[0][0], facts.subordinate_gids[0][0])
    plan = trial.id_range(str(helper), facts.newgidmap.detail, (facts.uid, facts.gid), numbers)
    failure = Attempt(executor_path(), plan).result()
    assert failure is not None
    assert failure.operation == "write_id_map_helper"
    [namespace] = seen.read_text().splitlines()  # and no line of a map: it has none yet
    assert namespace.startswith("mnt:[")
    assert namespace != os.readlink("/proc/self/ns/mnt")


def with_network(executor: Path, directory: Path) -> str:
    """A program whose network namespace a process of its own makes, which alone calls socket(2)."""
    return Program(executor, directory).write(["echo", "ran"], [operation("join_network")])


def test_pid_1_builds_its_view_while_its_network_namespace_is_made(executor: Path, tmp_path: Path
                                                                  ) -> None:
    log = tmp_path / "calls"
    done = strace(with_network(executor, tmp_path), log, "--inject=socket:delay_enter=1s")
    assert done.stdout == b"ran\n", done
    text = log.read_text()
    order = [text.index(word)
             for word in ("pivot_root(", "SIOCSIFFLAGS", "setns(3", "PR_CAPBSET_DROP")]
    assert order == sorted(order)
    start = Start.of(text)
    assert {c.name for c in start.network} >= {"unshare", "socket", "ioctl", "exit_group"}
    assert "CLONE_NEWNET" not in "".join(c.arguments for c in (*start.parent, *start.init)
                                         if c.name in ("clone3", "unshare"))


@pytest.mark.parametrize("how, told", [
    ("error=EMFILE", b"socket: EMFILE"), ("signal=SIGKILL", b"killed: ECHILD")])
def test_without_its_network_namespace_nothing_starts(
    executor: Path, tmp_path: Path, how: str, told: bytes
) -> None:
    done = strace(with_network(executor, tmp_path), tmp_path / "calls", f"--inject=socket:{how}")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"join the network namespace" in done.stderr
    assert told in done.stderr


def test_what_pid_1_makes_itself_is_told_by_its_operation(executor: Path, tmp_path: Path) -> None:
    """Doctor goes by the operation's number: without one it finds no tier at all."""
    done = strace(with_network(executor, tmp_path), tmp_path / "calls",
                  "--inject=clone:error=EAGAIN:when=1")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"clone: EAGAIN (operation " in done.stderr


@pytest.mark.parametrize("call", ["setns", "unshare"])
def test_where_a_filter_refuses_it_the_network_namespace_comes_with_the_clone(
    executor: Path, tmp_path: Path, call: str
) -> None:
    log = tmp_path / "calls"
    done = strace(with_network(executor, tmp_path), log, f"--inject={call}:error=EPERM")
    assert done.stdout == b"ran\n", done
    start = Start.of(log.read_text())
    assert [c for c in start.parent if c.name == "clone3" and "CLONE_NEWNET" in c.arguments]
    assert [c for c in start.init if "SIOCSIFFLAGS" in c.arguments]
    assert not start.network


MAPS = """#!/bin/sh
# As newuidmap and newgidmap, of the caller's own id: the owner of a user namespace may.
case $0 in *gidmap) echo deny >/proc/$1/setgroups ;; esac
printf '%s %s %s' $2 $3 $4 >/proc/$1/$(basename $0 | sed 's/new\\(.id\\)map/\\1_map/')
"""


@pytest.mark.parametrize("refused", [False, True])
def test_while_helpers_map_ids_the_network_namespace_is_made_either_way(
    executor: Path, tmp_path: Path, refused: bool
) -> None:
    """Where a filter refuses setns(2) PID 1 makes it itself, with the others."""
    mapped = []
    for name, number in (("newuidmap", os.getuid()), ("newgidmap", os.getgid())):
        helper = tmp_path / name
        helper.write_text(MAPS)
        helper.chmod(0o755)
        words = "".join(f"{word}\0" for word in (number, number, 1)).encode()
        mapped.append(operation("write_id_map_helper", str(helper), words))
    path = Program(executor, tmp_path).write(
        ["echo", "ran"], [*mapped, operation("await_id_maps"), operation("join_network")],
        without=["write_id_map"])
    log = tmp_path / "calls"
    done = strace(path, log, *(["--inject=setns:error=EPERM"] if refused else []))
    assert done.stdout == b"ran\n", done
    text = log.read_text()
    assert ("CLONE_FILES" in text) is not refused
    assert "SIOCSIFFLAGS" in text
