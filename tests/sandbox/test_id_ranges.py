"""Ids that no other sandbox has: what the kernel says of them, and what becomes of the ranges."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import hardrun
from hardrun.executor.image import executor_path
from hardrun.host import trial
from hardrun.host.attempt import Attempt, Failure
from hardrun.host.facts import HostFacts
from hardrun.host.probe import probe
from hardrun.kernel import idmap, procfs
from hardrun.plan.schema import Operation
from hardrun.request import decide
from hardrun.state import database, places, ranges
from tests.installed import HARDRUN

pytestmark = pytest.mark.skipif(
    shutil.which("newuidmap") is None or os.getuid() == 0, reason="no range of ids to take from")


@pytest.fixture(scope="module")
def facts() -> HostFacts:
    return probe()


def total(facts: HostFacts) -> int:
    return min(sum(n for _, n in facts.subordinate_uids),
               sum(n for _, n in facts.subordinate_gids))


@pytest.fixture
def sandboxes() -> Iterator[list[subprocess.Popen[str]]]:
    """Sandboxes that end with the test; each wrote a line when it runs."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def start(sandboxes: list[subprocess.Popen[str]], *options: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [HARDRUN, "run", "--userns", "auto", *options, "--", "sh", "-c",
         "echo running; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    sandboxes.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


def ids_outside(launcher: int) -> tuple[set[int], set[int]]:
    """The kernel ids of all processes of a sandbox, as the host sees them."""
    statuses = procfs.statuses()
    inside = [statuses[pid] for pid in procfs.descendants(launcher, statuses) if pid in statuses]
    assert len(inside) >= 2
    return {n for s in inside for n in s.uids}, {n for s in inside for n in s.gids}


def test_the_maps_lie_in_the_users_ranges_and_hold_no_id_of_the_caller(facts: HostFacts) -> None:
    found = [idmap.parse_map(hardrun.run(
        ["cat", f"/proc/self/{name}_map"], userns="auto:size=100", capture_output=True,
        text=True).stdout) for name in ("uid", "gid")]
    own = (facts.subordinate_uids, facts.subordinate_gids)
    for maps, allowed, caller in zip(found, own, (facts.uid, facts.gid), strict=True):
        assert sum(m.size for m in maps) == 100
        for m in maps:
            assert any(first <= m.outside and m.outside + m.size <= first + count
                       for first, count in allowed)
            assert not m.outside <= caller < m.outside + m.size
        assert any(m.inside == caller for m in maps)


def test_two_sandboxes_share_no_id_and_have_none_of_the_callers(
        sandboxes: list[subprocess.Popen[str]], facts: HostFacts) -> None:
    first, second = (ids_outside(start(sandboxes).pid) for _ in range(2))
    for mine, other, caller in zip(first, second, (facts.uid, facts.gid), strict=True):
        assert not mine & other
        assert caller not in mine | other
        assert 0 not in mine | other


def test_without_it_two_sandboxes_have_the_callers_id(
        sandboxes: list[subprocess.Popen[str]], facts: HostFacts) -> None:
    """The negative control."""
    for _ in range(2):
        process = start(sandboxes, "--userns", "single")
        assert ids_outside(process.pid)[0] == {facts.uid}


def test_files_of_the_sandbox_are_its_own() -> None:
    script = 'touch "$HOME/a" /tmp/b && stat -c "%u %g" "$HOME" "$HOME/a" /tmp/b && id -u && id -g'
    lines = hardrun.run(["sh", "-c", script], userns="auto", capture_output=True,
                        text=True).stdout.split("\n")
    uid, gid = os.getuid(), os.getgid()
    assert lines[:5] == [f"{uid} {gid}"] * 3 + [str(uid), str(gid)]


def test_standard_output_can_be_opened_anew() -> None:
    result = hardrun.run(["sh", "-c", "echo out >/dev/stdout; echo err >/dev/stderr"],
                         userns="auto", capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


@pytest.mark.parametrize("access, mode, refused", [
    ("ro", 0o700, True), ("ro", 0o705, False), ("rw", 0o705, True), ("rw", 0o707, False)])
def test_a_grant_is_worth_what_others_may(access: str, mode: int, refused: bool,
                                          tmp_path: Path) -> None:
    granted = tmp_path / "granted"
    granted.mkdir()
    (granted / "file").write_text("here\n")
    granted.chmod(mode)
    script = f"cat {granted}/file" + (f"; touch {granted}/new" if access == "rw" else "")
    options: dict[str, Any] = {"policy": "build", "userns": "auto", access: str(granted)}
    if refused:
        with pytest.raises(hardrun.BadInput, match="ids of its own"):
            hardrun.run(["sh", "-c", script], **options)
        return
    result = hardrun.run(["sh", "-c", script], capture_output=True, text=True, **options)
    assert (result.returncode, result.stdout) == (0, "here\n")
    if access == "rw":
        assert (granted / "new").stat().st_uid not in (0, os.getuid())
        (granted / "new").unlink()


@pytest.mark.skipif(not set(os.getgroups()) - {os.getgid()}, reason="no supplementary groups")
def test_a_file_of_a_supplementary_group_is_unreadable(tmp_path: Path) -> None:
    """US-02; whoever is in the group can read it, as this process is."""
    group = min(set(os.getgroups()) - {os.getgid()})
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    os.chown(secret, -1, group)
    secret.chmod(0o040)
    tmp_path.chmod(0o755)
    for userns in ("single", "auto"):
        result = hardrun.run(["cat", str(secret)], policy="build", ro=[str(tmp_path)],
                             userns=userns, capture_output=True, text=True)
        assert result.returncode == 1
        assert "Permission denied" in result.stderr


def test_the_decision_holds(facts: HostFacts) -> None:
    assert hardrun.run(["true"], userns="auto", verify=True).returncode == 0


def test_a_root_file_system_of_several_ids_is_told(tmp_path: Path, facts: HostFacts) -> None:
    """An engine that unpacks an image gives its files to subordinate ids."""
    rootfs = tmp_path / "rootfs"
    (rootfs / "var").mkdir(parents=True)
    (rootfs / "var").chmod(0o777)
    request = decide(["true"], policies=["docker-default"], rootfs=str(rootfs))
    assert request.notes() == ()
    mail = rootfs / "var" / "mail"
    hardrun.run(["mkdir", str(mail)], policy="build", userns="auto", rw=[str(rootfs / "var")])
    uid = mail.stat().st_uid
    assert any(first <= uid < first + count for first, count in facts.subordinate_uids)
    [note] = request.notes()
    assert f"{mail} belongs to uid {uid}" in note
    assert "--userns shared" in note
    mail.rmdir()


# -- the helpers --------------------------------------------------------------------------------


def tried(facts: HostFacts, uidmap: str, gidmap: str, uid: int | None = None) -> Failure | None:
    numbers = (facts.subordinate_uids[0][0] if uid is None else uid, facts.subordinate_gids[0][0])
    plan = trial.id_range(uidmap, gidmap, (facts.uid, facts.gid), numbers)
    return Attempt(executor_path(), plan).result()


def test_a_program_of_the_callers_path_is_not_run(tmp_path: Path) -> None:
    """US-07."""
    for name in ("newuidmap", "newgidmap"):
        fake = tmp_path / name
        fake.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
        fake.chmod(0o755)
    done = subprocess.run(
        [HARDRUN, "run", "--userns", "auto", "--", "true"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False)
    assert done.returncode == 0
    assert not (tmp_path / "ran").exists()


def test_a_helper_gets_an_absolute_name_no_environment_and_numbers(
        tmp_path: Path, facts: HostFacts) -> None:
    spy = tmp_path / "newuidmap"
    spy.write_text(f"#!/bin/sh\nexec >{tmp_path}/seen\ncat /proc/$$/cmdline; echo; "
                   "tr '\\0' '\\n' </proc/$$/environ\nexit 3\n")
    spy.chmod(0o755)
    failure = tried(facts, str(spy), facts.newgidmap.detail)
    assert failure is not None
    words, _, environment = (tmp_path / "seen").read_text().partition("\n")
    assert not [line for line in environment.splitlines() if not line.startswith(("PWD=", "_="))]
    interpreter, script, *numbers = words.rstrip("\0").split("\0")
    assert (interpreter, script) == ("/bin/sh", str(spy))
    assert all(number.isdecimal() for number in numbers)
    assert len(numbers) == 7


def test_a_helper_without_its_privilege_is_told_in_its_own_words(
        tmp_path: Path, facts: HostFacts) -> None:
    copy = tmp_path / "newgidmap"
    shutil.copyfile(facts.newgidmap.detail, copy)
    copy.chmod(0o755)
    failure = tried(facts, facts.newuidmap.detail, str(copy))
    assert failure is not None
    assert failure.operation == "write_id_map_helper"
    assert "gid_map" in failure.site
    assert "newgidmap:" not in failure.site


def test_a_helper_that_is_missing_is_told(facts: HostFacts) -> None:
    failure = tried(facts, "/nowhere/newuidmap", facts.newgidmap.detail)
    assert failure is not None
    assert (failure.operation, failure.errno, failure.site) == ("write_id_map_helper", 2, "execve")


def test_ids_that_are_not_the_users_are_refused_and_named(facts: HostFacts) -> None:
    failure = tried(facts, facts.newuidmap.detail, facts.newgidmap.detail, uid=1)
    assert failure is not None
    assert "not allowed" in failure.site
    assert "[1-2)" in failure.site


def test_what_a_helper_writes_is_one_line_without_control_characters(
        tmp_path: Path, facts: HostFacts) -> None:
    noisy = tmp_path / "newuidmap"
    noisy.write_text("#!/bin/sh\nprintf 'newuidmap: \\033[31mred\\nmore\\n' >&2\nexit 1\n")
    noisy.chmod(0o755)
    failure = tried(facts, str(noisy), facts.newgidmap.detail)
    assert failure is not None
    assert failure.site == ""
    noisy.write_text("#!/bin/sh\nprintf 'first\\nsecond\\n' >&2\nexit 1\n")
    failure = tried(facts, str(noisy), facts.newgidmap.detail)
    assert failure is not None
    assert failure.site == "first"


def test_a_plan_whose_range_was_not_assigned_starts_nothing(facts: HostFacts) -> None:
    plan = [o._replace(values=(o.values[0], b"")) if o.name == "write_id_map_helper" else o
            for o in trial.id_range(facts.newuidmap.detail, facts.newgidmap.detail, (0, 0), (0, 0))]
    failure = Attempt(executor_path(), [*plan, Operation("become", (0, 0))]).result()
    assert failure is not None
    assert failure.operation == "write_id_map_helper"


# -- the ranges ---------------------------------------------------------------------------------


def test_ranges_of_runs_come_back_at_once(facts: HostFacts) -> None:
    for _ in range(3):
        assert hardrun.run(["true"], userns=f"auto:size={total(facts)}").returncode == 0


def test_a_range_is_held_as_long_as_its_sandbox_and_no_longer(
        sandboxes: list[subprocess.Popen[str]], facts: HostFacts) -> None:
    everything = f"auto:size={total(facts)}"
    process = start(sandboxes, "--userns", everything)
    with pytest.raises(hardrun.HostUnsupported, match="1 sandboxes? holds?") as caught:
        hardrun.run(["true"], userns=everything)
    assert str(process.pid) in caught.value.message
    assert "usermod" in str(caught.value.hint)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = threading.Event()
    for _ in range(100):  # the kernel ends PID 1 after its parent, and the ids are free after it
        try:
            assert hardrun.run(["true"], userns=everything).returncode == 0
            break
        except hardrun.HostUnsupported:
            deadline.wait(0.05)
    else:
        raise AssertionError("the range of a killed sandbox never came back")


def wish(facts: HostFacts, size: int) -> ranges.Wish:
    return ranges.Wish(facts.subordinate_uids, facts.subordinate_gids, size)


def test_fifty_threads_at_once_never_overlap(tmp_path: Path, facts: HostFacts) -> None:
    with ThreadPoolExecutor(50) as pool:
        leases = list(pool.map(lambda _: ranges.take(wish(facts, 100), str(tmp_path)), range(50)))
    try:
        uids = [n for x in leases for n in range(x.first_uid, x.first_uid + x.size)]
        gids = [n for x in leases for n in range(x.first_gid, x.first_gid + x.size)]
        assert len(set(uids)) == len(set(gids)) == 5000
    finally:
        for lease in leases:
            os.close(lease.descriptor)


TAKER = """\
import sys
from hardrun.state import ranges
wish = ranges.Wish(((4000000000, 5000),), ((4000000000, 5000),), 100)
lease = ranges.take(wish, sys.argv[1])
print(lease.first_uid, lease.first_gid, flush=True)
sys.stdin.read()
"""


def test_fifty_processes_at_once_never_overlap_and_give_back_when_they_end(tmp_path: Path) -> None:
    takers = [subprocess.Popen([sys.executable, "-c", TAKER, str(tmp_path)], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(50)]
    everything = ranges.Wish(((4000000000, 5000),), ((4000000000, 5000),), 5000)
    try:
        lines = [taker.stdout.readline() for taker in takers if taker.stdout is not None]
        assert len({line.split()[0] for line in lines}) == 50
        assert len({line.split()[1] for line in lines}) == 50
        with pytest.raises(hardrun.HostUnsupported, match="50 sandboxes"):
            ranges.take(everything, str(tmp_path))
    finally:
        for taker in takers:
            taker.kill()
            taker.communicate()
    os.close(ranges.take(everything, str(tmp_path)).descriptor)


def test_ids_of_a_living_process_are_never_given_away(tmp_path: Path, facts: HostFacts) -> None:
    """Whoever has them: a container of another engine, or what a lost database knew of."""
    uid, gid = os.getuid(), os.getgid()
    free = 4_000_000_000
    own = ranges.Wish(((uid, 1), (free, 1)), ((gid, 1), (free, 1)), 1)
    lease = ranges.take(own, str(tmp_path))
    os.close(lease.descriptor)
    assert (lease.first_uid, lease.first_gid) == (free, free)


def one_line(error: hardrun.HardrunError) -> str:
    assert "\n" not in error.message
    assert error.hint
    return error.message


def test_a_damaged_database_is_named(tmp_path: Path, facts: HostFacts) -> None:
    (tmp_path / database.NAME).write_bytes(b"no database" * 1000)
    with pytest.raises(hardrun.HostUnsupported, match="not a database") as caught:
        ranges.take(wish(facts, 1), str(tmp_path))
    assert str(tmp_path) in one_line(caught.value)
    assert "rm" in str(caught.value.hint)


def test_a_database_that_stays_locked_is_named(
        tmp_path: Path, facts: HostFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    os.close(ranges.take(wish(facts, 1), str(tmp_path)).descriptor)
    monkeypatch.setattr(database, "PATIENCE", 0.01)
    other = sqlite3.connect(tmp_path / database.NAME, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(hardrun.HostUnsupported, match="locked") as caught:
            ranges.take(wish(facts, 1), str(tmp_path))
        one_line(caught.value)
    finally:
        other.close()


def test_a_database_that_can_not_be_written_is_named(tmp_path: Path, facts: HostFacts) -> None:
    os.close(ranges.take(wish(facts, 1), str(tmp_path)).descriptor)
    (tmp_path / database.NAME).chmod(0o400)
    with pytest.raises(hardrun.HostUnsupported, match="readonly") as caught:
        ranges.take(wish(facts, 1), str(tmp_path))
    one_line(caught.value)


def test_a_place_that_others_may_write_is_none(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "state" / "ours"
    theirs.mkdir()
    theirs.chmod(0o777)
    monkeypatch.setattr(places, "candidates", lambda: [str(theirs), str(ours)])
    assert database.directory() == str(ours)
    assert stat.S_IMODE(ours.stat().st_mode) == 0o700
    monkeypatch.setattr(places, "candidates", lambda: [str(theirs)])
    with pytest.raises(hardrun.HostUnsupported, match="theirs"):
        database.directory()


def test_it_can_not_be_compiled(tmp_path: Path) -> None:
    done = subprocess.run(
        [HARDRUN, "compile", "-o", str(tmp_path / "x"), "--userns", "auto",
         "--", "true"], capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert "can't be compiled" in done.stderr
    assert not (tmp_path / "x").exists()
