"""Root file systems that somebody else made, with links where directories are expected.

What the command line sees it refuses. The executor is tried without that: its plan was made while
the image was as it should be, and the trap is set afterwards.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hardrun.errors import BadInput
from tests.escape.canary import Canary
from tests.escape.conftest import Careless, Made
from tests.escape.layers import LAYERS, Planned
from tests.escape.probe import AT_FDCWD, Out, Result, call, words_of
from tests.escape.sandbox import Sandbox

pytestmark = pytest.mark.sandbox
Link = Callable[[Path, Path], str]
LINKS: dict[str, Link] = {
    "absolute": lambda image, target: str(target),
    "relative": lambda image, target: os.path.relpath(target, image),
    "beyond the root": lambda image, target: "../" * 40 + str(target)[1:],
    "in the image": lambda image, target: "/other",
    "dangling": lambda image, target: "/nowhere/at/all",
}


def set_trap(image: Path, name: str, link: str) -> None:
    (image / name).rename(image / f"{name}.aside")
    (image / name).symlink_to(link)


def start(made: Sandbox) -> subprocess.CompletedProcess[bytes]:
    return made.start(words_of([[call("getpid")]]))


def ran(done: subprocess.CompletedProcess[bytes]) -> bool:
    """It ran, or it was refused in one line; nothing in between."""
    if done.returncode == 0:
        assert b"steps" in done.stdout
        return True
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (125, b"", 1), done
    return False


def without_own_dev(planned: Planned) -> Planned:
    """Device setup straight in the image's /dev, as other runtimes do it."""
    return planned._replace(operations=tuple(
        o for o in planned.operations if o.name != "mount_tmpfs" or o.values[0] != "/dev"))


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "etc", "tmp"])
def test_cve_2019_19921_fs_04_an_image_that_redirects_its_own_directories_is_refused(
    sandbox: Made, image: Path, canary: Canary, name: str
) -> None:
    assert sandbox(rootfs=str(image)).one(call("getpid")).word == "ok"
    set_trap(image, name, str(canary.path))
    with pytest.raises(BadInput, match=f"/{name} is a symbolic link"):
        sandbox("agent", rootfs=str(image))


@pytest.mark.parametrize("name, link", [
    *(("proc", link) for link in LINKS), *((name, "absolute") for name in ("dev", "etc", "tmp"))])
def test_fs_04_one_that_does_so_later_is_refused_as_well(
    sandbox: Made, image: Path, canary: Canary, name: str, link: str
) -> None:
    made = sandbox(rootfs=str(image))
    set_trap(image, name, LINKS[link](image, canary.path))
    done = start(made)
    assert canary.untouched
    if name != "etc":  # nothing is mounted there, so nothing has to be refused
        assert not ran(done)
        assert b": move_mount: EINVAL (operation " in done.stderr


@pytest.mark.parametrize("link", LINKS)
def test_cve_2026_41579_fs_03_dev_as_a_link_gets_no_device_outside(
    sandbox: Made, image: Path, canary: Canary, link: str
) -> None:
    """The resolution of names alone holds it, without the tmpfs that hides the image's /dev."""
    made = sandbox(rootfs=str(image)).removed(without_own_dev)
    set_trap(image, "dev", LINKS[link](image, canary.path))
    assert ran(start(made)) is (link == "in the image")
    assert canary.untouched


def test_fs_03_a_dev_of_its_own_alone_keeps_devices_inside(
    sandbox: Made, image: Path, canary: Canary, careless: Careless
) -> None:
    """The tmpfs alone, where names are followed: it covers whatever the link leads to."""
    made = sandbox(rootfs=str(image)).by(careless("follows links"))
    set_trap(image, "dev", str(canary.path))
    start(made)
    assert canary.untouched


def test_fs_03_without_both_devices_are_made_outside(
    sandbox: Made, image: Path, canary: Canary, careless: Careless
) -> None:
    made = sandbox(rootfs=str(image)).removed(without_own_dev).by(careless("follows links"))
    set_trap(image, "dev", str(canary.path))
    start(made)
    assert not canary.untouched
    assert (canary.path / "null").exists()


@pytest.mark.parametrize("link", LINKS)
def test_cve_2024_45310_fs_05_mount_points_are_made_inside(
    sandbox: Made, image: Path, canary: Canary, link: str, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    made = sandbox(rootfs=str(image), ro=[f"{tmp_path}/source:/vol/deep/down"])
    set_trap(image, "vol", LINKS[link](image, canary.path))
    ran(start(made))
    assert canary.untouched


def test_fs_05_where_links_are_followed_they_are_made_outside(
    sandbox: Made, image: Path, canary: Canary, careless: Careless, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    made = sandbox(rootfs=str(image), ro=[f"{tmp_path}/source:/vol/deep/down"])
    set_trap(image, "vol", str(canary.path))
    start(made.by(careless("follows links")))
    assert (canary.path / "deep").is_dir()
    assert not canary.untouched


@pytest.mark.parametrize("link", ["/nonexistent/b", "../../../../../../nonexistent/b"])
def test_fs_06_a_grant_behind_a_dangling_link_lies_inside(
    sandbox: Made, image: Path, tmp_path: Path, link: str
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("granted")
    (image / "a").symlink_to(link)
    made = sandbox(rootfs=str(image), ro=[f"{tmp_path}/source:/a/x"])
    answer = made.one(call("openat", AT_FDCWD, "/a/x/file", os.O_RDONLY),
                      call("read", Result(0), Out(16), 16))
    assert answer.out.rstrip(b"\0") == b"granted"
    assert (image / "nonexistent/b/x").is_dir()
    assert not Path("/nonexistent").exists()


def test_cve_2025_52565_dv_04_names_in_the_images_dev_are_never_followed(
    sandbox: Made, image: Path, canary: Canary
) -> None:
    """/dev is a tmpfs of the sandbox's own whatever the image has there, with a terminal, too."""
    (image / "dev/pts").mkdir()
    for name in ("null", "console", "ptmx", "pts/0"):
        (image / "dev" / name).symlink_to(canary.path / "all")
    for options in ({}, {"terminal": True}):
        done = start(sandbox(rootfs=str(image), **options))
        assert (done.returncode, done.stderr) == (0, b"")
    assert canary.untouched


def test_fs_21_a_resolver_file_that_is_a_link_is_not_followed(
    sandbox: Made, image: Path, canary: Canary
) -> None:
    """Only contained gives the network, and only who has it gets the host's resolver file."""
    file = image / "etc/resolv.conf"
    for target in ("/proc/self/mem", str(canary.path / "all")):
        file.unlink(missing_ok=True)
        file.symlink_to(target)
        made = sandbox("contained", rootfs=str(image), network="host")
        assert made.one(call("readlinkat", AT_FDCWD, "/etc/resolv.conf", Out(64), 64)
                        ).out.rstrip(b"\0").decode() == target[:64]
    assert canary.untouched


def test_fs_21_one_that_is_a_file_is_covered(sandbox: Made, image: Path) -> None:
    (image / "etc/resolv.conf").write_text("the image's")
    made = sandbox("contained", rootfs=str(image), network="host")
    read = (call("openat", AT_FDCWD, "/etc/resolv.conf", os.O_RDONLY),
            call("read", Result(0), Out(16), 16))
    expected = Path("/etc/resolv.conf").read_bytes()[:16] if Path("/etc/resolv.conf").exists() \
        else b"the image's"
    assert made.one(*read).out.rstrip(b"\0") == expected.rstrip(b"\0")
    written = made.one(call("openat", AT_FDCWD, "/etc/resolv.conf", os.O_WRONLY))
    assert written.word in ("EROFS", "EACCES")
    assert (image / "etc/resolv.conf").read_text() == "the image's"


@pytest.mark.parametrize("place, destination", [("/proc", "/x"), ("/proc", "/x/self/task"),
                                                ("/dev", "/x")])
def test_fs_22_a_grant_does_not_reach_proc_or_dev_through_a_link_of_the_image(
    sandbox: Made, image: Path, tmp_path: Path, place: str, destination: str
) -> None:
    (tmp_path / "source").mkdir()
    (image / "x").symlink_to(place)
    with pytest.raises(BadInput, match="would hide"):
        sandbox(rootfs=str(image), ro=[f"{tmp_path}/source:{destination}"])
    (image / "x").unlink()
    (image / "x").symlink_to("/other")
    sandbox("agent", rootfs=str(image), ro=[f"{tmp_path}/source:{destination}"])


def test_fs_16_an_image_is_read_only_by_default(sandbox: Made, image: Path) -> None:
    made = sandbox(rootfs=str(image))
    making = (call("openat", AT_FDCWD, "/vol/x", os.O_WRONLY | os.O_CREAT, 0o644),)
    assert made.one(*making).word in ("EROFS", "EACCES")
    assert made.removed(LAYERS["Landlock"]).one(*making).word == "EROFS"
    assert not (image / "vol/x").exists()
    assert made.removed(LAYERS["Landlock"], LAYERS["read-only mounts"]).one(*making).word == "ok"
    assert (image / "vol/x").exists()

