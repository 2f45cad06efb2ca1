"""Limits in a cgroup, on a kernel and a systemd that offer it: written, kept, counted, told."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import hardrun
from tests.vm.groups import DIRECT, HOLD, PATIENT, Held, groups, members, none_left
from tests.vm.guest import as_root, run_as

pytestmark = pytest.mark.vm("selinux")
BOMB = """
import os, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except OSError as error:
    print(made, error.errno, flush=True)
    os._exit(3)
"""


@pytest.fixture(autouse=True)
def _no_group_left() -> Iterator[None]:
    yield
    none_left()


def hardrun_run(*words: str, env: dict[str, str] | None = None
                ) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["hardrun", "run", *words], capture_output=True, text=True, timeout=200,
                          stdin=subprocess.DEVNULL, env=env)


def reported(tmp_path: Path, *words: str) -> dict[str, Any]:
    hardrun_run("--report", str(tmp_path / "report"), *words)
    document: dict[str, Any] = json.loads((tmp_path / "report").read_text())
    return document


def test_every_limit_is_in_the_files_of_the_group_before_the_command_runs() -> None:
    with Held("--memory", "128M", "--swap", "0", "--pids", "20", "--cpus", "0.5", "--cpuset", "0",
              "--io", "1M") as held:
        assert held.read("memory.max") == str(128 << 20)
        assert held.read("memory.swap.max") == "0"
        assert held.read("memory.oom.group") == "1"
        assert held.read("pids.max") == "21"  # and PID 1
        assert held.read("cpu.max") == "50000 100000"
        assert held.read("cpuset.cpus.effective") == "0"
        assert "rbps=1048576 wbps=1048576" in held.read("io.max")
        assert held.group.parent.name.startswith("hardrun-")
        assert held.process.pid not in held.members
        assert len(held.members) == 2


def test_inside_nothing_shows_of_the_group_and_nothing_of_it_can_be_changed() -> None:
    done = hardrun_run("--", "sh", "-c", "cat /proc/self/cgroup; ls /sys/fs/cgroup; "
                       "mkdir /tmp/g && mount -t cgroup2 none /tmp/g")
    assert done.stdout == "0::/\n"
    assert done.returncode != 0


def test_too_much_memory_ends_the_whole_sandbox_with_a_verdict(tmp_path: Path) -> None:
    """Not the largest process alone: the shell that waits for it goes, too."""
    report = reported(tmp_path, "--memory", "64M", "--", "sh", "-c",
                      "python3 -c 'bytearray(200 << 20)'; echo survived")
    assert report["outcome"] == "memory-limit"
    assert report["message"] == "killed: memory limit 64M"
    assert report["returncode"] == 128 + signal.SIGKILL
    assert report["usage"]["oom_kills"] >= 1
    assert 32 << 20 < report["usage"]["memory_peak"] <= 64 << 20


def test_memory_that_no_process_maps_counts() -> None:
    """A file in the sandbox's own /tmp: no rlimit sees it."""
    done = hardrun_run("--memory", "64M", "--", "sh", "-c",
                       "head -c 150M /dev/zero > /tmp/file; echo survived")
    assert (done.returncode, done.stdout) == (128 + signal.SIGKILL, "")


def test_a_person_is_told_what_killed_it() -> None:
    done = subprocess.run(
        ["script", "-qec", "hardrun run --memory 64M -- python3 -c 'bytearray(200 << 20)'",
         "/dev/null"], capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL)
    assert "hardrun: memory-limit" in done.stdout


def test_a_fork_bomb_is_stopped_by_the_group_and_counted(tmp_path: Path) -> None:
    report = reported(tmp_path, "--pids", "12", "--", "python3", "-c", BOMB)
    assert (report["outcome"], report["returncode"]) == ("pids-limit", 3)
    assert report["message"] == "processes were refused: pids limit 12"
    assert report["usage"]["pids_refused"] >= 1
    done = hardrun_run("--pids", "12", "--", "python3", "-c", BOMB)
    assert done.stdout.split()[0] == "11"  # and python itself


def test_one_process_and_no_more(tmp_path: Path) -> None:
    assert hardrun_run("--pids", "1", "--", "true").returncode == 0
    assert reported(tmp_path, "--pids", "1", "--", "sh", "-c", "true & true")["outcome"] == \
        "pids-limit"


def test_less_memory_than_anything_needs_is_a_verdict_and_no_riddle(tmp_path: Path) -> None:
    report = reported(tmp_path, "--memory", "1M", "--", "python3", "-c", "print('ran')")
    assert report["outcome"] == "memory-limit"
    assert "killed: memory limit 1M" in report["message"]


def test_a_busy_command_is_throttled_and_its_time_counted(tmp_path: Path) -> None:
    report = reported(tmp_path, "--cpus", "0.2", "--", "python3", "-c",
                      "import time\nwhile time.process_time() < 1: pass")
    usage = report["usage"]
    assert usage["throttled"] > 0
    assert usage["user"] + usage["system"] >= 0.9
    assert usage["wall"] > 3  # a second of work at a fifth of a CPU
    assert usage["pids_peak"] is None or usage["pids_peak"] >= 1
    assert usage["stalled"]["cpu"] > 0


def test_cpu_time_counts_children_that_nobody_waits_for(tmp_path: Path) -> None:
    report = reported(tmp_path, "--cpu-time", "2s", "--timeout", "100s", "--", "sh", "-c",
                      "(while :; do :; done) & (while :; do :; done) & sleep 90")
    assert report["outcome"] == "cpu-limit"
    assert report["usage"]["wall"] < 60


def test_verify_reads_the_group_of_every_process() -> None:
    """And finds what whoever may write there has changed, file by file."""
    with Held("--memory", "128M", "--cpuset", "0", "--io", "1M") as held:
        found = verified(held)
        checks = {c["control"]: c for p in found["processes"] for c in p["checks"]}
        assert found["holds"], found
        assert checks["limits.memory"]["result"] == "holds"
        assert checks["limits.memory"]["evidence"] == f"{held.group}/memory.max"
        rates = held.read("io.max").splitlines()
        device = rates[0].split()[0]
        with held.changed({"memory.max": "max", "cpuset.cpus": "0-1", "pids.max": "max",
                           "io.max": f"{device} wbps=max"}):
            assert differing(verified(held)) == {
                "limits.memory", "limits.cpuset", "limits.pids", "limits.io"}
        # half of the sandbox would live on
        with held.changed({"memory.oom.group": "0"}):
            assert differing(verified(held)) == {"limits.memory"}


def verified(held: Held) -> dict[str, Any]:
    done = subprocess.run(["hardrun", "verify", "--json", str(held.process.pid)],
                          capture_output=True, text=True, timeout=100)
    document: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if document["holds"] else 1)
    return document


def differing(document: dict[str, Any]) -> set[str]:
    return {c["control"] for p in document["processes"] for c in p["checks"]
            if c["result"] == "differs"}


def test_run_verify_compares_the_group_before_the_command_starts() -> None:
    done = hardrun_run("--verify", "--memory", "128M", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr


def test_a_sandbox_that_is_moved_out_of_its_group_ends() -> None:
    with Held() as held:
        elsewhere = held.group.parent / "hardrun-supervisor" / "cgroup.procs"
        for pid in sorted(held.members, reverse=True):  # PID 1 last: with it all of them end
            elsewhere.write_text(str(pid))
        assert held.process.wait(60) == 125


def test_a_killed_parent_leaves_nothing() -> None:
    with Held() as held:
        held.process.kill()
        assert held.process.wait() == -signal.SIGKILL


def test_a_frozen_sandbox_ends_all_the_same() -> None:
    """The kernel ends what is frozen without thawing it; nothing waits for an answer from inside.
    """
    for end in ("parent", "sandbox"):
        with Held() as held:
            (held.group / "cgroup.freeze").write_text("1")
            deadline = time.monotonic() + 20
            while "frozen 1" not in held.read("cgroup.events") and time.monotonic() < deadline:
                time.sleep(0.05)
            assert "frozen 1" in held.read("cgroup.events")
            if end == "parent":
                held.process.kill()
                assert held.process.wait(60) == -signal.SIGKILL
            else:
                held.process.send_signal(signal.SIGTERM)
                time.sleep(0.2)
                held.process.send_signal(signal.SIGTERM)
                assert held.process.wait(60) == 137


def test_ten_at_once_have_ten_groups(tmp_path: Path) -> None:
    """A program of ten starts: systemd is asked by all of them at the same time."""
    program = str(tmp_path / "hold")
    subprocess.run(["hardrun", "compile", *PATIENT, "--memory", "40M", "-o", program, "--", "sh",
                    "-c", HOLD], check=True, timeout=100)
    with ExitStack() as stack:
        processes = [stack.enter_context(subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(10)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        found = [group for group in groups() if group.suffix != ".scope"]
        assert {group.name for group in found} == {f"hardrun-{p.pid}" for p in processes}
        assert len({group.parent for group in found}) == 10
        assert all((group / "memory.max").read_text() == f"{40 << 20}\n" for group in found)
        assert len({pid for group in found for pid in members(group)}) == 20
        for process in processes:
            process.communicate("go\n", timeout=60)


def test_the_api_has_the_same_limits_and_usage() -> None:
    result = hardrun.run(["python3", "-c", "bytearray(200 << 20)"], memory="64M")
    assert result.outcome == "memory-limit"
    assert result.usage.oom_kills
    controls = {c.control: c.enforcement for c in result.decision.controls}
    assert controls["limits.memory"].by == ("cgroup:memory.max",)


def test_a_compiled_program_asks_systemd_itself(tmp_path: Path) -> None:
    program = str(tmp_path / "eat")
    subprocess.run(["hardrun", "compile", "--memory", "64M", "-o", program, "--", "python3", "-c",
                    "bytearray(200 << 20)"], check=True, timeout=100)
    assert subprocess.run([program], timeout=100).returncode == 128 + signal.SIGKILL


def test_a_session_of_its_own_has_no_part_in_it() -> None:
    """Cron: no XDG_RUNTIME_DIR, no bus in the environment. A lingering user has a systemd."""
    bare = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    done = hardrun_run("--memory", "64M", "--", "python3", "-c", "bytearray(200 << 20)", env=bare)
    assert done.returncode == 128 + signal.SIGKILL


def test_from_a_group_of_roots_systemd_moves_both() -> None:
    """A login session's scope belongs to root: no write of ours could leave it."""
    done = run_as("root", [
        "systemd-run", "--quiet", "--scope", "--uid=tester", "--gid=tester", "--",
        "env", "HOME=/home/tester", "hardrun", "run", "--memory", "64M", "--", "python3", "-c",
        "bytearray(200 << 20)"])
    assert done.returncode == 128 + signal.SIGKILL, done.stderr


def test_a_user_without_systemd_gets_what_rlimits_can_do_and_a_demanded_limit_is_refused() -> None:
    done = run_as("plain", ["hardrun", "explain", "--policy", "contained", "--", "true"])
    assert "RLIMIT_DATA" in done.stdout
    done = run_as("plain", ["hardrun", "run", "--policy", "contained", "--cpus", "0.5", "--",
                            "true"])
    assert done.returncode == 125
    assert "limits.cpus: cpu controller not delegated" in done.stderr
    assert "enable-linger" in done.stderr


def test_an_answer_that_never_comes_is_a_fact_of_the_host(tmp_path: Path) -> None:
    silent = tmp_path / "bus"
    listening = ("import socket, sys, time; s = socket.socket(socket.AF_UNIX); "
                 "s.bind(sys.argv[1]); s.listen(9); print(flush=True); time.sleep(600)")
    with subprocess.Popen([sys.executable, "-c", listening, str(silent)],
                          stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        try:
            done = subprocess.run(["hardrun", "doctor"], capture_output=True, text=True,
                                  timeout=100, env={**os.environ, "DBUS_SESSION_BUS_ADDRESS":
                                                    f"unix:path={silent}"})
            assert "no answer from systemd" in done.stdout
        finally:
            server.kill()


def test_a_delegated_service_of_the_system_is_written_to_directly(tmp_path: Path) -> None:
    """A daemon's: its user has no session and no systemd. It is marked as delegated."""
    told = tmp_path / "told"
    told.touch()
    as_root("systemd-run", "--quiet", "--wait", "--uid=plain", "--gid=plain", "-p", "Delegate=yes",
            "-p", f"StandardOutput=file:{told}", "-p", f"StandardError=file:{told}", "--",
            "env", "HOME=/home/plain", "PATH=/opt/venv/bin:/usr/bin",
            "hardrun", "explain", "--policy", "contained", "--memory", "64M", "--", "true")
    assert "cgroup:memory.max" in told.read_text()


def test_the_callers_own_group_can_be_named() -> None:
    with Held("--memory", "128M", "--cgroup-parent", ".", prefix=DIRECT) as held:
        assert held.group.parent.name.startswith("run-")
        assert held.read("memory.max") == str(128 << 20)
        assert held.group.name == f"hardrun-{held.process.pid}"


PARENT = """
own=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
mkdir $own/manager $own/boxes
echo $$ > $own/manager/cgroup.procs
echo +memory +pids > $own/cgroup.subtree_control
run="hardrun run --policy contained --cgroup-parent $own/boxes --pids 20 --"
$run sleep 90 & executor=$!
for i in $(seq 300); do
    grep -q . $own/boxes/hardrun-$executor/cgroup.procs && break
    sleep 0.1
done 2>/dev/null
kill -9 $executor
wait $executor
ls -d $own/boxes/hardrun-*
$run true; echo $?
ls -d $own/boxes/hardrun-* 2>/dev/null
"""


def test_an_explicit_parent_is_used_and_swept_of_what_was_killed() -> None:
    """The layout of a manager of its own: itself in one group, boxes in another."""
    done = subprocess.run([*DIRECT, "sh", "-c", PARENT], capture_output=True, text=True,
                          timeout=200, stdin=subprocess.DEVNULL)
    left, status = done.stdout.splitlines()
    assert re.search(r"/boxes/hardrun-[0-9]+$", left), done.stderr
    assert status == "0", done.stderr


def test_a_parent_that_can_not_be_used_is_never_passed_over() -> None:
    """From a session a process can't be moved into a group beside it: EACCES, and no other way."""
    as_root("mkdir", "-p", "/sys/fs/cgroup/for-tests")
    as_root("chown", "-R", "tester", "/sys/fs/cgroup/for-tests")
    try:
        done = hardrun_run("--cgroup-parent", "/for-tests", "--", "true")
        assert done.returncode == 125
        assert "--cgroup-parent /for-tests: " in done.stderr
    finally:
        as_root("rmdir", "/sys/fs/cgroup/for-tests")


@pytest.mark.parametrize("parent", ["/nowhere", "/../../etc"])
def test_a_parent_that_is_no_group_is_refused(parent: str) -> None:
    done = hardrun_run("--cgroup-parent", parent, "--", "true")
    assert done.returncode == 125
    assert "not a cgroup below /sys/fs/cgroup" in done.stderr


def test_cpus_that_this_host_has_not_are_refused() -> None:
    done = hardrun_run("--cpuset", "63", "--", "true")
    assert done.returncode == 125
    assert "CPUs 63 asked, this host has 0" in done.stderr


def test_doctor_names_what_was_tried() -> None:
    facts = json.loads(subprocess.run(["hardrun", "doctor", "--json"], capture_output=True,
                                      text=True, timeout=100).stdout)
    assert set(facts["cgroup_controllers"]) >= {"cpu", "cpuset", "io", "memory", "pids", "swap"}
    assert facts["cgroup_delegation"]["available"]
