"""Names that change while a sandbox is built: by chance in loops, and at every chosen moment.

The oracle lies outside: a tree that must be, to the last inode and time, what it was before.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.escape.canary import SECRET, Canary
from tests.escape.conftest import Careless, Made
from tests.escape.layers import single_id
from tests.escape.paused import Paused
from tests.escape.probe import AT_FDCWD, Answer, Out, Result, answers_of, call, words_of
from tests.escape.sandbox import Sandbox
from tests.escape.test_rootfs_traps import ran, start
from tests.fake_kernel import Call, FakeKernel

pytestmark = pytest.mark.sandbox
STARTS, MANY = 40, 300  # of the real executor; of a careless one until the attack works
RACE = 20_000  # milliseconds; ended before where nobody starts any more
HARMLESS = b"harmless"
READ = (call("openat", AT_FDCWD, "/data/file", os.O_RDONLY),
        call("read", Result(0), Out(len(SECRET)), len(SECRET)))


class Swapped:
    """Names and what an attacker puts in their place, and back."""

    def __init__(self, *pairs: tuple[Path, Path]) -> None:
        self.pairs = pairs

    def swap(self) -> None:
        for name, other in self.pairs:
            aside = name.with_name("aside")
            name.rename(aside)
            other.rename(name)
            aside.rename(other)


@pytest.fixture
def traps(image: Path, canary: Canary) -> Swapped:
    """Every directory of an image, and a link to the canary for each."""
    for name in ("dev", "etc", "proc", "tmp", "vol"):
        (image / f"{name}.link").symlink_to(canary.path)
    return Swapped(*((image / name, image / f"{name}.link")
                     for name in ("dev", "etc", "proc", "tmp", "vol")))


@pytest.fixture
def granted(sandbox: Made, image: Path, tmp_path: Path) -> Sandbox:
    """A sandbox in that image with something mounted deep in it."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(HARMLESS)
    return sandbox(rootfs=str(image), ro=[f"{tmp_path}/source:/vol/deep/down"])


def moments(made: Sandbox) -> range:
    """The operations between the root's and the end of what is done in it."""
    return range(made.steps.index("root_bind") + 1, made.steps.index("pivot_root") + 1)


def swapped_before(made: Sandbox, number: int, swapped: Swapped, directory: Path
                   ) -> subprocess.CompletedProcess[bytes]:
    """A start that stands still before an operation while names are swapped."""
    with Paused(directory, number) as paused, subprocess.Popen(
            [made.write(), *words_of([READ])], env=paused.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert paused.wait(process)
        swapped.swap()
        paused.go()
        output, error = process.communicate(timeout=60)
    return subprocess.CompletedProcess([], process.returncode, output, error)


# -- at a chosen moment ----------------------------------------------------------------------------


def test_cve_2021_30465_fs_02_links_that_appear_before_any_operation_lead_nowhere(
    granted: Sandbox, traps: Swapped, canary: Canary, pausing: Path, tmp_path: Path
) -> None:
    made = granted.by(pausing)
    for number in moments(made):
        done = swapped_before(made, number, traps, tmp_path)
        ran(done)
        assert canary.untouched, (made.steps[number], done)
        traps.swap()


def test_fs_02_where_links_are_followed_one_of_them_leads_outside(
    granted: Sandbox, traps: Swapped, canary: Canary, careless: Careless, tmp_path: Path
) -> None:
    made = granted.by(careless("follows links"))
    for number in moments(made):
        swapped_before(made, number, traps, tmp_path)
        traps.swap()
        if not canary.untouched:
            return
    pytest.fail("inconclusive: no moment at which a link leads outside")


def between_target_and_mount(made: Sandbox, image: Path, canary: Canary) -> Answer:
    """Swaps a parent of the mount point when it was opened, and back when the mount was made."""
    (image / "link").symlink_to(canary.path / "inner")
    swapped = Swapped((image / "vol", image / "link"))
    operations = [o for o in made.planned.operations if o.name.startswith(("bind", "mount_"))]
    # that of the root comes before
    number = 1 + [o.values[1] for o in operations].index("/vol/deep/down")
    seen = 0

    def before_mount(_: Call) -> None:
        nonlocal seen
        if seen == number:
            swapped.swap()
        seen += 1

    reading = (call("openat", AT_FDCWD, "/vol/deep/down/file", os.O_RDONLY),)
    done = FakeKernel(others={"move_mount": before_mount, "pivot_root": lambda _: swapped.swap()}
                      ).run([str(made.write()), *words_of([reading])])
    assert seen > number, done
    return answers_of(done.stdout.encode())[0]


def test_fs_02_a_mount_point_is_the_one_that_was_opened(
    granted: Sandbox, canary: Canary, image: Path
) -> None:
    assert between_target_and_mount(granted.removed(single_id), image, canary).word == "ok"
    assert canary.untouched


def test_fs_02_one_that_is_looked_up_again_is_another(
    granted: Sandbox, canary: Canary, image: Path, careless: Careless
) -> None:
    made = granted.removed(single_id).by(careless("follows links"))
    assert between_target_and_mount(made, image, canary).word == "ENOENT"


@pytest.fixture
def data(sandbox: Made, canary: Canary, tmp_path: Path) -> tuple[Sandbox, Path]:
    """A sandbox with a grant, and where it comes from."""
    shared = tmp_path / "shared"
    (shared / "data").mkdir(parents=True)
    (shared / "data/file").write_bytes(HARMLESS)
    (shared / "link").symlink_to(canary.path / "inner")
    (shared / "other").mkdir()
    (shared / "other/file").write_bytes(SECRET)
    return sandbox(ro=[f"{shared}/data:/data"]), shared


@pytest.mark.parametrize("kind", ["link", "other"])
def test_cve_2024_1753_fs_09_a_source_that_is_swapped_is_not_bound(
    data: tuple[Sandbox, Path], pausing: Path, tmp_path: Path, kind: str
) -> None:
    made, shared = data[0].by(pausing), data[1]
    swapped = Swapped((shared / "data", shared / kind))
    number = next(i for i, o in enumerate(made.ordered) if "/data" in o.values[1:2])
    done = swapped_before(made, number, swapped, tmp_path)
    assert not ran(done)
    assert b"bind " in done.stderr


@pytest.mark.parametrize("kind", ["link", "other"])
def test_fs_09_without_the_comparison_it_is(
    data: tuple[Sandbox, Path], careless: Careless, tmp_path: Path, kind: str
) -> None:
    made, shared = data[0].by(careless("trusts names")), data[1]
    swapped = Swapped((shared / "data", shared / kind))
    number = next(i for i, o in enumerate(made.ordered) if "/data" in o.values[1:2])
    assert answers_of(swapped_before(made, number, swapped, tmp_path).stdout)[0].out == SECRET


# -- by chance -------------------------------------------------------------------------------------


@contextmanager
def exchanging(made: Sandbox, name: Path, other: Path) -> Iterator[None]:
    """Another sandbox, which exchanges two names in a directory of its own meanwhile."""
    program = made.write("attacker")
    words = words_of([[call("@race", str(name), str(other), 1)],
                      [call("@race", str(name), str(other), RACE)]])
    with subprocess.Popen([program, *words], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = answers_of(process.stdout.readline())[0]
        assert first.word == "ok"
        assert first.steps[0].value > 0
        yield
        assert process.poll() is None, "the attacker ended before"
        process.kill()


def test_cve_2021_30465_fs_05_an_image_that_another_sandbox_changes_leads_nowhere(
    sandbox: Made, granted: Sandbox, traps: Swapped, canary: Canary, image: Path
) -> None:
    with exchanging(sandbox(rw=[str(image)]), image / "vol", image / "vol.link"):
        outcomes = {ran(start(granted)) for _ in range(STARTS)}
    assert outcomes
    assert canary.untouched


def test_fs_05_where_links_are_followed_such_an_image_leads_outside(
    sandbox: Made, granted: Sandbox, traps: Swapped, canary: Canary, image: Path,
    careless: Careless
) -> None:
    made = granted.by(careless("follows links"))
    with exchanging(sandbox(rw=[str(image)]), image / "vol", image / "vol.link"):
        assert any(start(made) and not canary.untouched for _ in range(MANY)), "inconclusive"


def _read(made: Sandbox) -> bytes:
    done = made.start(words_of([READ]))
    return answers_of(done.stdout)[0].out if ran(done) else b""


def test_fs_09_a_source_that_another_sandbox_swaps_is_what_it_was_or_refused(
    sandbox: Made, data: tuple[Sandbox, Path], canary: Canary
) -> None:
    made, shared = data
    with exchanging(sandbox(rw=[str(shared)]), shared / "data", shared / "link"):
        found = {_read(made).rstrip(b"\0") for _ in range(STARTS)}
    assert found <= {HARMLESS, b""}
    assert canary.untouched


def test_fs_09_without_the_comparison_a_swapped_source_gives_the_secret_away(
    sandbox: Made, data: tuple[Sandbox, Path], careless: Careless
) -> None:
    made, shared = data[0].by(careless("trusts names")), data[1]
    with exchanging(sandbox(rw=[str(shared)]), shared / "data", shared / "link"):
        assert any(_read(made) == SECRET for _ in range(MANY)), "inconclusive"
