"""Laws of the numbers that `hardrun bench` tells: intervals that cover, and noise that is told."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardrun.bench import law

SAMPLES = st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=law.FEWEST, max_size=20)


def _times(seed: int, scale: float, count: int = 40) -> list[float]:
    """Times as starts have them: a floor, and disturbances that only ever add."""
    generator = random.Random(seed)
    return [scale * (1 + generator.lognormvariate(-2.5, 0.7)) for _ in range(count)]


@settings(max_examples=20)
@given(SAMPLES)
def test_percentiles_lie_between_the_extremes_in_their_order(samples: list[float]) -> None:
    found = [law.percentile(samples, p) for p in (0, 5, 50, 95, 100)]
    assert found[0] == min(samples)
    assert found[-1] == max(samples)
    assert all(a <= b or math.isclose(a, b) for a, b in itertools.pairwise(found))


@settings(max_examples=20)
@given(SAMPLES)
def test_an_interval_is_of_values_that_were_seen(samples: list[float]) -> None:
    found = law.median_interval(samples)
    assert min(samples) <= found.low <= found.high <= max(samples)


@settings(max_examples=20)
@given(SAMPLES)
def test_a_series_against_itself_in_the_same_rounds_is_one(samples: list[float]) -> None:
    assert law.ratio(samples, samples, paired=True) == (1, 1, 1)


@settings(max_examples=20)
@given(SAMPLES, SAMPLES, st.sampled_from([2.0, 8.0, 0.25]))
def test_the_unit_of_time_does_not_matter(ours: list[float], theirs: list[float],
                                          factor: float) -> None:
    plain = law.ratio(ours, theirs)
    assert law.ratio([x * factor for x in ours], [x * factor for x in theirs]) == plain
    scaled = law.ratio([x * factor for x in ours], theirs)
    assert scaled == pytest.approx([x * factor for x in plain])


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    truth, held = 3.0, 0
    for seed in range(60):
        found = law.ratio(_times(2 * seed, truth), _times(2 * seed + 1, 1.0))
        held += found.low <= truth <= found.high
    assert held >= 51  # 95 % are 57; of 60 fewer than 51 are one chance in thousands


def test_more_samples_make_it_narrower() -> None:
    few, many = (law.ratio(_times(1, 1.0, n), _times(2, 1.0, n)) for n in (10, 400))
    assert many.high / many.low < few.high / few.low


@pytest.mark.parametrize("factor, expected", [(2.0, "more"), (0.5, "less"), (1.0, "same")])
def test_a_verdict_is_what_all_of_the_interval_shows(factor: float, expected: str) -> None:
    found = law.ratio(_times(1, factor, 100), _times(2, 1.0, 100))
    assert law.verdict(found, 1.03) == expected


def test_noise_is_told_and_decides_nothing() -> None:
    shaken = [1.0, 9.0, 2.0, 8.0, 1.5, 7.0, 2.5, 6.0]
    found = law.ratio(shaken, shaken[::-1])
    assert found.noisy
    assert law.verdict(found) == "noise"


@pytest.mark.parametrize("count", range(1, law.FEWEST))
def test_too_few_samples_show_nothing_however_far_apart(count: int) -> None:
    found = law.ratio([1.0] * count, [100.0] * count, paired=True)
    assert found.value == 0.01
    assert found.noisy
    assert law.verdict(found) == "noise"


def test_no_samples_have_no_median() -> None:
    with pytest.raises(ValueError, match="no samples"):
        law.median([])
