"""Records of containers: names, locks, reports, and what a kill at any step leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hardrun.containers.asked import Asked, check_name
from hardrun.errors import BadInput, HardrunError
from hardrun.state.containers import Record, Store
from hardrun.state.remove import remove_tree


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "state").mkdir()
    return Store(str(tmp_path / "state"))


def report_of(store: Store) -> str:
    return os.path.join(store.path, "{}.report")


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "web-1", "_x", "a.b+c", "9", "A" * 128])
def test_jn_06_names_as_other_runtimes_have_them(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", ".", "..", ".hidden", "a/b", "a b", "a\n", "\x1b[2J",
                                  "ä", "a\0", "A" * 129, "a;b", "٣"])
def test_jn_06_nothing_else_is_a_name(name: str) -> None:
    with pytest.raises(BadInput, match="is no name for a container"):
        check_name(name)


def test_a_name_is_taken_once_whoever_comes(store: Store) -> None:
    def add(_: int) -> bool:
        try:
            Store(store.path).add("one", "{}")
        except BadInput:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(add, range(50))) == 1
    assert [seen.record.name for seen in store.look()] == ["one"]


def test_fifty_at_a_time_get_numbers_of_their_own(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        records = list(pool.map(lambda n: Store(store.path).add(f"c{n}", "{}"), range(50)))
    assert len({record.number for record in records}) == 50


def test_a_number_is_never_given_again(store: Store) -> None:
    """A layer that was left behind must not become another container's."""
    first = store.add("a", "{}").number
    with store.removing("a"):
        pass
    assert store.add("a", "{}").number > first


def test_a_layer_of_a_lost_database_is_nobodys(store: Store) -> None:
    store.add("a", "{}")
    os.makedirs(os.path.join(store.layers, "7.upper"))
    os.unlink(os.path.join(store.path, "state.db"))
    assert store.add("a", "{}").number == 8
    assert store.add("b", "{}").number == 9


def test_what_there_is_not_is_told_in_one_line(store: Store) -> None:
    for act in (store.look, lambda name: store.begin(name, report_of(store))):
        with pytest.raises(BadInput, match="there is no container nobody"):
            act("nobody")


# -- locks -----------------------------------------------------------------------------------------


def test_one_start_at_a_time(store: Store) -> None:
    store.add("a", "{}")

    def begin(_: int) -> int | None:
        try:
            return Store(store.path).begin("a", report_of(store))[1]
        except BadInput:
            return None

    with ThreadPoolExecutor(16) as pool:
        locks = [lock for lock in pool.map(begin, range(50)) if lock is not None]
    assert len(locks) == 1
    assert store.look("a")[0].held
    os.close(locks[0])
    assert not store.look("a")[0].held


def test_the_lock_lives_as_long_as_whoever_inherited_it(store: Store) -> None:
    store.add("a", "{}")
    _, lock = store.begin("a", report_of(store))
    child = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    os.close(lock)
    assert store.look("a")[0].held
    with pytest.raises(BadInput, match="runs"), store.removing("a"):
        pass
    child.kill()
    child.wait()
    assert not store.look("a")[0].held


def test_a_range_of_ids_and_a_container_never_have_one_lock(store: Store) -> None:
    from hardrun.state import ranges

    store.add("a", "{}")
    lease = ranges.take(ranges.Wish(((100000, 64),), ((100000, 64),), 64), store.path)
    assert not store.look("a")[0].held
    os.close(lease.descriptor)


# -- reports ---------------------------------------------------------------------------------------


def ran(store: Store, report: bytes | None) -> Record:
    record, lock = store.begin("a", report_of(store))
    store.note_start(record.number, os.getpid(), 1, "digest")
    if report is not None:
        Path(str(record.report_file)).write_bytes(report)
    os.close(lock)
    return record


@pytest.mark.parametrize("report", [b"outcome exited\nstatus 3\n", b"", None, b"outc"])
def test_a_report_is_collected_once_and_its_file_is_gone(
    store: Store, report: bytes | None
) -> None:
    store.add("a", "{}")
    record = ran(store, report)
    for _ in range(2):
        found = store.look("a")[0].record
        assert found.report == (report or b"")
        assert (found.pid, found.report_file) == (None, None)
    assert not os.path.exists(str(record.report_file))


def test_a_link_in_the_place_of_a_report_is_not_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("outcome exited\n")
    store.add("a", "{}")
    record = ran(store, None)
    os.symlink(tmp_path / "secret", str(record.report_file))
    assert store.look("a")[0].record.report == b""
    assert (tmp_path / "secret").exists()


def test_a_start_that_was_not_noted_leaves_the_last_report(store: Store) -> None:
    store.add("a", "{}")
    ran(store, b"outcome exited\nstatus 3\n")
    record, lock = store.begin("a", report_of(store))
    Path(str(record.report_file)).write_bytes(b"outcome cancelled\n")
    os.close(lock)  # whoever started it was killed
    assert store.look("a")[0].record.report == b"outcome exited\nstatus 3\n"


def test_a_record_survives_the_kill_of_its_writer(store: Store) -> None:
    program = ("import os, signal, sys; from hardrun.state.containers import Store\n"
               "store = Store(sys.argv[1])\n"
               "for n in range(10**6): store.add(f'c{n}', '{}'); print(n, flush=True)\n")
    child = subprocess.Popen([sys.executable, "-c", program, store.path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(5):
        child.stdout.readline()
    child.kill()
    written = 5 + len(child.communicate()[0].splitlines())
    assert written <= len(store.look()) <= written + 1
    store.add("after", "{}")


def test_the_database_is_nobody_elses_to_read(store: Store) -> None:
    """Values of --env NAME=VALUE are in it."""
    store.add("a", "{}")
    database = Path(store.path, "state.db")
    assert database.stat().st_mode & 0o077 == 0
    database.chmod(0o644)
    store.add("b", "{}")
    assert database.stat().st_mode & 0o077 == 0


# -- what is kept of a request ---------------------------------------------------------------------


def test_a_request_comes_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = {"ro": ("a", "\udcff"), "network": None, "limits": {"memory": "1G"}, "terminal": True}
    asked = Asked.now(["cmd", "\udc80"], ("contained", "own.yaml", "sub/own"), flags)
    assert Asked.from_json(asked.to_json()) == asked
    assert asked.policies == ("contained", str(tmp_path / "own.yaml"), str(tmp_path / "sub/own"))
    assert "network" not in asked.flags
    assert "terminal" not in asked.detached().flags


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"argv": 1}', '{"argv":[],"directory":"/"}'])
def test_a_damaged_request_is_told_in_one_line(text: str) -> None:
    with pytest.raises(BadInput, match="can't be read"):
        Asked.from_json(text)


def test_what_another_version_was_asked_for_is_never_left_out(tmp_path: Path) -> None:
    asked = Asked(("true",), str(tmp_path), (), {"stronger": True})
    with pytest.raises(BadInput, match="knows nothing of stronger"):
        asked.decide()


# -- what a container wrote is removed -------------------------------------------------------------


def test_a_tree_of_any_depth_and_any_modes_is_removed(tmp_path: Path) -> None:
    tree = tmp_path / "layer"
    tree.mkdir()
    (tree / "locked").mkdir()
    (tree / "locked/inner").mkdir()
    (tree / "locked/inner/file").write_text("x")
    (tree / "link").symlink_to("/etc")
    (tree / "file").write_text("x")
    (tree / "file").chmod(0)
    (tree / "locked/inner").chmod(0)
    (tree / "locked").chmod(0)
    here = os.open(tree, os.O_RDONLY)
    for _ in range(3000):  # deeper than names may be long, and than Python may recurse
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    remove_tree(str(tree))
    assert not tree.exists()
    assert Path("/etc").is_dir()
    remove_tree(str(tree))


def test_a_link_in_the_place_of_a_tree_is_removed_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove_tree(str(tmp_path / "link"))
    assert (tmp_path / "kept/file").exists()
    assert not (tmp_path / "link").is_symlink()


def test_what_can_not_be_removed_is_told_and_the_container_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hardrun.containers import manage

    store.add("a", "{}")

    def refuse(path: str) -> None:
        raise HardrunError(f"{path} can't be removed")

    monkeypatch.setattr(manage, "remove_tree", refuse)
    with pytest.raises(HardrunError):
        manage.remove(store, "a")
    assert [seen.record.name for seen in store.look()] == ["a"]
