"""mountinfo as kernels write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardrun.kernel import mounts

TEXT = r"""22 27 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:5 - proc proc rw,subset=pid
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
30 27 0:27 /home/a\040b\134c /mnt/tab\011newline\012hash\043 ro - tmpfs  rw,size=65536k,nr_inodes=4k
31 27 0:28 / /mnt/x ro,nosuid - fuse.sshfs user@host:/x ro
32 27 0:29 / /mnt/x rw,nodev - tmpfs tmpfs rw
"""


def test_every_field_of_a_line_is_read() -> None:
    proc = mounts.parse(TEXT)[0]
    assert proc == mounts.Mount(
        id=22, parent=27, device=(0, 21), root="/", mount_point="/proc",
        options=("rw", "nosuid", "nodev", "noexec", "relatime"), propagation=("shared:5",),
        type="proc", source="proc", super_options=("rw", "subset=pid"))


def test_octal_escapes_are_resolved() -> None:
    mount = mounts.parse(TEXT)[2]
    assert mount.root == "/home/a b\\c"
    assert mount.mount_point == "/mnt/tab\tnewline\nhash#"


def test_a_source_may_be_empty() -> None:
    assert mounts.parse(TEXT)[2].source == ""


def test_a_mount_is_read_only_by_its_own_flag_or_the_file_systems() -> None:
    assert [m.read_only for m in mounts.parse(TEXT)] == [False, False, True, True, False]


def test_of_several_mounts_on_one_path_the_last_is_seen() -> None:
    found = mounts.visible(mounts.parse(TEXT), "/mnt/x")
    assert found is not None
    assert found.id == 32
    assert mounts.visible(mounts.parse(TEXT), "/mnt") is None


def test_options_of_the_file_system_have_values() -> None:
    tmpfs = mounts.parse(TEXT)[2]
    assert tmpfs.super_option("size") == "65536k"
    assert tmpfs.super_option("rw") == ""
    assert tmpfs.super_option("mode") is None


@pytest.mark.parametrize("text,size", [("65536k", 64 << 20), ("4m", 4 << 20), ("512", 512),
                                       ("1G", 1 << 30)])
def test_sizes_are_in_the_units_of_tmpfs(text: str, size: int) -> None:
    assert mounts.parse_size(text) == size


@pytest.mark.parametrize("line", ["", "22 27 0:21 / /proc rw", "22 27 0:21 / /proc rw - proc proc",
                                  "a 27 0:21 / /proc rw - proc proc rw"])
def test_what_is_no_line_of_mountinfo_is_an_error(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is int()'s own for numbers
        mounts.parse_line(line)


def test_this_process_has_a_root() -> None:
    text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    assert mounts.visible(mounts.parse(text), "/") is not None
