"""The view of a run: what is visible, what is private, what was granted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hardrun.errors import BadInput
from hardrun.plan.root import MERGED, Account, RootOptions, build_view
from hardrun.plan.view import Kind, Use, View
from tests.planning import workload

OPTIONS = RootOptions(visible=frozenset({"/usr", "/etc/alternatives"}), proc="pid",
                      devices=frozenset({"null", "tty"}), private_terminals=False, network=False,
                      read_only=True, layered=False, hostname="box")
ACCOUNT = Account("tester", 1000, 1000, "/home/tester")


def view_of(options: RootOptions = OPTIONS, **flags: Any) -> View:
    return build_view(workload(**flags), ACCOUNT, options)


def kinds(view: View) -> dict[str, Kind]:
    return {entry.path: entry.kind for entry in view.entries()}


def test_nothing_of_the_host_is_visible_but_the_list() -> None:
    binds = {e.path for e in view_of().entries() if e.kind is Kind.BIND}
    assert binds - set(MERGED) == {p for p in OPTIONS.visible if os.path.exists(p)}


def test_merged_directories_are_links_as_on_the_host() -> None:
    view = view_of()
    for path in ("/bin", "/lib"):
        expected = Kind.LINK if os.path.islink(path) else Kind.BIND
        assert kinds(view)[path] is expected
    assert view.find("/bin/env").host == os.path.realpath("/bin/env")


def test_a_visible_path_that_the_host_lacks_is_passed_over() -> None:
    options = OPTIONS._replace(visible=OPTIONS.visible | {"/no/such/path"})
    assert "/no/such/path" not in kinds(view_of(options))


def test_a_visible_link_into_the_unseen_shows_its_target(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("real")
    options = OPTIONS._replace(visible=OPTIONS.visible | {f"{tmp_path}/link"})
    assert view_of(options).mounts[f"{tmp_path}/link"].source == f"{tmp_path}/real"


def test_account_files_are_made_and_never_the_hosts() -> None:
    view = view_of()
    assert view.find("/etc/passwd").host is None
    assert b"tester:x:1000:1000:tester:/home/tester:" in view.made["/etc/passwd"].content
    assert view.made["/etc/hostname"].content == b"box\n"
    assert "/etc/resolv.conf" not in view.made


def test_home_and_tmp_are_private_and_writable() -> None:
    view = view_of()
    for path in ("/home/tester", "/tmp"):
        assert (view.mounts[path].kind, view.mounts[path].use) == (Kind.PRIVATE, Use.BUILD)
    assert view.find("/var/tmp/x").inside == "/tmp/x"


def test_parents_come_before_children_and_mount_points_before_mounts() -> None:
    seen: set[str] = {"/"}
    for entry in view_of(ro=["/usr/bin:/deep/down/bin"]).entries():
        assert os.path.dirname(entry.path) in seen, entry
        seen.add(entry.path)


def test_a_nested_grant_comes_after_the_one_around_it(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    view = view_of(rw=[str(tmp_path)], ro=[f"{tmp_path}/inner"])
    paths = [e.path for e in view.entries() if e.kind is Kind.BIND]
    assert paths.index(str(tmp_path)) < paths.index(f"{tmp_path}/inner")
    assert view.mounts[f"{tmp_path}/inner"].use is Use.RUN


def test_a_grant_beneath_another_needs_a_mount_point_in_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such directory") as caught:
        view_of(rw=[f"{tmp_path}:/project"], ro=["/usr/bin:/project/not/there"])
    assert caught.value.hint


@pytest.mark.parametrize("destination", ["/", "/proc", "/proc/1", "/dev", "/dev/null", "/sys/fs"])
def test_a_grant_hides_nothing_that_the_sandbox_is_built_of(destination: str) -> None:
    with pytest.raises(BadInput, match="would hide"):
        view_of(ro=[f"/usr:{destination}"])


def test_a_destination_behind_a_link_of_the_view_lands_at_its_target(tmp_path: Path) -> None:
    view = view_of(rw=[f"{tmp_path}:/var/tmp/here"])
    assert "/tmp/here" in view.mounts


def test_a_grant_of_home_replaces_the_private_one(tmp_path: Path) -> None:
    mount = view_of(rw=[f"{tmp_path}:/home/tester"]).mounts["/home/tester"]
    assert (mount.kind, mount.source) == (Kind.BIND, str(tmp_path))


def test_what_is_visible_already_is_not_bound_again() -> None:
    assert "/usr/bin" not in view_of(ro=["/usr/bin"]).mounts


def test_a_tmpfs_without_a_size_is_part_of_the_root_and_one_with_a_size_is_not() -> None:
    view = view_of(tmpfs=["/a", "/b:1M", "/dev/shm:1M"])
    assert view.mounts["/a"].kind is Kind.PRIVATE
    assert (view.mounts["/b"].kind, view.mounts["/b"].size) == (Kind.TMPFS, 1 << 20)
    assert view.mounts["/dev/shm"].size == 1 << 20


@pytest.mark.parametrize("name", ["proc", "dev", "sys", "etc", "tmp"])
def test_cve_2019_19921_a_rootfs_that_redirects_its_system_directories_is_refused(
        tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/")
    with pytest.raises(BadInput, match=f"/{name} is a symbolic link"):
        view_of(rootfs=str(tmp_path))


def test_a_rootfs_is_looked_into_and_gets_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sh").write_text("")
    view = view_of(rootfs=str(tmp_path))
    assert view.find("/bin/sh").host == str(tmp_path / "bin/sh")
    assert view.find("/usr/bin/env").missing == "/usr"
    assert {p for p, e in view.made.items() if e.kind is Kind.DIRECTORY} >= {"/proc", "/dev"}
    assert "/etc" not in view.made


def test_links_of_a_rootfs_stay_inside_it(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "escape").symlink_to("../../../../etc")
    found = view_of(rootfs=str(tmp_path)).find("/escape")
    assert (found.inside, found.host) == ("/etc", str(tmp_path / "etc"))


def test_a_loop_of_links_is_missing_and_not_endless(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert view_of(ro=[str(tmp_path)]).find(f"{tmp_path}/a").missing
