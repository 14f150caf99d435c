"""Statistics against figures worked out by hand or by plain enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from autol2.report import stats


@pytest.mark.parametrize("n", [2, 5, 6, 9])
def test_p_is_that_of_all_sign_flips(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.5, 1, n)
    seen = abs(differences.mean())
    flips = [np.mean(differences * signs) for signs in itertools.product((1, -1), repeat=n)]
    exact = np.mean([abs(mean) >= seen - 1e-12 for mean in flips])
    assert stats.compare(list(differences)).p == pytest.approx(exact)


def test_five_pairs_cannot_reach_five_percent() -> None:
    comparison = stats.compare([1.0, 1.1, 0.9, 1.2, 1.0])
    assert comparison.p == comparison.smallest_p == 0.0625
    assert stats.compare([1.0, 1.1, 0.9, 1.2, 1.0, 1.3]).p == pytest.approx(0.03125)


@pytest.mark.parametrize("pairs", [2, 6, 13, 14, 50])
def test_the_smallest_p_is_reached(pairs: int) -> None:
    """With many pairs not all flips are tried, and p stays above what all would give."""
    comparison = stats.compare([1.0 + 0.01 * one for one in range(pairs)])
    assert comparison.p == pytest.approx(comparison.smallest_p)


def test_interval_is_repeatable_and_covers() -> None:
    generator = np.random.default_rng(1)
    samples = [list(generator.normal(3, 1, 12)) for _ in range(60)]
    intervals = [stats.interval(sample) for sample in samples]
    assert intervals == [stats.interval(sample) for sample in samples]
    covered = sum(one.low <= 3 <= one.high for one in intervals)
    assert covered >= 48  # a 95 % percentile bootstrap of twelve covers some 92 %
    assert all(one.low < one.mean < one.high for one in intervals)


def test_few_or_equal_values() -> None:
    alone = stats.interval([2.0])
    assert alone.mean == 2
    assert math.isnan(alone.low)
    assert stats.interval([2.0, 2.0]) == stats.Interval(2, 2, 2)
    assert math.isnan(stats.compare([1.0]).p)
    assert stats.compare([1.0]).seeds_needed is None
    with pytest.raises(ValueError, match="no pairs"):
        stats.compare([])


def test_holm() -> None:
    """The worked example of Holm's procedure: each p times what is left, never falling."""
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with_gap = stats.holm([0.01, math.nan, 0.02])
    assert with_gap[::2] == pytest.approx([0.02, 0.02])
    assert math.isnan(with_gap[1])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]


def test_seeds_needed() -> None:
    """d̄ = s: (1.960 + 0.842)² = 7.85, so eight; a tenth of s takes a hundred times as many."""
    differences = np.array([-1.0, 0.0, 1.0])  # standard deviation 1
    assert stats.seeds_needed(list(differences + 1)) == 8
    assert stats.seeds_needed(list(differences + 0.1)) == 785
    assert stats.seeds_needed(list(differences + 50)) == 6
    assert stats.seeds_needed(list(differences)) is None
    # One of ten: z at 0.0025 is 2.807, (2.807 + 0.842)² = 13.3.
    assert stats.seeds_needed(list(differences + 1), comparisons=10) == 14


@pytest.mark.parametrize(("comparisons", "fewest"), [(1, 6), (2, 7), (8, 9), (20, 10)])
def test_fewest_pairs_are_the_first_that_can_survive_holm(comparisons: int, fewest: int) -> None:
    assert stats.fewest_pairs(comparisons) == fewest
    for pairs in (fewest - 1, fewest):
        p = stats.compare([1.0 + 0.01 * one for one in range(pairs)]).p
        adjusted = stats.holm([p, *[1.0] * (comparisons - 1)])[0]
        assert (adjusted <= 0.05) == (pairs == fewest)


def test_the_baseline_is_chosen_without_peeking() -> None:
    """Arm a is best on seed 0 alone, and that seed has no say when it is the one compared."""
    arms = {"a": {0: 99.0, 1: 50.0, 2: 50.0}, "b": {0: 60.0, 1: 60.0, 2: 60.0}, "c": {1: 70.0}}
    assert stats.best_on_other_seeds(arms, 0) == "b"
    assert stats.best_on_other_seeds(arms, 1) == "a"
    assert stats.best_on_other_seeds({"a": {0: 1.0}}, 0) is None
