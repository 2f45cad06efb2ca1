"""Id maps and subordinate ranges."""

from __future__ import annotations

import pytest

from hardrun.kernel import idmap
from hardrun.kernel.idmap import IdMapping, SubordinateRange

SUBUID = """\
# comment
alice:100000:65536
1001:165536:65536
bob:231072
bob:x:1
bob:300000:0
bob:4294967290:100
:400000:10
bob: 500000:10
carol:131072:10
root2:0:1000
"""


def test_a_map_is_read_as_the_kernel_writes_it() -> None:
    text = "         0       1000          1\n         1     100000      65536\n"
    assert idmap.parse_map(text) == (IdMapping(0, 1000, 1), IdMapping(1, 100000, 65536))


@pytest.mark.parametrize("line", ["0 0", "0 0 1 1", "a b c", "-1 0 1"])
def test_a_map_with_another_line_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="not a line"):
        idmap.parse_map(line)


def test_lines_that_newuidmap_could_not_use_grant_nothing() -> None:
    owners = [r.owner for r in idmap.parse_subordinate(SUBUID)]
    assert owners == ["alice", "1001", "carol", "root2"]


def test_a_user_stands_in_the_file_by_name_or_by_uid() -> None:
    ranges = idmap.parse_subordinate(SUBUID)
    assert idmap.usable(ranges, "dave", 1001) == ((165536, 65536),)
    assert idmap.usable(ranges, "nobody", 7) == ()


def test_a_range_that_another_user_has_too_is_not_used() -> None:
    ranges = idmap.parse_subordinate(SUBUID)
    assert idmap.usable(ranges, "alice", 1000) == ()
    assert idmap.conflicting(ranges, "alice", 1000) == (SubordinateRange("alice", 100000, 65536),)


def test_the_hosts_root_is_nobodys_subordinate() -> None:
    assert idmap.usable(idmap.parse_subordinate(SUBUID), "root2", 1002) == ()


@pytest.mark.parametrize("start,size,overlaps", [
    (0, 10, False), (0, 11, True), (10, 1, True), (19, 5, True), (20, 5, False), (0, 100, True)])
def test_ranges_that_share_an_id_overlap(start: int, size: int, overlaps: bool) -> None:
    a, b = SubordinateRange("a", 10, 10), SubordinateRange("b", start, size)
    assert idmap.overlap(a, b) == idmap.overlap(b, a) == overlaps
