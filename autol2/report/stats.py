"""Tests and intervals across seeds, for test accuracies in percent.

Two arms are compared on the same seeds, so that effects of a seed on both arms cancel out. The
p-value is that of a sign-flip permutation test of the differences. With n pairs, it cannot be below
2/2ⁿ, so five seeds can never reach 0.05 (two-sided; 2/2⁵ = 0.0625). Intervals of means are Student
t intervals. Intervals of the interquartile mean and of the probability of improvement are
percentile bootstrap intervals, as defined by Agarwal et al. (*Deep reinforcement learning at the
edge of the statistical precipice*, NeurIPS 2021; their package is rliable).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Confidence level of the intervals; the significance level of the tests is 1 − `LEVEL`."""
POWER = 0.8
"""Power of the test in `seeds_needed`: the probability of finding a true difference."""
RESAMPLES = 2000
"""Number of bootstrap samples."""
EXACT = 14
"""Maximum number of pairs for which all sign flips are tried."""
FLIPS = 9999
"""Number of random sign flips that are tried for more pairs."""
FEWEST = 3
"""Minimum number of values for an interval."""
MOST = 10_000
"""Maximum result of `seeds_needed`."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, whose ends are NaN for fewer than `FEWEST` values."""

    mean: float
    low: float
    high: float


NOTHING = Interval(math.nan, math.nan, math.nan)


def interval(values: Sequence[float], low: float = LEVEL, high: float | None = None) -> Interval:
    """Compute the mean and its Student t interval, which is the paired one for differences.

    Args:
        values: the values, one for each seed.
        low: the two-sided confidence level of the lower limit.
        high: the two-sided confidence level of the upper limit; None for the same level.
    """
    data = np.asarray(values, float)
    if len(data) == 0:
        return NOTHING
    mean = float(data.mean())
    if len(data) < FEWEST:
        return Interval(mean, math.nan, math.nan)
    error = float(data.std(ddof=1)) / math.sqrt(len(data))
    below, above = (_quantile(level, len(data) - 1) for level in (low, high or low))
    return Interval(mean, mean - error * below, mean + error * above)


@functools.lru_cache(maxsize=1024)
def _quantile(level: float, freedom: int) -> float:
    """Return the two-sided quantile of Student's t distribution."""
    return float(stats.t.ppf((1 + level) / 2, freedom))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Compute the two-sided p-value of the sign-flip permutation test of the mean.

    The test is exact for up to `EXACT` pairs. For more, it uses random flips with a fixed seed. The
    result is NaN for fewer than two differences.
    """
    data = np.asarray(differences, float)
    n = len(data)
    if n < 2:
        return math.nan
    scale = float(np.abs(data).max()) or 1.0
    means = np.abs(_flips(n) @ (data / scale))
    reached = int((means >= abs(data.sum() / scale) - 1e-9 * n).sum())
    if n <= EXACT:
        return reached / len(means)
    return (reached + 1) / (len(means) + 1)


@functools.lru_cache(maxsize=32)
def _flips(n: int) -> Any:
    """Return signs [flips, n]: all that begin with +, as the others mirror them, or a sample."""
    if n > EXACT:
        return np.random.default_rng(0).choice((-1.0, 1.0), (FLIPS, n))
    bits = np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1) & 1
    return np.hstack([np.ones((len(bits), 1)), 1.0 - 2 * bits])


def holm(p_values: Sequence[float]) -> list[float]:
    """Compute Holm's step-down adjustment, which controls the family-wise error rate.

    Args:
        p_values: the p-values; those of impossible tests are NaN and do not count as tests.

    Returns:
        The factor for each p-value, or NaN if it is NaN. The product may exceed 1.
    """
    factors = [math.nan] * len(p_values)
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, p * (len(order) - rank))
        factors[place] = largest / p if p else float(len(order) - rank)
    return factors


def fewest_pairs(comparisons: int = 1) -> int:
    """Return the minimum number of pairs at which a p-value can survive Holm's adjustment."""
    return math.ceil(math.log2(2 * max(comparisons, 1) / (1 - LEVEL)))


def seeds_needed(differences: Sequence[float], comparisons: int = 1) -> int | None:
    """Estimate the number of pairs at which a true difference of the observed size would be found.

    This is the smallest number of pairs, at least `fewest_pairs`, with a power of `POWER`. The
    power is that of the two-sided paired t test (noncentral t) at the level of the first of Holm's
    steps, 0.05/`comparisons`. If the sign-flip test can reject only if all differences have the
    same sign, the power is at most the probability of that.

    Args:
        differences: the observed differences.
        comparisons: the number of comparisons.

    Returns:
        The number of pairs; None if there is no difference, too few values, or more than `MOST`
        pairs would be needed.
    """
    data = np.asarray(differences, float)
    if len(data) < FEWEST or data.mean() == 0:
        return None
    spread, fewest = float(data.std(ddof=1)), fewest_pairs(comparisons)
    if spread <= 1e-9 * abs(data.mean()):
        return fewest
    effect = abs(float(data.mean())) / spread
    level = (1 - LEVEL) / max(comparisons, 1)
    low, high = fewest, fewest
    while _power(effect, high, level) < POWER:  # Double the number, then bisect.
        if high >= MOST:
            return None
        low, high = high, min(2 * high, MOST)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(effect, middle, level) >= POWER else (middle + 1, high)
    return high


def _power(effect: float, pairs: int, level: float) -> float:
    """Compute the power for differences with mean `effect` and standard deviation 1."""
    critical = stats.t.ppf(1 - level / 2, pairs - 1)
    power = float(stats.nct.sf(critical, pairs - 1, effect * math.sqrt(pairs)))
    if pairs - 1 < math.log2(2 / level):
        power = min(power, float(stats.norm.cdf(effect)) ** pairs)
    return power


def iqm(values: Sequence[float]) -> Interval:
    """Compute the interquartile mean, the mean of the middle half, and its bootstrap interval."""
    data = np.asarray(values, float)
    if len(data) == 0:
        return NOTHING
    mean = float(stats.trim_mean(data, 0.25))
    if len(data) < FEWEST:
        return Interval(mean, math.nan, math.nan)
    resampled = np.sort(data[_resamples(len(data), 0)], axis=1)
    cut = len(data) // 4
    return _percentiles(mean, resampled[:, cut : len(data) - cut].mean(axis=1))


def probability_of_improvement(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Compute the probability that a run of ours is better than one of theirs; ties count half.

    All pairs of runs are used, regardless of their seeds: the result is the Mann-Whitney U
    statistic divided by its maximum. The bootstrap resamples both sides.
    """
    x, y = np.asarray(ours, float), np.asarray(theirs, float)
    if len(x) == 0 or len(y) == 0:
        return NOTHING
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    mean = float(wins.mean())
    if min(len(x), len(y)) < FEWEST:
        return Interval(mean, math.nan, math.nan)
    counts = _counts(len(x), 0) @ wins
    return _percentiles(mean, (counts * _counts(len(y), 1)).sum(axis=1) / wins.size)


def _percentiles(mean: float, resampled: Any) -> Interval:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high))


@functools.lru_cache(maxsize=64)
def _resamples(n: int, seed: int) -> Any:
    """Return indices [RESAMPLES, n] of bootstrap samples, which are the same in every call."""
    return np.random.default_rng((seed, n)).integers(0, n, (RESAMPLES, n))


@functools.lru_cache(maxsize=64)
def _counts(n: int, seed: int) -> Any:
    """Return how often each of n values occurs in each bootstrap sample, [RESAMPLES, n]."""
    drawn = _resamples(n, seed)
    return np.stack([(drawn == place).sum(axis=1) for place in range(n)], axis=1).astype(float)
