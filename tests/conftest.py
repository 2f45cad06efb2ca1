"""What every test may rely on: who runs it, where the executor is, that nothing is left behind."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import hardrun
from tests.vm import outcomes
from tests.vm.machines import MACHINES

ROOT = Path(__file__).resolve().parent.parent
SANDBOX_TESTS = ROOT / "tests" / "sandbox"
PATIENCE = 10.0  # seconds until a process that should be gone counts as left behind
MACHINE = os.environ.get("HARDRUN_VM", "")  # the virtual machine that this runs in (tests/vm)


def pytest_configure(config: pytest.Config) -> None:
    """Write down what becomes of each test, where somebody asked for that."""
    recorder = outcomes.recorder()
    if recorder:
        config.pluginmanager.register(recorder)


def _belongs_here(item: pytest.Item) -> bool:
    """Tests for a machine run in it alone, and nothing else does there."""
    machines = [name for mark in item.iter_markers("vm") for name in mark.args]
    unknown = set(machines) - set(MACHINES)
    if unknown:
        raise pytest.UsageError(f"{item.nodeid}: no machine {', '.join(sorted(unknown))}")
    if machines or MACHINE:
        return MACHINE in machines
    return os.geteuid() == 0 or not item.get_closest_marker("root")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what starts sandboxes; leave out what is for another user or another machine."""
    for item in items:
        if SANDBOX_TESTS in item.path.parents:
            item.add_marker(pytest.mark.sandbox)
    config.hook.pytest_deselected(items=[item for item in items if not _belongs_here(item)])
    items[:] = [item for item in items if _belongs_here(item)]


@pytest.fixture
def ordinary_user() -> None:
    """Fails as root, to whom the kernel grants what a sandbox must take away."""
    if os.geteuid() == 0:
        pytest.fail("this test means nothing as root: `make test` becomes an ordinary user")


@pytest.fixture(scope="session")
def executor() -> Path:
    """The executor of the hardrun under test: this tree's, or in a machine the wheel's."""
    path = Path(hardrun.__file__).parent / "executor" / "hardrun-exec"
    if not path.is_file():
        pytest.fail("the executor is not built: make executor")
    return path


class Surroundings(NamedTuple):
    """What a sandbox could leave behind in the process and the user that started it."""

    processes: frozenset[int]
    mounts: frozenset[str]
    descriptors: frozenset[tuple[int, str]]


def _owners() -> list[range]:
    """The caller's uid and its subordinate ones: whose processes could be ours."""
    ranges = [range(os.getuid(), os.getuid() + 1)]
    try:
        lines = Path("/etc/subuid").read_text().splitlines()
    except OSError:
        return ranges
    names = {str(os.getuid()), os.environ.get("USER", "")}
    for name, start, count in (line.split(":") for line in lines if line.count(":") == 2):
        if name in names:
            ranges.append(range(int(start), int(start) + int(count)))
    return ranges


def _sandboxed_or_own(owners: list[range]) -> frozenset[int]:
    """Processes of these users in a pid namespace below ours, and our own children."""
    own_depth = len(_status("self").get("NSpid", "").split())
    found = set()
    for name in os.listdir("/proc"):
        status = _status(name) if name.isdigit() else {}
        uid = int(status.get("Uid", "-1").split()[0])
        nested = len(status.get("NSpid", "").split()) > own_depth
        child = status.get("PPid") == str(os.getpid())
        if child or (nested and any(uid in owner for owner in owners)):
            found.add(int(name))
    return frozenset(found)


def _status(pid: str) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _descriptors() -> frozenset[tuple[int, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except OSError:
            continue  # the descriptor of this very listing
    return frozenset(found)


def surroundings() -> Surroundings:
    """Take stock."""
    gc.collect()
    mounts = frozenset(Path("/proc/self/mountinfo").read_text().splitlines())
    return Surroundings(_sandboxed_or_own(_owners()), mounts, _descriptors())


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Around every test that starts sandboxes: no process, mount or descriptor may outlive it."""
    if request.node.get_closest_marker("sandbox") is None:
        yield
        return
    if not request.node.get_closest_marker("root"):
        request.getfixturevalue("ordinary_user")
    before = surroundings()
    yield
    after = surroundings()
    deadline = time.monotonic() + PATIENCE
    while after.processes - before.processes and time.monotonic() < deadline:
        time.sleep(0.01)
        after = surroundings()
    left = [f"process {pid}: {_status(str(pid)).get('Name')}, {_status(str(pid)).get('State')}"
            for pid in after.processes - before.processes]
    left += [f"mount {line}" for line in after.mounts - before.mounts]
    left += [f"descriptor {n}: {link}" for n, link in after.descriptors - before.descriptors]
    if left:
        pytest.fail("left behind: " + "; ".join(left))
