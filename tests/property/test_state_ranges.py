"""The law of the allocator: inside the user's ids, never two at once, free again afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardrun.errors import HostUnsupported
from hardrun.state import ranges

IDS = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 100)), max_size=5)


def numbers(many: list[tuple[int, int]]) -> set[int]:
    return {n for start, count in many for n in range(start, start + count)}


@given(IDS, IDS, st.integers(1, 150), st.integers(0, 500))
def test_a_place_lies_in_one_range_and_touches_nothing_busy(
        own: list[tuple[int, int]], busy: list[tuple[int, int]], size: int, after: int) -> None:
    start = ranges.place(own, busy, size, after)
    fits = [s for first, count in own for s in range(first, first + count - size + 1)
            if not numbers(busy) & set(range(s, s + size))]
    assert (start is None) == (not fits)
    if start is not None:
        assert start in fits
        assert start == min([s for s in fits if s >= after], default=min(fits))


@given(IDS, IDS)
def test_the_usual_size_leaves_room_for_many(uids: list[tuple[int, int]],
                                             gids: list[tuple[int, int]]) -> None:
    size = ranges.usual_size(uids, gids)
    total = min(sum(n for _, n in uids), sum(n for _, n in gids))
    assert 1 <= size <= 65536
    assert size == 1 or size * 64 <= total


@settings(max_examples=20, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 400), st.none()), max_size=25))
def test_ranges_are_taken_and_come_back(tmp_path_factory: object, steps: list[int | None]) -> None:
    """A number takes so many ids, None gives the oldest range back."""
    directory = tmp_path_factory.mktemp("state")  # type: ignore[attr-defined]
    uids, gids = ((4_000_000_000, 700), (4_000_001_000, 500)), ((4_000_002_000, 1200),)
    held: list[ranges.Lease] = []
    try:
        for size in steps:
            if size is None:
                if held:
                    os.close(held.pop(0).descriptor)
                continue
            wish = ranges.Wish(uids, gids, size)
            try:
                held.append(ranges.take(wish, str(directory)))
            except HostUnsupported:
                busy = [(lease.first_uid, lease.size) for lease in held]
                others = [(lease.first_gid, lease.size) for lease in held]
                assert ranges.place(uids, busy, size) is None \
                    or ranges.place(gids, others, size) is None
            for first in ("first_uid", "first_gid"):
                taken = [set(range(getattr(x, first), getattr(x, first) + x.size)) for x in held]
                assert sum(map(len, taken)) == len(set().union(*taken))
                own = numbers(list(uids if first == "first_uid" else gids))
                assert set().union(*taken) <= own
    finally:
        for lease in held:
            os.close(lease.descriptor)


def test_all_of_the_users_ids_can_be_taken_and_once(tmp_path: Path) -> None:
    wish = ranges.Wish(((4_000_000_000, 64),), ((4_000_000_000, 64),), 1)
    leases = [ranges.take(wish, str(tmp_path)) for _ in range(64)]
    assert {x.first_uid for x in leases} == set(range(4_000_000_000, 4_000_000_064))
    with pytest.raises(HostUnsupported, match="64 sandboxes hold") as caught:
        ranges.take(wish, str(tmp_path))
    assert str(os.getpid()) in caught.value.message
    assert "usermod" in str(caught.value.hint)
    for lease in leases:
        os.close(lease.descriptor)
    os.close(ranges.take(wish, str(tmp_path)).descriptor)
