"""Statistics against figures worked out by hand, by plain enumeration or by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from autol2.report import stats


@pytest.mark.parametrize("n", [2, 5, 6, 9])
def test_p_is_that_of_all_sign_flips(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.5, 1, n)
    seen = abs(differences.mean())
    flips = [np.mean(differences * signs) for signs in itertools.product((1, -1), repeat=n)]
    exact = np.mean([abs(mean) >= seen - 1e-12 for mean in flips])
    assert stats.sign_flip_p(list(differences)) == pytest.approx(exact)


def test_p_of_many_pairs_is_close_to_that_of_the_t_test() -> None:
    differences = np.random.default_rng(0).normal(0.3, 1, 60)
    known = scipy.stats.ttest_1samp(differences, 0).pvalue
    assert stats.sign_flip_p(list(differences)) == pytest.approx(known, abs=0.01)


def test_p_of_ties_and_of_huge_or_tiny_differences() -> None:
    assert stats.sign_flip_p([0.0] * 6) == 1
    assert stats.sign_flip_p([0.5, -0.5] * 3) == 1
    for scale in (1e-300, 1e300):
        assert stats.sign_flip_p([scale] * 6) == 2 / 64


def test_five_pairs_cannot_reach_five_percent() -> None:
    assert stats.sign_flip_p([1.0, 1.1, 0.9, 1.2, 1.0]) == 0.0625
    assert stats.sign_flip_p([1.0, 1.1, 0.9, 1.2, 1.0, 1.3]) == pytest.approx(0.03125)
    assert math.isnan(stats.sign_flip_p([1.0]))


def test_the_interval_is_students() -> None:
    """1, 2, 3, 4, 5: 3 ± 2.776·√(2.5/5) = 1.04 to 4.96."""
    found = stats.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.mean, found.low, found.high) == pytest.approx((3, 1.0368, 4.9632), abs=1e-4)
    wide = stats.interval([1.0, 2.0, 3.0, 4.0, 5.0], 0.95, 0.99)  # t at 99 %: 4.604
    assert wide.low == found.low
    assert wide.high == pytest.approx(3 + 4.6041 * math.sqrt(0.5), abs=1e-4)


@pytest.mark.parametrize("values", [[], [2.0], [2.0, 3.0]])
def test_no_interval_below_three(values: list[float]) -> None:
    assert math.isnan(stats.interval(values).low)
    assert math.isnan(stats.iqm(values).low)
    assert math.isnan(stats.probability_of_improvement(values, [1.0] * 5).low)


@pytest.mark.parametrize("n", [3, 5, 6, 12])
def test_the_interval_covers_as_often_as_it_says(n: int) -> None:
    """The percentile bootstrap that was here covered 76 % at three and 83 % at five."""
    generator = np.random.default_rng(n)
    studies = 2000
    covered = 0
    for sample in generator.normal(3, 1, (studies, n)):
        found = stats.interval(sample)
        covered += found.low <= 3 <= found.high
    assert scipy.stats.binomtest(covered, studies, 0.95).pvalue > 1e-3


def test_holm() -> None:
    """The worked example of Holm's procedure: each p times what is left, never falling."""
    p = [0.01, 0.04, 0.03, 0.005]
    adjusted = [one * factor for one, factor in zip(p, stats.holm(p), strict=True)]
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with_gap = stats.holm([0.01, math.nan, 0.02])
    assert with_gap[::2] == pytest.approx([2, 1])
    assert math.isnan(with_gap[1])
    assert stats.holm([]) == []


def test_equal_p_are_adjusted_alike() -> None:
    assert stats.holm([0.03125] * 4) == pytest.approx([4.0] * 4)


def test_seeds_needed_are_those_of_the_noncentral_t() -> None:
    """As any power table has it: 10 pairs for one standard deviation, 34 for a half, 199 for a
    fifth (two-sided 5 %, power 80 %)."""
    differences = np.array([-1.0, 0.0, 1.0])  # standard deviation 1
    for effect, pairs in ((1, 10), (0.5, 34), (0.2, 199)):
        assert stats.seeds_needed(list(differences + effect)) == pairs
    assert stats.seeds_needed(list(differences + 50)) == 6
    assert stats.seeds_needed(list(differences)) is None
    assert stats.seeds_needed(list(differences + 1e-4)) is None
    assert stats.seeds_needed([1.0, 2.0]) is None
    assert stats.seeds_needed([0.5] * 6) == 6
    assert stats.seeds_needed(list(differences + 1), comparisons=10) > 10


@pytest.mark.parametrize("effect", [0.7, 1.0, 1.5, 2.0])
def test_so_many_seeds_do_have_that_power(effect: float) -> None:
    """A true difference of the size seen is claimed by the test four times in five."""
    n = stats.seeds_needed([effect - 1, effect, effect + 1])
    assert n is not None
    samples = np.random.default_rng(0).normal(effect, 1, (600, n))
    claimed = sum(stats.sign_flip_p(list(sample)) <= 0.05 for sample in samples)
    assert claimed / 600 > 0.75


@pytest.mark.parametrize(("comparisons", "fewest"), [(1, 6), (2, 7), (8, 9), (20, 10)])
def test_fewest_pairs_are_the_first_that_can_survive_holm(comparisons: int, fewest: int) -> None:
    assert stats.fewest_pairs(comparisons) == fewest
    for pairs in (fewest - 1, fewest):
        p = stats.sign_flip_p([1.0 + 0.01 * one for one in range(pairs)])
        assert (p * stats.holm([p, *[1.0] * (comparisons - 1)])[0] <= 0.05) == (pairs == fewest)


def test_the_interquartile_mean() -> None:
    """The mean of the middle half, as rliable has it: of 1 to 8 that of 3 to 6."""
    found = stats.iqm([1, 2, 3, 4, 5, 6, 7, 80])
    assert found.mean == 4.5
    assert 2 < found.low < 4.5 < found.high < 30
    assert stats.iqm([1, 2, 3, 4, 5, 6, 7, 80]) == found  # always the same
    assert stats.iqm([3.0] * 5) == stats.Interval(3, 3, 3)


def test_the_probability_of_improvement() -> None:
    """Mann and Whitney's U over its maximum, a tie counting half."""
    ours, theirs = [3.0, 5.0, 7.0], [1.0, 3.0, 6.0]
    found = stats.probability_of_improvement(ours, theirs)
    u = scipy.stats.mannwhitneyu(ours, theirs).statistic
    assert found.mean == pytest.approx(u / 9)
    assert 0 <= found.low < found.mean < found.high <= 1
    assert stats.probability_of_improvement([2.0] * 4, [1.0] * 4) == stats.Interval(1, 1, 1)
    generator = np.random.default_rng(0)
    x, y = generator.normal(1, 1, 40), generator.normal(0, 1, 40)
    found = stats.probability_of_improvement(x, y)
    by_scipy = scipy.stats.bootstrap(
        (x, y),
        lambda a, b: np.mean(a[:, None] > b[None]),
        vectorized=False,
        method="percentile",
        n_resamples=1000,
        rng=generator,
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx(by_scipy, abs=0.02)
