"""The harness of `hardrun bench` itself: known sleeps, known files, runtimes that fail or lie.

What is asserted is an order or a ratio of things whose cost is known; never how fast hardrun is.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hardrun.bench import (
    clock,
    disk,
    io,
    ladder,
    law,
    memory,
    ours,
    peers,
    rounds,
    scale,
    scene,
    startup,
    syscall,
    worker,
)
from hardrun.bench.bench import Bench
from hardrun.bench.clock import Failure, Result, Sample, Start
from hardrun.bench.contender import Ask, Contender
from hardrun.bench.document import Series
from hardrun.bench.rounds import Rounds
from hardrun.errors import BadInput
from hardrun.kernel.seccomp.simulate import Instruction
from hardrun.plan.format import unpack
from hardrun.state import places

ENVIRONMENT = dict(os.environ)


@pytest.fixture(scope="module")
def made() -> Iterator[scene.Scene]:
    """One scene for all, with the probe compiled."""
    with scene.scene() as found:
        yield found


def _contender(name: str, *argv: str, **changes: object) -> Contender:
    return replace(Contender(name, "", "", lambda _: [list(argv)]), **changes)


def _sleeper(seconds: float) -> Contender:
    return _contender(f"sleep {seconds}", "sleep", str(seconds))


def test_known_sleeps_give_known_ratios() -> None:
    sleepers = [_sleeper(0.02), _sleeper(0.08)]
    times, failed = rounds.starts(sleepers, ("true",), Rounds(8, 1))
    assert not failed
    short, long = (times[s.name] for s in sleepers)
    assert [len(short), len(long)] == [8, 8]
    assert min(short) >= 0.02
    assert min(long) >= 0.08
    found = law.ratio(long, short, paired=True)
    assert law.verdict(found) == "more"
    assert found.value < 5


def test_a_sequence_is_the_sum_of_its_parts() -> None:
    parts = [Start(["sleep", "0.02"], ENVIRONMENT), Start(["sleep", "0.03"], ENVIRONMENT)]
    found = clock.sequence(parts)
    assert isinstance(found, Sample)
    assert found.wall >= 0.05


def test_the_first_byte_comes_before_the_end() -> None:
    found = clock.run(Start(["sh", "-c", "echo; sleep 0.2"], ENVIRONMENT), capture=True)
    assert isinstance(found, Result)
    assert found.output == b"\n"
    assert found.wall - found.first >= 0.19


def test_processor_time_is_not_the_time_that_somebody_slept() -> None:
    sleeping = clock.run(Start(["sleep", "0.3"], ENVIRONMENT))
    working = clock.run(Start([sys.executable, "-c", "for n in range(3_000_000): pass"],
                              ENVIRONMENT))
    assert isinstance(sleeping, Result)
    assert isinstance(working, Result)
    assert sleeping.cpu < 0.1
    assert working.cpu > sleeping.cpu


@pytest.mark.parametrize("argv, reason", [
    (["false"], "exit status 1"), (["sh", "-c", "kill -9 $$"], "signal 9"),
    (["sh", "-c", "echo no cgroup >&2; exit 3"], "exit status 3: no cgroup"),
    (["/nowhere"], "/nowhere: No such file or directory")])
def test_what_fails_has_a_reason_and_no_time(argv: list[str], reason: str) -> None:
    assert clock.run(Start(argv, ENVIRONMENT)) == Failure(reason)


def test_what_never_ends_is_ended_and_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "PATIENCE", 0.2)
    for capture in (False, True):
        assert clock.run(Start(["sleep", "60"], ENVIRONMENT), capture=capture) == \
            Failure("signal 9")


def test_a_runtime_that_fails_at_once_is_told_and_takes_no_part() -> None:
    taken, failed = rounds.once([_sleeper(0.01), _contender("broken", "false")], ("true",))
    assert list(taken) == ["sleep 0.01"]
    assert failed == {"broken": Failure("exit status 1")}


def test_a_runtime_that_fails_later_loses_the_times_that_it_had(tmp_path: Path) -> None:
    count = tmp_path / "count"
    script = f"echo x >> {count}; [ $(wc -l < {count}) -lt 5 ]"
    weak = _contender("weak", "sh", "-c", script)
    times, failed = rounds.starts([weak, _sleeper(0.01)], ("true",), Rounds(6, 1))
    assert list(times) == ["sleep 0.01"]
    assert failed == {"weak": Failure("exit status 1")}
    assert len(times["sleep 0.01"]) == 6


def test_after_the_deadline_no_further_round_begins() -> None:
    times, _ = rounds.starts([_sleeper(0.01)], ("true",), Rounds(50, 0, deadline=0.0))
    assert len(times["sleep 0.01"]) == 1
    assert law.ratio(times["sleep 0.01"], times["sleep 0.01"]).noisy


def test_a_runtime_that_ends_well_without_running_the_command_is_failed() -> None:
    taken, failed = rounds.once([_contender("liar", "true")], (scene.PROBE,))
    assert not taken
    assert "did not run" in failed["liar"].reason


def test_what_is_prepared_is_outside_of_the_clock() -> None:
    prepared = []
    slow = _contender("slow", "true", prepare=lambda: prepared.append(
        clock.run(Start(["sleep", "0.2"], ENVIRONMENT))))
    times, _ = rounds.starts([slow], ("true",), Rounds(5, 0))
    assert len(prepared) == 5
    assert law.median(times["slow"]) < 0.2


def test_prepare_runs_before_each_counted_start(made: scene.Scene, tmp_path: Path) -> None:
    bench = Bench(made, [], {}, {}, prepare=f"echo x >> {tmp_path}/log")
    rounds.starts([_contender("true", "true")], ("true",), Rounds(5, 2), before=bench.before)
    assert len((tmp_path / "log").read_text().split()) == 7


def test_known_files_take_known_space(tmp_path: Path) -> None:
    block = os.statvfs(tmp_path).f_frsize
    empty = disk.allocated([tmp_path])
    for number in range(3):
        (tmp_path / str(number)).write_bytes(b"x" * (2 * block))
    os.sync()
    found = disk.allocated([tmp_path])
    assert found.inodes - empty.inodes == 3
    assert 6 * block <= found.size - empty.size <= 8 * block


def test_space_is_what_is_allocated_and_a_file_counts_once(tmp_path: Path) -> None:
    before = disk.allocated([tmp_path])
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    os.link(tmp_path / "sparse", tmp_path / "again")
    found = disk.allocated([tmp_path, tmp_path])
    assert found.inodes - before.inodes == 1
    assert found.size - before.size < 1 << 20
    assert disk.allocated([tmp_path / "nowhere"]) == (0, 0)


def test_the_state_is_counted_wherever_home_points(tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies in the account's home: counted elsewhere, a container would take nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    kept = list(disk._ours(scene.Scene(tmp_path, tmp_path)))
    assert len(kept) == 3
    assert all(Path(places.directory()) in each.paths for each in kept)


def _kept(directory: Path, **changes: object) -> disk.Kept:
    return replace(disk.Kept(
        "files", "", "", (directory,),
        create=lambda n: ["sh", "-c", f"head -c 8192 /dev/zero > {directory}/{n}"],
        start=lambda n: ["sh", "-c", f"head -c 4096 /dev/zero > {directory}/{n}.run"],
        stop=lambda n: ["rm", f"{directory}/{n}.run"],
        remove=lambda n: ["rm", f"{directory}/{n}"]), **changes)


def test_one_more_container_is_counted_by_state(tmp_path: Path) -> None:
    found = {(s.quantity, s.at): s.median for s in disk._measure(_kept(tmp_path), (1, 4), 60)}
    assert found["created", 4] == 8192
    assert found["running", 4] == 12288
    assert found["stopped", 4] == 8192
    assert found["running, inodes", 4] == 2
    assert found["created, one more", 4] == 8192
    assert found["running, one more", 4] == 12288
    assert not list(tmp_path.iterdir())


def test_of_what_is_written_for_several_at_once_the_median_has_none(tmp_path: Path) -> None:
    """As of records in one file: one in four takes a block."""
    fourth = f"[ {{}} != 3 ] || head -c 4096 /dev/zero > {tmp_path}/{{}}"
    found = {(s.quantity, s.at): s for s in disk._measure(_kept(
        tmp_path, create=lambda n: ["sh", "-c", fourth.format(n, n)], start=None,
        remove=lambda n: ["rm", "-f", f"{tmp_path}/{n}"]), (4,), 60)}
    assert found["created, one more", 4].samples == (0, 0, 0, 4096)
    assert found["created", 4].samples == (1024,)


def test_what_fails_at_a_count_keeps_what_was_found_before(tmp_path: Path) -> None:
    """A quota, say, that only so many reach."""
    fourth = f"[ {{}} != 3 ] && touch {tmp_path}/{{}}.run"
    found = {(s.quantity, s.at): s for s in disk._measure(_kept(
        tmp_path, start=lambda n: ["sh", "-c", fourth.format(n, n)],
        stop=lambda n: ["rm", "-f", f"{tmp_path}/{n}.run"]), (1, 4, 8), 60)}
    assert found["running", 1].samples
    assert found["created", 4].samples
    assert found["running", 4].failure == "exit status 1"
    assert not [at for _, at in found if at == 8]


def test_what_takes_much_memory_is_not_started_by_the_thousand(tmp_path: Path) -> None:
    found = {(s.quantity, s.at) for s in disk._measure(_kept(tmp_path, running_at_most=3), (1, 4),
                                                       60)}
    assert {("created", 4), ("running", 1)} <= found
    assert ("running", 4) not in found


def test_a_container_that_can_not_be_made_takes_no_space_but_fails(tmp_path: Path) -> None:
    [found] = disk._measure(_kept(tmp_path, create=lambda _: ["false"]), (1, 4), 60)
    assert found.failure == "exit status 1"
    assert not found.samples


def _running(directory: Path, *argv: str) -> disk.Kept:
    return _kept(directory, create=None, start=None, stop=None, remove=None,
                 run=lambda n: ["sh", "-c", f"touch {directory}/{n}; exec \"$@\"", "sh", *argv])


def test_what_stays_in_the_foreground_is_counted_when_it_sleeps(
    made: scene.Scene, tmp_path: Path
) -> None:
    [probe] = made.outside((scene.PROBE,))
    kept = _running(tmp_path, probe, "hold")
    found = {s.quantity: s for s in disk._measure(kept, (3,), 60)}
    assert found["stopped, inodes"].at == 3
    assert not found["running"].failure
    assert memory.descendants(os.getpid()) == []


def test_what_does_not_stay_is_not_counted_as_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "PATIENCE", 0.5)
    [found] = disk._measure(_running(tmp_path, "false"), (3,), 60)
    assert found.failure == "0 of 1 run"
    assert not found.samples


def test_time_that_one_leaves_is_for_those_after_it(
    made: scene.Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shares: list[float] = []

    def measure(kept: disk.Kept, counts: object, seconds: float) -> list[Series]:
        shares.append(seconds)
        return []
    monkeypatch.setattr(disk, "_all", lambda _: [_kept(tmp_path)] * 4)
    monkeypatch.setattr(disk, "_measure", measure)
    assert not list(disk.run(Bench(made, [], {}, {}, quick=True, seconds=12_000)))
    assert [round(share, -3) for share in shares] == [3_000, 4_000, 6_000, 12_000]


def test_the_probe_does_what_it_is_told(made: scene.Scene) -> None:
    plain = Contender("plain", "", "", lambda ask: [made.outside(ask.command)])
    assert plain.output(Ask((scene.PROBE, "byte"), 1)) == "1"
    assert plain.output(Ask((scene.PROBE,), 1)) == ""
    assert isinstance(plain.output(Ask((scene.PROBE, "unknown"), 1)), Failure)
    output = plain.output(Ask((scene.PROBE, "time", "getpid", "1000", "/", "clone", "5", "/"), 1))
    assert isinstance(output, str)
    getpid, clone = map(float, output.split())
    assert clone > getpid, "a process costs more than a number"


def test_the_floor_runs_the_command_in_all_of_the_sandbox(made: scene.Scene) -> None:
    found = {c.name: c for c in ours.contenders(made, in_process=False)}
    assert found[ours.FLOOR].output(Ask((scene.PROBE, "byte"), 1)) == "1"
    kept = found[ours.COMPILED].commands(Ask((scene.PROBE,), 1))
    assert stat.S_IXUSR & os.stat(kept[0][0]).st_mode


def test_the_layers_grow_up_to_the_whole_plan(made: scene.Scene) -> None:
    steps = list(ladder.steps(made))
    plans = [unpack(Path(c.commands(Ask((), 1))[0][0]).read_bytes()) for c in steps]
    sizes = [len(plan.plan) for plan in plans]
    assert sizes == sorted(sizes)
    taken, failed = rounds.once(steps, made.command)
    assert not failed
    assert len(taken) == len(ladder.LAYERS) + 1


def test_every_operation_of_the_plan_is_in_the_last_layer(made: scene.Scene) -> None:
    named = frozenset().union(*(layer.operations for layer in ladder.LAYERS))
    operations = {o.name for o in ladder._request(made).plan(pinned=True).operations}
    assert {"clone", "pivot_root", "load_seccomp", "landlock_restrict"} <= named & operations


def test_a_worker_mounts_more_and_measures_there(made: scene.Scene) -> None:
    if not worker.possible():
        pytest.skip("no namespace of its own here")
    found = worker.ask(made, "startup", {
        "quantity": startup.CROWDED, "mounts": 5, "names": [ours.PLAIN, ours.COMPILED],
        "runs": 5, "warm_up": 0, "seconds": 20})
    plain, compiled = sorted(found, key=lambda s: s.contender)
    assert (plain.contender, compiled.contender) == (ours.PLAIN, ours.COMPILED)
    assert len(plain.samples) == 5
    # Groups that lie outside of the namespace can't be dropped in it, and hardrun says so.
    assert len(compiled.samples) == 5 or "can't be dropped" in compiled.failure


def test_a_worker_that_can_not_work_is_a_failure(made: scene.Scene) -> None:
    [found] = worker.ask(made, "startup", {"quantity": "exit", "names": [], "seconds": 1,
                                           "mounts": 1}, alone=False)
    assert not found.samples
    assert "mount: " in found.failure


def test_memory_is_that_of_what_stays_and_not_of_the_program(made: scene.Scene) -> None:
    held = f"{made.rootfs}{scene.PROBE}"
    keeper = _contender("keeper", "sh", "-c", f"{held} hold & wait")
    bare = _contender("bare", held, "hold")
    one, two, none = (memory.hold(keeper, 1), memory.hold(keeper, 2), memory.hold(bare, 1))
    assert isinstance(one, memory.Held)
    assert isinstance(two, memory.Held)
    assert isinstance(none, memory.Held)
    assert (one.processes, two.processes, none.processes) == (1, 2, 0)
    assert one.size > 4096
    assert none.size == 0
    assert isinstance(memory.hold(_contender("broken", "false", stay=lambda _: [["false"]]), 1),
                      Failure)


def test_several_at_a_time_start_more_than_one(made: scene.Scene) -> None:
    bench = Bench(made, [_sleeper(0.02)], {"sleep 0.02": 0.022}, {}, quick=True, seconds=4)
    found = {(s.quantity, s.at): s for s in scale._at_once(bench, bench.contenders)}
    one, four = (found[scale.THROUGHPUT, n].median for n in (1, 4))
    assert four > 2 * one, "sleeping takes no processor"
    assert min(found[scale.LATENCY, 1].samples) >= 0.02


def test_a_failing_start_fails_the_throughput(made: scene.Scene) -> None:
    bench = Bench(made, [_contender("broken", "false")], {"broken": 0.001}, {}, quick=True,
                  seconds=1)
    [found] = scale._at_once(bench, bench.contenders)
    assert "starts failed" in found.failure


def test_times_inside_are_numbers_or_a_failure(made: scene.Scene) -> None:
    plain = Contender("plain", "", "", lambda ask: [made.outside(ask.command)], rows=("io",))
    talker = _contender("talker", "echo", "nonsense", rows=("io",))
    bench = Bench(made, [plain, talker], {"plain": 0.001, "talker": 0.001}, {}, quick=True,
                  seconds=1)
    found = {(s.contender, s.quantity): s for s in io.run(bench)}
    assert all(found["plain", quantity].median > 0 for quantity in io.OPERATIONS)
    assert found["talker", "stat"].failure.startswith("not a number")


def test_the_kernels_cache_is_predicted_as_the_kernel_fills_it() -> None:
    """``allow getpid (39) whatever its arguments, openat (257) by its first one, else EPERM``."""
    code = [Instruction(0x20, 0, 0, 0), Instruction(0x15, 3, 0, 39), Instruction(0x15, 0, 3, 257),
            Instruction(0x20, 0, 0, 16), Instruction(0x15, 0, 1, 0),
            Instruction(0x06, 0, 0, 0x7FFF0000), Instruction(0x06, 0, 0, 0x00050001)]
    assert [syscall.always_allowed(code, 0xC000003E, n) for n in (39, 257, 1)] == [
        True, False, False]


def test_missing_peers_are_listed_with_how_to_get_them(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(peers, "ADMIN_PATH", "")
    found = peers.look()
    assert {peer.name for peer in found} == set(peers.KNOWN)
    assert all(peer.install and not peer.version for peer in found)
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho bubblewrap 9.8\n")
    (tmp_path / "bwrap").chmod(0o755)
    [bwrap] = peers.look(("bwrap",))
    assert (bwrap.version, bwrap.install) == ("9.8", "")


def test_a_root_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="--rootfs /nowhere"), scene.scene(rootfs="/nowhere"):
        pass
    with pytest.raises(BadInput, match="no-such"), scene.scene(command=("no-such-program",)):
        pass


def test_nothing_is_left_of_a_scene() -> None:
    with scene.scene() as found:
        assert found.rootfs.is_dir()
    assert not found.directory.exists()


def _hardrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: matplotlib keeps its fonts open."""
    return subprocess.run([*ours.program(), "bench", *arguments], capture_output=True, text=True,
                          check=False, env=ENVIRONMENT)


@pytest.mark.slow
def test_the_command_measures_compares_and_writes(tmp_path: Path) -> None:
    target = tmp_path / "results"
    done = _hardrun("startup", "--quick", "--runs", "5", "--against", "bwrap,nsjail", "--output",
                    str(target), "--export-json", str(tmp_path / "hyperfine.json"), "--", "true")
    assert done.returncode == 0, done.stderr
    assert "at most" in done.stderr
    assert ours.COMPILED in done.stdout
    results = json.loads((target / "results.json").read_text())
    measured = {s["contender"] for s in results["series"] if s["samples"]}
    assert {ours.PLAIN, ours.COMPILED, ours.CACHED, ours.COLD} <= measured
    assert results["machine"]["kernel"] == os.uname().release
    assert (target / "results.md").read_text().startswith("# What isolation costs")
    assert "<table>" in (target / "results.html").read_text()
    assert json.loads((tmp_path / "hyperfine.json").read_text())["results"]
    same = str(target / "results.json")
    assert _hardrun("compare", same, same).returncode == 0
