"""Intervals and paired tests across seeds. Figures are test accuracies in percent.

Two arms are compared on the same seeds, so that what a seed does to both cancels. The p-value is
that of a sign-flip permutation test of the differences: with n pairs it cannot go below 2/2ⁿ, so
that five seeds can never reach 0.05 (two-sided, 0.0625).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Of the intervals; 1 − `LEVEL` is the level of the tests."""
POWER = 0.8
"""Chance of noticing a difference, for `seeds_needed`."""
RESAMPLES = 9999


@dataclass(frozen=True)
class Interval:
    """A mean and the bootstrap interval around it."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """An arm against a baseline on the same seeds."""

    pairs: int
    """Seeds that both have."""
    difference: Interval
    """Of the arm less the baseline; its interval is NaN below two pairs."""
    p: float
    """Two-sided, of the sign-flip permutation test; NaN below two pairs."""
    smallest_p: float
    """The smallest p that this many pairs could give; with many, not all flips are tried."""
    seeds_needed: int | None
    """See `seeds_needed`; None where the differences say nothing about it."""


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % percentile bootstrap interval, always the same for the same values."""
    data = np.asarray(values, float)
    if len(data) < 2:
        return Interval(float(data.mean()), math.nan, math.nan)
    if np.ptp(data) == 0:
        return Interval(float(data[0]), float(data[0]), float(data[0]))
    found = stats.bootstrap(
        (data,),
        np.mean,
        confidence_level=LEVEL,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(float(data.mean()), float(found.low), float(found.high))


def compare(differences: Sequence[float], comparisons: int = 1) -> Comparison:
    """What differences on the same seeds say, as one of `comparisons` that are made together.

    Raises:
        ValueError: there are none.
    """
    if not differences:
        raise ValueError("no pairs to compare")
    data = np.asarray(differences, float)
    n = len(data)
    p = math.nan
    if n >= 2:
        p = float(
            stats.permutation_test(
                (data,),
                np.mean,
                permutation_type="samples",
                vectorized=True,
                n_resamples=RESAMPLES,
                alternative="two-sided",
                rng=np.random.default_rng(0),
            ).pvalue
        )
    smallest = max(2 / 2**n, 2 / (RESAMPLES + 1))
    return Comparison(n, interval(differences), p, smallest, seeds_needed(differences, comparisons))


def seeds_needed(differences: Sequence[float], comparisons: int = 1) -> int | None:
    """Pairs with which a true difference of the size seen would be claimed four times in five.

    The usual normal approximation, n = ((z₁₋ₐ/₂ + z₀.₈)·s/|d̄|)², at the level that the first of
    Holm's steps asks for, a = 0.05/`comparisons`; at least `fewest_pairs`. None where there is no
    difference, or a single pair.
    """
    data = np.asarray(differences, float)
    if len(data) < 2 or data.mean() == 0:
        return None
    level = (1 - LEVEL) / comparisons
    z = stats.norm.ppf(1 - level / 2) + stats.norm.ppf(POWER)
    pairs = (z * data.std(ddof=1) / abs(data.mean())) ** 2
    return max(fewest_pairs(comparisons), math.ceil(float(pairs)))


def fewest_pairs(comparisons: int = 1) -> int:
    """Pairs below which no p, however alike the differences, survives Holm's adjustment."""
    return math.ceil(math.log2(2 * comparisons / (1 - LEVEL)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: the chance of any false claim among all of them stays below.

    NaN (no test was possible) stays NaN and does not count.
    """
    adjusted = [math.nan] * len(p_values)
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        adjusted[place] = largest
    return adjusted


def best_on_other_seeds(arms: Mapping[str, Mapping[int, float]], seed: int) -> str | None:
    """The arm with the best mean over all seeds but `seed`: a choice that does not peek at it.

    Args:
        arms: the figure of each arm and seed.
        seed: the seed left out.

    Returns:
        None where no arm has `seed` and another one.
    """
    means = {
        arm: float(np.mean([value for other, value in figures.items() if other != seed]))
        for arm, figures in arms.items()
        if seed in figures and len(figures) > 1
    }
    return max(means, key=lambda arm: means[arm]) if means else None
