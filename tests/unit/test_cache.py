"""The plan cache: what it answers, whom it trusts, and that it never fails a run."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from hardrun import cache

KEY = b"a request"
PLAN = b"an artefact" * 100


@pytest.fixture
def plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hardrun" / "plans"


def only_file(directory: Path) -> Path:
    [path] = directory.iterdir()
    return path


def test_what_is_stored_is_loaded_again(plans: Path) -> None:
    assert cache.load(KEY) is None
    assert cache.store(KEY, PLAN)
    assert cache.load(KEY) == PLAN


def test_files_and_directories_are_the_owners_alone(plans: Path) -> None:
    cache.store(KEY, PLAN)
    for path in (plans, plans.parent, only_file(plans)):
        assert path.stat().st_mode & 0o077 == 0


def test_another_key_with_the_same_checksum_is_a_miss(plans: Path) -> None:
    cache.store(KEY, PLAN)
    path = only_file(plans)
    path.rename(plans / cache._name(b"another request"))
    assert cache.load(b"another request") is None


@pytest.mark.parametrize("damage", [
    lambda data: data[:10],
    lambda data: data[:-1],
    lambda data: data + b"x",
    lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
    lambda data: b"XX" + data[2:],
    lambda data: b"",
], ids=["header cut", "cut", "longer", "bit flipped", "wrong magic", "empty"])
def test_a_damaged_file_is_a_miss_and_is_replaced(plans: Path, damage: object) -> None:
    assert callable(damage)
    cache.store(KEY, PLAN)
    path = only_file(plans)
    path.write_bytes(damage(path.read_bytes()))
    assert cache.load(KEY) is None
    assert cache.store(KEY, PLAN)
    assert cache.load(KEY) == PLAN


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_does_not_count(plans: Path, mode: int) -> None:
    cache.store(KEY, PLAN)
    only_file(plans).chmod(mode)
    assert cache.load(KEY) is None


@pytest.mark.parametrize("above", [0, 1])
def test_a_directory_that_others_may_write_does_not_count(plans: Path, above: int) -> None:
    cache.store(KEY, PLAN)
    (plans, plans.parent)[above].chmod(0o770)
    assert cache.load(KEY) is None
    assert not cache.store(b"another", PLAN)


def test_symlinks_are_not_followed(plans: Path, tmp_path: Path) -> None:
    cache.store(KEY, PLAN)
    path = only_file(plans)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert cache.load(KEY) is None
    path.unlink()
    (tmp_path / "elsewhere").rename(path)
    plans.rename(tmp_path / "plans")
    plans.symlink_to(tmp_path / "plans")
    assert cache.load(KEY) is None


def test_a_fifo_in_the_place_of_a_plan_does_not_hang(plans: Path) -> None:
    cache.store(KEY, PLAN)
    path = only_file(plans)
    path.unlink()
    os.mkfifo(path, 0o600)
    assert cache.load(KEY) is None


def test_without_any_home_nothing_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    assert cache.plans_directory() is None
    assert not cache.store(KEY, PLAN)
    assert cache.load(KEY) is None


def test_a_relative_cache_directory_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", "/home/u")
    assert cache.plans_directory() == "/home/u/.cache/hardrun/plans"


@pytest.mark.parametrize("home", ["/proc/no/home", "/dev/null"])
def test_an_unwritable_home_only_means_that_nothing_is_stored(
        home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    assert not cache.store(KEY, PLAN)
    assert cache.load(KEY) is None


def test_a_full_disk_leaves_nothing_behind(plans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store(KEY, PLAN)
    # the kernel says ENOSPC for every write to /dev/full; opening goes through the real directory
    real = os.open

    def opened(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor = real(path, flags, mode, dir_fd=dir_fd)
        if flags & os.O_CREAT:
            full = real("/dev/full", os.O_WRONLY)
            os.dup2(full, descriptor)
            os.close(full)
        return descriptor

    monkeypatch.setattr(os, "open", opened)
    assert not cache.store(b"another", PLAN)
    monkeypatch.undo()
    assert [path.suffix for path in plans.iterdir()] == [".plan"]


def test_the_oldest_plans_go_first(plans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAXIMUM_FILES", 3)
    for number in range(6):
        assert cache.store(b"request %d" % number, PLAN)
        for path in plans.iterdir():
            status = path.stat()
            os.utime(path, ns=(0, status.st_mtime_ns - 10**9))
    assert [cache.load(b"request %d" % n) is not None for n in range(6)] == [False] * 3 + [True] * 3


def test_the_size_of_the_cache_is_bounded(plans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAXIMUM_BYTES", 5 * len(PLAN))
    for number in range(20):
        cache.store(b"request %d" % number, PLAN)
    assert sum(path.stat().st_size for path in plans.iterdir()) <= 5 * len(PLAN)


def test_many_writers_and_readers_see_whole_plans_only(plans: Path) -> None:
    wrong: list[bytes] = []

    def work(number: int) -> None:
        for turn in range(30):
            cache.store(KEY, bytes([number]) * (1000 + turn))
            found = cache.load(KEY)
            if found is None or len(set(found)) != 1:
                wrong.append(found or b"")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(list(plans.iterdir())) == 1


@pytest.mark.parametrize("words, halves", [
    (["run", "--", "ls"], (["run", "--", "ls"], [])),
    (["run", "--rw", ".", "--", "ls", "-l", "--", "x"], (["run", "--rw", ".", "--", "ls"],
                                                       ["-l", "--", "x"])),
    (["run", "ls"], None),
    (["run", "--"], None),
    ([], None),
])
def test_the_request_ends_with_the_command(words: list[str], halves: object) -> None:
    assert cache.split(words) == halves


def test_the_key_holds_what_a_decision_depends_on(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {cache.make_key(["run", "--", "ls"], 1)}
    keys.add(cache.make_key(["run", "--", "cat"], 1))
    for name in ("HOME", "PATH", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, "/somewhere/else")
        keys.add(cache.make_key(["run", "--", "ls"], 1))
    monkeypatch.chdir(tmp_path)
    keys.add(cache.make_key(["run", "--", "ls"], 1))
    keys.add(cache.make_key(["run", "--", "ls"], 2))
    assert len(keys) == 7
    assert None not in keys


def test_words_with_any_bytes_make_a_key(tmp_path: Path) -> None:
    key = cache.make_key(["run", "--", os.fsdecode(b"\xff\xe9\n")], 1)
    assert key is not None
    assert b"\xff\xe9\n" in key


def test_a_directory_that_is_gone_makes_no_key(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "gone"
    directory.mkdir()
    monkeypatch.chdir(directory)
    directory.rmdir()
    assert cache.make_key(["run", "--", "ls"], 1) is None
