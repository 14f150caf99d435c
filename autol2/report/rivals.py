"""A schedule against the fixed λs: which is the strongest, and does the schedule beat them all?

A schedule *beats the fixed λs* only if it beats every one of them on the seeds that both have (an
intersection-union test: its p is the largest of theirs); choosing the best fixed λ on the very runs
that are compared would claim too much. Where all runs have validation images, the fixed λ is chosen
by them, and it alone is compared with. One that shares no seed cannot be beaten.

A run that diverged counts as guessing (the chance level). A fixed λ that diverged on some seeds, or
only guesses on all of them, and is then behind is no yardstick: its mean over the seeds that it
survived says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np

from . import stats


@dataclass(frozen=True)
class Scores:
    """What an arm came to."""

    arm: str
    """Its digest."""
    label: str
    """Its name for a reader."""
    by_seed: Mapping[int, float]
    """Test accuracy of each seed; of a diverged run the chance level."""
    diverged: int = 0
    """Runs that diverged."""
    collapsed: bool = False
    """Whether every completed run only guesses."""
    value: float = math.nan
    """λ, where it is a fixed one."""
    validation: Mapping[int, float] = field(default_factory=dict)
    """Validation accuracy of each seed; empty where there is none."""

    def less(self, other: Scores) -> list[float]:
        """The differences to another arm on the seeds that both have."""
        common = sorted(self.by_seed.keys() & other.by_seed.keys())
        return [self.by_seed[seed] - other.by_seed[seed] for seed in common]


@dataclass(frozen=True)
class Comparison:
    """A schedule against the strongest fixed λ, and what it says about all of them."""

    rival: Scores
    """The one that leaves the schedule least ahead (see `strongest`); with validation, the one
    chosen by it."""
    rivals: int
    """Fixed λs with a result, in all."""
    compared: int
    """Those of them that decide."""
    at_edge: bool
    """Whether `rival` lies at an end of the grid of values, so that there may be a stronger one."""
    chosen_on: str
    """``test`` or ``validation`` accuracy."""
    differences: list[float]
    """The schedule less `rival`, a seed each."""
    better: bool
    """Whether the schedule's mean is above that of every one of them."""
    p: float
    """Two-sided. Ahead of all: the largest p, of beating each. Behind one: the smallest p of those
    ahead, times their number, of being beaten by any. NaN where a test has too few pairs."""
    decisive: Scores
    """The fixed λ that `p` is of."""
    decisive_pairs: int
    """Seeds that the schedule shares with it."""
    set_aside: list[Scores]
    """Fixed λs that diverged on some seeds, or only guess, and are no yardstick."""
    apart: list[Scores]
    """Fixed λs that share no seed with the schedule."""
    strongest: Scores
    """The one that leaves the schedule least ahead: `rival`, unless it ran on too few seeds to tell
    and another is ahead of the schedule, too."""


def compare(schedule: Scores, fixed: Sequence[Scores]) -> Comparison | None:
    """The schedule against the fixed λs; None where they share no seed, or none is a yardstick."""
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
        shown = decisive  # the strongest ran on too few seeds to tell
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
    """Whether a fixed λ that is behind is none to be measured by."""
    return bool(one.diverged or one.collapsed)


def _or(p: float, otherwise: float) -> float:
    return otherwise if math.isnan(p) else p


def by_validation(fixed: Sequence[Scores], seeds: Set[int]) -> Scores | None:
    """The arm with the highest validation accuracy on `seeds`; None unless all have it for each."""
    if not seeds or not fixed or any(not seeds <= arm.validation.keys() for arm in fixed):
        return None
    return max(fixed, key=lambda one: (_mean(one.validation, seeds), _mean(one.by_seed, seeds)))


def _mean(figures: Mapping[int, float], seeds: Set[int]) -> float:
    """Over those of `seeds` that there are, rounded so that equal ones are equal."""
    known = [figures[seed] for seed in sorted(seeds) if seed in figures]
    return round(float(np.mean(known)), 9) if known else -math.inf


def strongest(arms: Sequence[Scores]) -> Scores | None:
    """The arm with the highest mean on the seeds that all of them have; None without such a seed.

    Those that never diverged and do more than guess come first.
    """
    sound = [arm for arm in arms if not no_yardstick(arm)] or list(arms)
    seeds = set.intersection(*(set(arm.by_seed) for arm in sound)) if sound else set()
    if not seeds:
        return None
    if chosen := by_validation(sound, seeds):
        return chosen
    return max(sound, key=lambda one: np.mean([one.by_seed[seed] for seed in sorted(seeds)]))


def at_edge(one: Scores, among: Sequence[Scores]) -> bool:
    """Whether λ is the smallest (and not 0) or the largest of at least two that were tried."""
    values = {other.value for other in among if not math.isnan(other.value)}
    smallest, largest = min(values, default=0.0), max(values, default=0.0)
    return len(values) > 1 and (one.value == largest or one.value == smallest > 0)
