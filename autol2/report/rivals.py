"""Compares a schedule with the fixed λs: finds the strongest one, and tests whether it beats all.

A schedule *beats the fixed λs* only if it beats every one of them on their common seeds. This is an
intersection-union test, whose p is the largest of the individual p-values. To choose the best fixed
λ on the same runs that are compared would claim too much. If all runs have validation images, they
are used to choose one fixed λ, and the schedule is compared only with it. A fixed λ without a
common seed cannot be beaten.

A diverged run counts at chance level. A fixed λ that diverged on some seeds, or stayed at chance
level on all of them, is excluded if the schedule is better: its accuracy is not a fair reference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np

from . import stats


@dataclass(frozen=True)
class Scores:
    """The results of an arm."""

    arm: str
    """The digest of the arm."""
    label: str
    """The name of the arm, as in the tables."""
    by_seed: Mapping[int, float]
    """The test accuracy of each seed; chance level for a diverged run."""
    diverged: int = 0
    """The number of runs that diverged."""
    collapsed: bool = False
    """Whether every completed run is at chance level."""
    value: float = math.nan
    """λ, if it is fixed; NaN otherwise."""
    validation: Mapping[int, float] = field(default_factory=dict)
    """The validation accuracy of each seed; empty if there are no validation images."""

    def less(self, other: Scores) -> list[float]:
        """Return this arm's accuracy minus that of another, on each common seed."""
        common = sorted(self.by_seed.keys() & other.by_seed.keys())
        return [self.by_seed[seed] - other.by_seed[seed] for seed in common]


@dataclass(frozen=True)
class Comparison:
    """The comparison of a schedule with the fixed λs."""

    rival: Scores
    """The fixed λ that the schedule is compared with in the report.

    It is the `strongest` one, or another that is ahead of the schedule if that one has too few
    seeds; with validation images, it is the one that they chose.
    """
    rivals: int
    """The number of fixed λs with a result."""
    compared: int
    """The number of fixed λs that the schedule is tested against."""
    at_edge: bool
    """Whether `rival` is at the edge of the grid of values, so that a stronger one may exist."""
    chosen_on: str
    """The accuracy on which `rival` was chosen: ``test`` or ``validation``."""
    differences: list[float]
    """The accuracy of the schedule minus that of `rival`, for each common seed."""
    better: bool
    """Whether the schedule has a higher mean than every fixed λ that it is tested against."""
    p: float
    """The two-sided p-value.

    If the schedule is ahead of every fixed λ, it is the largest p-value. If it is behind any, it is
    the smallest p-value among those ahead, times `compared`. NaN if there are too few pairs for the
    test.
    """
    decisive: Scores
    """The fixed λ that `p` belongs to."""
    decisive_pairs: int
    """The number of seeds that the schedule and `decisive` have in common."""
    set_aside: list[Scores]
    """Fixed λs that are excluded because they diverged on some seeds or stayed at chance level."""
    apart: list[Scores]
    """Fixed λs that have no seed in common with the schedule."""
    strongest: Scores
    """The fixed λ over which the schedule's mean lead is smallest."""


def compare(schedule: Scores, fixed: Sequence[Scores]) -> Comparison | None:
    """Compare a schedule with the fixed λs; return None if none of them is comparable."""
    found = {arm.arm: schedule.less(arm) for arm in fixed}
    there = [arm for arm in fixed if found[arm.arm]]
    set_aside = [arm for arm in there if no_yardstick(arm) and np.mean(found[arm.arm]) > 0]
    rivals = [arm for arm in there if arm not in set_aside]
    sound = [arm for arm in rivals if not no_yardstick(arm)]
    seeds = schedule.by_seed.keys() & set().union(*(arm.by_seed for arm in sound))
    apart = [arm for arm in fixed if arm not in there]
    chosen = None if apart else by_validation(sound, seeds)
    if chosen:
        rivals = [chosen, *(arm for arm in rivals if no_yardstick(arm))]
    if not rivals:
        return None
    means = {arm.arm: float(np.mean(found[arm.arm])) for arm in rivals}
    strongest = min(rivals, key=lambda one: (means[one.arm], -one.value))
    p_values = {arm.arm: stats.sign_flip_p(found[arm.arm]) for arm in rivals}
    better = all(mean > 0 for mean in means.values())
    decisive = strongest
    if better:
        decisive = max(rivals, key=lambda one: (_or(p_values[one.arm], 2.0), one is strongest))
        p = p_values[decisive.arm]
    elif means[strongest.arm] == 0:
        p = p_values[strongest.arm]
    else:
        ahead = [arm for arm in rivals if means[arm.arm] < 0]
        decisive = min(ahead, key=lambda one: (_or(p_values[one.arm], 2.0), one is not strongest))
        p = min(1.0, p_values[decisive.arm] * len(rivals))
        p = math.nan if math.isnan(p_values[decisive.arm]) else p
    shown = strongest
    if not better and len(found[strongest.arm]) < min(
        stats.fewest_pairs(), len(found[decisive.arm])
    ):
        shown = decisive  # The strongest has too few seeds for a test.
    return Comparison(
        shown,
        len(fixed),
        len(rivals),
        at_edge(shown, there),
        "validation" if shown is chosen else "test",
        found[shown.arm],
        better,
        p,
        decisive,
        len(found[decisive.arm]),
        set_aside,
        apart,
        strongest,
    )


def no_yardstick(one: Scores) -> bool:
    """Whether an arm diverged on some seeds or stayed at chance level, and is not a reference."""
    return bool(one.diverged or one.collapsed)


def _or(p: float, otherwise: float) -> float:
    return otherwise if math.isnan(p) else p


def by_validation(fixed: Sequence[Scores], seeds: Set[int]) -> Scores | None:
    """Return the arm with the highest validation accuracy on `seeds`.

    The result is None unless every arm has a validation accuracy for each of the seeds.
    """
    if not seeds or not fixed or any(not seeds <= arm.validation.keys() for arm in fixed):
        return None
    return max(fixed, key=lambda one: (_mean(one.validation, seeds), _mean(one.by_seed, seeds)))


def _mean(figures: Mapping[int, float], seeds: Set[int]) -> float:
    """Average over the `seeds` that exist, rounded so that floating-point noise breaks no ties."""
    known = [figures[seed] for seed in sorted(seeds) if seed in figures]
    return round(float(np.mean(known)), 9) if known else -math.inf


def strongest(arms: Sequence[Scores]) -> Scores | None:
    """Return the arm with the highest mean on the seeds that all arms have in common.

    Arms that diverged or stayed at chance level are considered only if there are no others.
    Validation accuracy is used if all arms have it. The result is None if there is no common seed.
    """
    sound = [arm for arm in arms if not no_yardstick(arm)] or list(arms)
    seeds = set.intersection(*(set(arm.by_seed) for arm in sound)) if sound else set()
    if not seeds:
        return None
    if chosen := by_validation(sound, seeds):
        return chosen
    return max(sound, key=lambda one: np.mean([one.by_seed[seed] for seed in sorted(seeds)]))


def at_edge(one: Scores, among: Sequence[Scores]) -> bool:
    """Whether the λ of an arm is the smallest (unless it is 0) or the largest of two or more."""
    values = {other.value for other in among if not math.isnan(other.value)}
    smallest, largest = min(values, default=0.0), max(values, default=0.0)
    return len(values) > 1 and (one.value == largest or one.value == smallest > 0)
