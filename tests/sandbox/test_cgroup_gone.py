"""Groups that somebody removes while they are in use, or that have no name that can be told.

Root's, so that the test can make them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hardrun.kernel import cgroups
from hardrun.plan.schema import Operation
from tests.fake_kernel import Call, FakeKernel
from tests.sandbox.raw import Program, operation

pytestmark = pytest.mark.root


@pytest.fixture
def parent() -> Iterator[Path]:
    """A group of the test's own, of version 2; nothing is left in it."""
    mount = cgroups.mount()
    if mount is None or mount.read_only:
        pytest.skip("no cgroup2 file system of this host's can be written")
    group = Path(mount.mount_point) / f"hardrun-test-gone.{os.getpid()}"
    group.mkdir()
    try:
        yield group
        assert [path for path in group.iterdir() if path.is_dir()] == []
    finally:
        group.rmdir()


def groups(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.name.startswith("hardrun-")]


@pytest.fixture
def program(executor: Path, tmp_path: Path) -> Program:
    return Program(executor, tmp_path)


def placed(parent: Path | str) -> list[Operation]:
    """A sandbox in a group below ``parent``, written to directly."""
    return [operation("cgroup", str(parent), "", "", b"", 0, 0, 0), operation("await_cgroup", 0, 1)]


def test_pid_1_is_in_its_group_before_it_does_anything(program: Program, parent: Path) -> None:
    """The control of what follows: nothing of the view is made outside of it."""
    seen: list[str] = []

    def look(call: Call) -> None:
        seen.append(Path(f"/proc/{call.pid}/cgroup").read_text())

    path = program.write(["echo", "ran"], placed(parent))
    done = FakeKernel(others={"open_tree": look, "pivot_root": look}).run([path])
    assert done.stdout == "ran\n", done.stderr
    assert seen
    assert all(f"/{parent.name}/hardrun-" in text for text in seen)


def test_a_group_that_goes_before_the_clone_starts_nothing(program: Program, parent: Path) -> None:
    def remove(_: Call) -> None:
        for group in groups(parent):
            group.rmdir()

    path = program.write(["echo", "ran"], placed(parent))
    done = FakeKernel(others={"clone3": remove}).run([path])
    assert (done.returncode, done.stdout) == (125, "")
    [line] = done.stderr.splitlines()
    assert "clone3: E" in line  # ENODEV or ENOENT, by the moment


def test_a_group_that_goes_before_its_limits_starts_nothing(program: Program, parent: Path
                                                            ) -> None:
    """Between mkdir(2) and the files: a limit that could not be written is never left out."""
    extra = [*placed(parent), operation("cgroup_limit", "cgroup.max.depth", "3")]
    path = program.write(["echo", "ran"], extra)

    def remove(_: Call) -> None:
        for group in groups(parent):
            group.rmdir()

    done = FakeKernel(others={"write": remove}).run([path])
    assert (done.returncode, done.stdout) == (125, "")
    [line] = done.stderr.splitlines()
    assert "cgroup.max.depth" in line


def test_a_group_that_is_killed_and_removed_meanwhile_ends_the_run(program: Program, parent: Path
                                                                  ) -> None:
    """By whoever may write there; the parent, stopped, has no part in it."""
    read_end, write_end = os.pipe()
    path = program.write(["sh", "-c", "echo ready; read line"],
                         [operation("report", write_end), *placed(parent)])
    with open(read_end, encoding="ascii") as report, subprocess.Popen(
            [path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, pass_fds=[write_end]) as process:
        os.close(write_end)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        [group] = groups(parent)
        process.send_signal(signal.SIGSTOP)
        (group / "cgroup.kill").write_text("1")
        until(lambda: "populated 0" in (group / "cgroup.events").read_text())
        group.rmdir()
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=60) == ("", "")
        told = report.read()
    assert process.returncode == 128 + signal.SIGKILL
    assert "outcome signaled" in told
    assert "cgroup." not in told, "what nobody counts any more is not told as zero"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_half_the_path_of_a_group_is_not_taken_for_the_group(program: Program, parent: Path
                                                             ) -> None:
    """What is cut off could leave the name of a group that is not the caller's."""
    deep = [parent]
    for _ in range(5):
        deep.append(deep[-1] / ("x" * 250))
        deep[-1].mkdir()
    mount = cgroups.mount()
    assert mount is not None
    path = program.write(["echo", "ran"], placed(f"{mount.mount_point}/."))
    enter = 'echo $$ >"$1/cgroup.procs" && exec "$0"'
    try:
        ended = []
        for group in (deep[1], deep[-1]):
            done = subprocess.run(["sh", "-c", enter, path, str(group)], capture_output=True,
                                  text=True, timeout=60, check=False)
            ended.append((done.returncode, done.stdout, "own group: ENAMETOOLONG" in done.stderr))
        assert ended == [(0, "ran\n", False), (125, "", True)]
    finally:
        for group in reversed(deep[1:]):
            for left in group.glob("hardrun-*"):
                left.rmdir()
            group.rmdir()
