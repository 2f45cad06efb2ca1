"""Limits in the hierarchies of cgroup v1: root's alone, and asserted on what the kernel says.

Root's tests make groups of their own in the hierarchies that they use and hand them to hardrun by
--cgroup-parent; that of memory is tested in a virtual machine (tests/vm), never on this host.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hardrun.host import cgroup, cgroup_v1
from hardrun.host.facts import Fact
from hardrun.kernel import cgroups
from hardrun.plan.cgroup import disks
from hardrun.plan.schema import BY_NAME, Operation, Unsafe
from tests.installed import HARDRUN
from tests.sandbox.raw import Program, operation, operations

USED = {"blkio", "cpu", "cpuacct", "cpuset", "pids"}
NAME = f"hardrun-test.{os.getpid()}"
PROCESSES = """
import os, time
made = 0
try:
    while made < 20:
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except OSError as error:
    print(made, error.errno, flush=True)
    os._exit(3)
print(made, flush=True)
os._exit(0)
"""


# -- an ordinary user's ---------------------------------------------------------------------------


@pytest.fixture
def program(executor: Path, tmp_path: Path) -> Program:
    return Program(executor, tmp_path)


def refusal(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line of a start that failed before the command ran."""
    assert (done.returncode, done.stdout) == (125, b"")
    [line] = done.stderr.decode().splitlines()
    return line


def test_a_plan_must_wait_until_it_was_moved(program: Program, tmp_path: Path) -> None:
    """Version 1 knows no clone into a group: else the command would run before it is limited."""
    group = operation("cgroup_v1", str(tmp_path), "pids")
    for extra in ([group], [group, operation("await_cgroup", 0, 0)]):
        assert "does not wait for its cgroup" in refusal(program.run(["echo", "ran"], extra))


def test_a_hierarchy_that_the_caller_is_not_in(program: Program, tmp_path: Path) -> None:
    """Else the group would be made at the top of what is mounted, which is somebody else's."""
    extra = [operation("cgroup_v1", f"{tmp_path}/.", "no-such"), operation("await_cgroup", 1, 0)]
    assert "the caller's own group: ENOENT" in refusal(program.run(["echo", "ran"], extra))


@pytest.mark.parametrize("directory", ["a directory", "a group of version 2"])
def test_a_directory_that_is_no_group_of_version_1(program: Program, tmp_path: Path,
                                                   directory: str) -> None:
    place = str(tmp_path)
    if directory == "a group of version 2":
        mount = cgroups.mount()
        if mount is None:
            pytest.skip("no cgroup2 file system is mounted here")
        place = mount.mount_point
    extra = [operation("cgroup_v1", place, "pids"), operation("await_cgroup", 1, 0)]
    line = refusal(program.run(["echo", "ran"], extra))
    assert f"make a cgroup of pids below {place}: not a cgroup: EXDEV" in line


def test_an_ordinary_user_gets_none_of_it() -> None:
    assert not cgroup_v1.applies()
    found = cgroup.candidate(os.getuid())
    assert isinstance(found, Fact) or not found.hierarchies


def test_root_of_a_user_namespace_is_not_the_host_s(tmp_path: Path) -> None:
    script = ("import os, sys; sys.path.insert(0, sys.argv[1]);"
              "from hardrun.host import cgroup_v1; print(os.geteuid(), cgroup_v1.applies())")
    done = subprocess.run(["unshare", "--user", "--map-root-user", sys.executable, "-c", script,
                           str(Path(__file__).parents[2])], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no user namespace here: {done.stderr.strip()}")
    assert done.stdout.split() == ["0", "False"]


# -- root's ---------------------------------------------------------------------------------------


class Boxes:
    """Groups of this test's own, one in each hierarchy that it uses."""

    def __init__(self) -> None:
        self.tops = {name: Path(found.mount.mount_point)
                     for found in cgroups.hierarchies() for name in found.controllers
                     if set(found.controllers) <= USED}

    def of(self, controller: str) -> Path:
        return self.tops[controller] / NAME

    def make(self) -> None:
        for top in set(self.tops.values()):
            (top / NAME).mkdir()
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (top / file).exists():
                    (top / NAME / file).write_text((top / file).read_text())

    def groups(self) -> list[Path]:
        return sorted({path for name in self.tops for path in self.of(name).glob("hardrun-*")})

    def remove(self) -> None:
        for top in set(self.tops.values()):
            (top / NAME).rmdir()


@pytest.fixture
def boxes() -> Iterator[Boxes]:
    found = Boxes()
    if set(found.tops) != USED:
        pytest.skip("this host's controllers are not in hierarchies of cgroup v1")
    found.make()
    try:
        yield found
        assert not found.groups()
    finally:
        found.remove()


@pytest.fixture(autouse=True)
def caches_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HARDRUN, "run", "--cgroup-parent", NAME, *words], capture_output=True,
                          text=True, timeout=200, stdin=subprocess.DEVNULL, cwd="/")


def reported(tmp_path: Path, *words: str) -> dict[str, Any]:
    run("--report", str(tmp_path / "report"), *words)
    document: dict[str, Any] = json.loads((tmp_path / "report").read_text())
    return document


class Held:
    """A sandbox that waits for a line."""

    def __init__(self, boxes: Boxes, *options: str) -> None:
        self.boxes = boxes
        self.process = subprocess.Popen(
            [HARDRUN, "run", "--cgroup-parent", NAME, *options, "--", "sh", "-c",
             "echo ready; read line"], cwd="/", text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate("go\n", timeout=60)

    def file(self, name: str) -> Path:
        return self.boxes.of(name.split(".")[0]) / f"hardrun-{self.process.pid}" / name

    def read(self, name: str) -> str:
        return self.file(name).read_text().strip()

    @property
    def members(self) -> list[int]:
        return [int(pid) for pid in self.file("pids.max").with_name("cgroup.procs").read_text()
                .split()]

    def verify(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([HARDRUN, "verify", *options, str(self.process.pid)],
                              capture_output=True, text=True, timeout=100, cwd="/")


def groups_of(pid: int | str) -> dict[str, str]:
    """Each controller's group, as the kernel says it."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {name: line.split(":", 2)[2] for line in lines for name in line.split(":")[1].split(",")}


@pytest.mark.root
def test_every_limit_is_in_the_files_of_its_hierarchy_before_the_command_runs(boxes: Boxes) -> None:
    with Held(boxes, "--pids", "20", "--cpus", "0.5", "--cpuset", "0", "--io", "1M") as held:
        assert held.read("pids.max") == "21"  # and PID 1
        assert held.read("cpu.cfs_period_us") == "100000"
        assert held.read("cpu.cfs_quota_us") == "50000"
        assert held.read("cpuset.cpus") == "0"
        for way in ("read", "write"):
            rates = held.read(f"blkio.throttle.{way}_bps_device").splitlines()
            assert rates == [f"{disk} {1 << 20}" for disk in disks()]
        assert len(held.members) == 2
        assert held.process.pid not in held.members
        own = groups_of("self")
        for pid in held.members:
            found = groups_of(pid)
            assert {name: found[name] for name in USED} == dict.fromkeys(
                USED, f"/{NAME}/hardrun-{held.process.pid}")
            # Where no group was named the sandbox stays where its caller is.
            assert {n: g for n, g in found.items() if n not in USED} == {
                n: g for n, g in own.items() if n not in USED}


@pytest.mark.root
def test_inside_nothing_shows_of_the_groups(boxes: Boxes) -> None:
    done = run("--pids", "20", "--", "cat", "/proc/self/cgroup")
    assert NAME not in done.stdout
    assert re.search(r"^[0-9]+:(.*,)?pids(,.*)?:/$", done.stdout, re.MULTILINE), done.stderr


@pytest.mark.root
def test_too_many_processes_are_refused_and_told(boxes: Boxes, tmp_path: Path) -> None:
    report = reported(tmp_path, "--pids", "12", "--", "python3", "-c", PROCESSES)
    assert (report["outcome"], report["returncode"]) == ("pids-limit", 3)
    assert report["message"] == "processes were refused: pids limit 12"
    assert report["usage"]["pids_refused"] >= 1
    assert run("--pids", "12", "--", "python3", "-c", PROCESSES).stdout == "11 11\n"  # EAGAIN
    enough = reported(tmp_path, "--pids", "30", "--", "python3", "-c", PROCESSES)
    assert (enough["outcome"], enough["usage"]["pids_refused"]) == ("exited", 0)


@pytest.mark.root
def test_a_busy_command_is_throttled_and_its_time_counted(boxes: Boxes, tmp_path: Path) -> None:
    busy = ("python3", "-c", "import time\nwhile time.process_time() < 0.5: pass")
    usage = reported(tmp_path, "--cpus", "0.2", "--", *busy)["usage"]
    assert usage["throttled"] > 0
    assert 0.4 < usage["user"] + usage["system"] < 5
    assert reported(tmp_path, "--cpus", "2", "--", *busy)["usage"]["throttled"] == 0


@pytest.mark.root
def test_cpu_time_counts_children_that_nobody_waits_for(boxes: Boxes, tmp_path: Path) -> None:
    report = reported(tmp_path, "--cpu-time", "1s", "--timeout", "100s", "--", "sh", "-c",
                      "(while :; do :; done) & (while :; do :; done) & sleep 90")
    assert report["outcome"] == "cpu-limit"


@pytest.mark.root
def test_verify_finds_a_limit_that_was_raised(boxes: Boxes) -> None:
    with Held(boxes, "--pids", "20", "--cpus", "0.5", "--cpuset", "0", "--io", "1M") as held:
        kept = held.verify("--json")
        assert kept.returncode == 0, kept.stdout
        checks = {c["control"]: c for p in json.loads(kept.stdout)["processes"]
                  for c in p["checks"]}
        for control, file in (("pids", "pids.max"), ("cpus", "cpu.cfs_quota_us"),
                              ("cpuset", "cpuset.effective_cpus"),
                              ("io", "blkio.throttle.write_bps_device")):
            assert checks[f"limits.{control}"]["result"] == "holds"
            assert checks[f"limits.{control}"]["evidence"] == str(held.file(file))
        none = [f"{disk} 0" for disk in disks()]
        for file, texts in (("pids.max", ["max"]), ("cpu.cfs_quota_us", ["-1"]),
                            ("cpuset.cpus", [held.boxes.of("cpuset").joinpath("cpuset.cpus")
                                             .read_text()]),
                            ("blkio.throttle.read_bps_device", none)):
            before = held.read(file).splitlines()
            for text in texts:
                held.file(file).write_text(text)
            lost = held.verify()
            for text in before:
                held.file(file).write_text(text)
            if file == "cpuset.cpus" and texts[0].strip() == "0":
                continue  # a host with a single CPU has none to give back
            assert lost.returncode == 1, file
            assert re.search(r"differs +limits\.", lost.stdout), file
        assert held.verify().returncode == 0


@pytest.mark.root
@pytest.mark.parametrize("controller", sorted(USED - {"cpuacct"}))
def test_whoever_moves_pid_1_out_of_one_hierarchy_ends_the_sandbox(boxes: Boxes, controller: str
                                                                   ) -> None:
    with Held(boxes, "--pids", "20", "--cpus", "0.5", "--cpuset", "0", "--io", "1M") as held:
        (boxes.of(controller) / "cgroup.procs").write_text(str(min(held.members)))
        assert held.process.wait(60) == 125
        assert held.process.stderr is not None
        assert "PID 1 was moved out: ESRCH" in held.process.stderr.read()


@pytest.mark.root
def test_a_pid_1_that_was_killed_was_not_moved(boxes: Boxes) -> None:
    """A process of version 1 that ends is shown at the top of every hierarchy."""
    with Held(boxes, "--pids", "20") as held:
        os.kill(min(held.members), signal.SIGKILL)
        assert held.process.wait(60) == 128 + signal.SIGKILL
        assert held.process.stderr is not None
        assert held.process.stderr.read() == ""


@pytest.mark.root
def test_a_killed_parent_leaves_empty_groups_and_the_next_start_sweeps_them(boxes: Boxes) -> None:
    with Held(boxes, "--pids", "20") as held:
        init = min(held.members)
        held.process.kill()
        assert held.process.wait() == -signal.SIGKILL
        deadline = time.monotonic() + 20
        while os.path.exists(f"/proc/{init}") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert boxes.groups()
    assert run("--pids", "20", "--", "true").returncode == 0
    assert not boxes.groups()


@pytest.mark.root
@pytest.mark.parametrize("words", [("no-such-command",), ("sh", "-c", "exit 7"),
                                   ("sh", "-c", "kill -9 $$"), ("sh", "-c", "sleep 60 & exit")])
def test_nothing_is_left_however_it_ends(boxes: Boxes, words: tuple[str, ...]) -> None:
    run("--pids", "20", "--cpus", "0.5", "--cpuset", "0", "--", *words)
    assert not boxes.groups()


@pytest.mark.root
def test_two_at_once_have_groups_of_their_own(boxes: Boxes) -> None:
    with Held(boxes, "--pids", "20") as one, Held(boxes, "--pids", "30") as other:
        assert (one.read("pids.max"), other.read("pids.max")) == ("21", "31")
        assert not set(one.members) & set(other.members)


@pytest.mark.root
def test_a_stored_plan_does_not_run_without_its_group(boxes: Boxes) -> None:
    words = ("--pids", "20", "--", "true")
    assert run(*words).returncode == run(*words).returncode == 0
    boxes.remove()
    try:
        done = run(*words)
        assert done.returncode == 125
        assert f"--cgroup-parent {NAME}: no hierarchy of cgroup v1 has such a group" in done.stderr
    finally:
        boxes.make()


@pytest.mark.root
def test_a_demanded_limit_of_another_hierarchy_is_refused(boxes: Boxes) -> None:
    """No group was named there, and none is made: the caller's own is somebody else's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        done = run("--policy", "contained", "--swap", "0", "--", "true")
    assert done.returncode == 125
    assert "limits.swap: swap controller not delegated" in done.stderr


@pytest.mark.root
def test_only_the_top_of_a_hierarchy_is_taken_unasked(boxes: Boxes) -> None:
    found = cgroup_v1.usable()
    for hierarchy in cgroups.hierarchies():
        at_top = hierarchy.group == hierarchy.mount.mount_point
        taken = hierarchy.name in dict(found.hierarchies)
        assert at_top or not taken, hierarchy
    named = cgroup_v1.usable(NAME)
    assert {name for of, _ in named.hierarchies for name in of.split(",")} == USED
    assert "memory" not in named.controllers
    for name in (f"/{NAME}", str(boxes.of("pids"))):
        assert cgroup_v1.usable(name).hierarchies == named.hierarchies
    for name in ("../../etc", f"{NAME}/../../..", "no-such-group"):
        assert not cgroup_v1.usable(name).hierarchies


@pytest.mark.root
def test_a_mount_from_above_the_caller_s_cgroup_namespace_is_not_its_own(boxes: Boxes) -> None:
    """There the caller's group is called /, and what is mounted is everybody's."""
    script = ("import sys; sys.path.insert(0, sys.argv[1]); from hardrun.kernel import cgroups;"
              "print(*(found.name for found in cgroups.hierarchies()))")
    words = ["unshare", "--cgroup", sys.executable, "-c", script, str(Path(__file__).parents[2])]
    with Held(boxes, "--pids", "20") as held:
        joined = f"echo $$ > {held.file('pids.max').parent.parent}/cgroup.procs && exec \"$@\""
        inside = subprocess.run(["sh", "-c", joined, "sh", *words], capture_output=True, text=True,
                                check=True).stdout.split()
    outside = subprocess.run(words[2:], capture_output=True, text=True, check=True).stdout.split()
    pids = next(name for name in outside if "pids" in name.split(","))
    assert pids not in inside
    at_top = {h.name for h in cgroups.hierarchies() if h.group == h.mount.mount_point}
    assert set(inside) == at_top - {pids}


@pytest.mark.root
def test_a_cpuset_that_nobody_has_given_cpus_is_passed_over(boxes: Boxes) -> None:
    """It could hold no process: the kernel lets none in (ENOSPC)."""
    empty = boxes.of("cpuset") / "hardrun-empty"
    empty.mkdir()
    try:
        with pytest.raises(OSError, match="No space left"):
            (empty / "cgroup.procs").write_text("0")
        assert not cgroup_v1.usable(f"{NAME}/hardrun-empty").hierarchies
    finally:
        empty.rmdir()


# -- root's, by plans that hardrun would not write ------------------------------------------------


def placed(boxes: Boxes, *limits: tuple[str, str]) -> list[Operation]:
    return [*(operation("cgroup_v1", str(boxes.of(name)), name) for name in ("pids", "cpu")),
            *(operation("cgroup_limit", *limit) for limit in limits),
            operation("await_cgroup", 1, 1)]


@pytest.mark.root
@pytest.mark.parametrize("limit, errno", [
    (("memory.limit_in_bytes", "4096"), "ENOENT"),  # none of these hierarchies has it
    (("pids.max", "many"), "EINVAL"),
    (("cpu.cfs_quota_us", "1"), "EINVAL"),
])
def test_a_limit_that_can_not_be_written_ends_the_start(boxes: Boxes, program: Program,
                                                        limit: tuple[str, str], errno: str) -> None:
    line = refusal(program.run(["echo", "ran"], placed(boxes, limit)))
    assert f"limit the cgroup: {limit[0]} = {limit[1]}: write: {errno}" in line


@pytest.mark.root
def test_a_group_that_can_not_be_entered_ends_the_start(boxes: Boxes, program: Program) -> None:
    """A cpuset without memory nodes: PID 1 waits, and never goes on unlimited."""
    extra = [operation("cgroup_v1", str(boxes.of("pids")), "pids"),
             operation("cgroup_v1", str(boxes.of("cpuset")), "cpuset"),
             operation("await_cgroup", 1, 0)]
    assert "cgroup.procs: ENOSPC" in refusal(program.run(["echo", "ran"], extra))
    bare = [operation("clone", 0), *extra]
    view = [o.name for o in operations(["echo"]) if 40 <= BY_NAME[o.name].opcode < 62]
    done = program.run(["echo", "ran"], bare, without=view, unsafe=Unsafe(sum(Unsafe)))
    assert "cgroup.procs: ENOSPC" in refusal(done)


@pytest.mark.root
def test_a_sandbox_without_namespaces_is_limited_all_the_same(boxes: Boxes, program: Program
                                                              ) -> None:
    extra = [operation("clone", 0), *placed(boxes, ("pids.max", "5"))]
    view = [o.name for o in operations(["echo"]) if 40 <= BY_NAME[o.name].opcode < 62]
    done = program.run(["cat", "/proc/self/cgroup"], extra, without=view,
                       unsafe=Unsafe(sum(Unsafe)))
    assert re.search(rf":pids:/{NAME}/hardrun-[0-9]+\n", done.stdout.decode()), done.stderr


@pytest.mark.root
def test_more_hierarchies_than_there_is_room_for(boxes: Boxes, program: Program) -> None:
    """The ninth is not made; a limit that belongs there finds no file."""
    apart = [boxes.of("cpu") / f"hardrun-box-{n}" for n in range(9)]
    for path in apart:
        path.mkdir()
    try:
        extra = [*(operation("cgroup_v1", str(path), "cpu") for path in apart[:8]),
                 operation("cgroup_v1", str(boxes.of("pids")), "pids"),
                 operation("cgroup_limit", "pids.max", "5"), operation("await_cgroup", 1, 0)]
        assert "pids.max = 5: write: ENOENT" in refusal(program.run(["echo", "ran"], extra))
        assert not [path for box in apart for path in box.glob("hardrun-*")]
    finally:
        for path in apart:
            with contextlib.suppress(OSError):
                path.rmdir()
