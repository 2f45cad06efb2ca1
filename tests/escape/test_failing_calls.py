"""Calls that fail while the view is built: bounded tries, one line, and never another way."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable

import pytest

from hardrun.plan.schema import BindFlag
from tests.escape.conftest import Made
from tests.escape.layers import single_id
from tests.escape.probe import AT_FDCWD, Out, call, words_of
from tests.fake_kernel import Call, FakeKernel

pytestmark = pytest.mark.sandbox
RETRIES = 32  # RACE_RETRIES of tree.c
# What could take the place of openat2 and of the calls that mount by descriptors.
OTHERS = ("openat", "mkdirat", "symlinkat", "mount", "fsmount", "chroot")
Answered = Callable[[Call], int | None]


class Kernel:
    """Answers one call from here and counts it and those that could stand in for it."""

    def __init__(self, name: str, answer: Callable[[int], int | None]) -> None:
        self.seen: Counter[str] = Counter()
        self.after: Counter[str] = Counter()
        self._name, self._answer = name, answer

    def run(self, made: Made) -> tuple[int, str, str]:
        program = made().removed(single_id).write()
        others: dict[str, Answered] = {name: self._count(name) for name in OTHERS}
        others[self._name] = self._fail
        done = FakeKernel(others=others).run([str(program), *words_of([[call("getpid")]])])
        return done.returncode, done.stdout, done.stderr

    def _count(self, name: str) -> Answered:
        def count(_: Call) -> None:
            self.after[name] += 1
        return count

    def _fail(self, _: Call) -> int | None:
        self.seen[self._name] += 1
        self.after.clear()
        return self._answer(self.seen[self._name])


def refused(found: tuple[int, str, str], *words: str) -> bool:
    status, output, error = found
    return (status, output, error.count("\n")) == (125, "", 1) and all(w in error for w in words)


def test_fs_07_a_race_is_waited_out(sandbox: Made) -> None:
    kernel = Kernel("openat2", lambda count: -errno.EAGAIN if count < RETRIES else None)
    status, output, error = kernel.run(sandbox)
    assert (status, error) == (0, "")
    assert "steps" in output


def test_fs_07_a_race_that_does_not_end_is_given_up(sandbox: Made) -> None:
    kernel = Kernel("openat2", lambda _: -errno.EAGAIN)
    assert refused(kernel.run(sandbox), "openat2: EAGAIN")
    assert kernel.seen["openat2"] == RETRIES
    assert not kernel.after


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_fs_08_without_openat2_nothing_is_resolved_otherwise(sandbox: Made, number: int) -> None:
    kernel = Kernel("openat2", lambda _: -number)
    assert refused(kernel.run(sandbox), f"openat2: {errno.errorcode[number]}")
    assert kernel.seen["openat2"] == 1
    assert not kernel.after


@pytest.mark.parametrize("name, number", [
    ("open_tree", errno.ELOOP), ("open_tree", errno.EINVAL), ("move_mount", errno.EINVAL),
    ("move_mount", errno.ELOOP), ("mount_setattr", errno.EPERM), ("fsmount", errno.EPERM)])
def test_fs_23_a_mount_that_fails_is_not_tried_by_name(sandbox: Made, name: str, number: int
                                                       ) -> None:
    """crun #2262: an ELOOP that was dropped made it bind another tree by its path."""
    kernel = Kernel(name, lambda _: -number)
    assert refused(kernel.run(sandbox), f"{name}: {errno.errorcode[number]}")
    assert kernel.seen[name] == 1
    assert not kernel.after


def test_fs_23_where_nothing_fails_none_of_them_is_refused(sandbox: Made) -> None:
    """The control: the calls are made, and seen."""
    kernel = Kernel("move_mount", lambda _: None)
    assert kernel.run(sandbox)[0] == 0
    assert kernel.seen["move_mount"] > 10


def test_fs_23_every_bind_is_the_tree_that_was_planned(sandbox: Made) -> None:
    made = sandbox("contained")
    binds = [o.values for o in made.planned.operations if o.name == "bind"]
    assert binds
    found = made.attack(*([call("statx", AT_FDCWD, str(values[1]), 0, 0x7ff, Out(256))]
                          for values in binds))
    for values, answer in zip(binds, found, strict=True):
        assert int(values[3]) & BindFlag.PINNED
        inode = int.from_bytes(answer.out[32:40], "little")
        major, minor = (int.from_bytes(answer.out[at:at + 4], "little") for at in (136, 140))
        assert (os.makedev(major, minor), inode) == (values[4], values[5]), values[0]
        kind = int.from_bytes(answer.out[28:30], "little")
        assert stat.S_IFMT(kind) == int(values[6]) & 0xFFFFFFFF
