"""Tests and intervals across seeds. Figures are test accuracies in percent.

Two arms are compared on the same seeds, so that what a seed does to both cancels. The p-value is
that of a sign-flip permutation test of the differences: with n pairs it cannot go below 2/2ⁿ, so
that five seeds can never reach 0.05 (two-sided, 0.0625). Intervals of means are Student's; those
of the interquartile mean and of the probability of improvement are percentile bootstraps, as
Agarwal et al. define them (*Deep reinforcement learning at the edge of the statistical precipice*,
NeurIPS 2021; their package is rliable).
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
"""Of the intervals; 1 − `LEVEL` is the level of the tests."""
POWER = 0.8
"""Chance of claiming a difference, for `seeds_needed`."""
RESAMPLES = 2000
"""Of a bootstrap."""
EXACT = 14
"""Pairs up to which all sign flips are tried; beyond, `FLIPS` of them."""
FLIPS = 9999
FEWEST = 3
"""Values below which no interval is given."""
MOST = 10_000
"""Seeds above which nobody will ask how many it takes."""


@dataclass(frozen=True)
class Interval:
    """A figure and the interval around it, NaN below `FEWEST` values."""

    mean: float
    low: float
    high: float


NOTHING = Interval(math.nan, math.nan, math.nan)


def interval(values: Sequence[float], low: float = LEVEL, high: float | None = None) -> Interval:
    """The mean and its Student t interval; of differences, this is the paired t interval.

    Args:
        values: one a seed.
        low: the two-sided level that the lower limit belongs to.
        high: that of the upper limit, if it is another one.
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
    """Of Student's t, two-sided."""
    return float(stats.t.ppf((1 + level) / 2, freedom))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p of the sign-flip permutation test of the mean; NaN below two differences.

    It is exact up to `EXACT` pairs; beyond, the same random flips are tried each time.
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
    """Signs [flips, n]: of all 2ⁿ the half with a + first (the others mirror it), or a sample."""
    if n > EXACT:
        return np.random.default_rng(0).choice((-1.0, 1.0), (FLIPS, n))
    bits = np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1) & 1
    return np.hstack([np.ones((len(bits), 1)), 1.0 - 2 * bits])


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: the chance of any false claim among all of them stays below.

    Returns:
        What each p is multiplied by; the product may exceed 1. NaN (no test was possible) stays
        NaN and does not count.
    """
    factors = [math.nan] * len(p_values)
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, p * (len(order) - rank))
        factors[place] = largest / p if p else float(len(order) - rank)
    return factors


def fewest_pairs(comparisons: int = 1) -> int:
    """Pairs below which no p, however alike the differences, survives Holm's adjustment."""
    return math.ceil(math.log2(2 * max(comparisons, 1) / (1 - LEVEL)))


def seeds_needed(differences: Sequence[float], comparisons: int = 1) -> int | None:
    """Pairs with which a true difference of the size seen would be claimed four times in five.

    The power is that of the two-sided paired t test (noncentral t) at the level that the first of
    Holm's steps asks for, a = 0.05/`comparisons`; and where the sign-flip test can reject only if
    all differences have one sign, the chance of that. At least `fewest_pairs`.

    Returns:
        None where there is no difference, no spread to judge it by, or more than `MOST` are needed.
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
    while _power(effect, high, level) < POWER:  # double, then halve the gap
        if high >= MOST:
            return None
        low, high = high, min(2 * high, MOST)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(effect, middle, level) >= POWER else (middle + 1, high)
    return high


def _power(effect: float, pairs: int, level: float) -> float:
    """Of the paired t test of differences with mean `effect` and standard deviation 1."""
    critical = stats.t.ppf(1 - level / 2, pairs - 1)
    power = float(stats.nct.sf(critical, pairs - 1, effect * math.sqrt(pairs)))
    if pairs - 1 < math.log2(2 / level):
        power = min(power, float(stats.norm.cdf(effect)) ** pairs)
    return power


def iqm(values: Sequence[float]) -> Interval:
    """The interquartile mean, of the middle half of the runs, and its bootstrap interval."""
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
    """The chance that a run of ours is better than one of theirs, a tie counting half.

    Over all pairs of runs, whatever their seeds (Mann and Whitney's U divided by its maximum);
    the bootstrap resamples both sides.
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
    """Places [RESAMPLES, n], the same each time."""
    return np.random.default_rng((seed, n)).integers(0, n, (RESAMPLES, n))


@functools.lru_cache(maxsize=64)
def _counts(n: int, seed: int) -> Any:
    """How often each of n values is drawn, [RESAMPLES, n]."""
    drawn = _resamples(n, seed)
    return np.stack([(drawn == place).sum(axis=1) for place in range(n)], axis=1).astype(float)
