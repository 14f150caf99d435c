"""Measures how fast arms train: when they reach a test accuracy, and how this depends on λ.

A run that never reaches the target is right-censored: it counts as reaching it when the longest of
the runs that it is compared with ends. Differences are therefore those of restricted means (Royston
and Parmar, *BMC Medical Research Methodology* 13:152, 2013) and are biased towards zero. A diverged
run counts as never reaching the target, even if it did. Only runs that were evaluated at the same
epochs are compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from . import stats
from .rivals import Scores, no_yardstick
from .runs import Curves

SHORT_OF = 0.5
"""Points by which the default target lies below the final level of the strongest fixed λ."""
Run = dict[Any, Any]
"""A row of the table of runs."""


class Times(NamedTuple):
    """The time at which a run reached the target or, if it did not, at which the longest of the
    compared runs ended."""

    reached: bool
    epochs: float
    steps: float
    seconds: float


UNITS = Times._fields[1:]
"""The units of the time to a target."""
NOT_COMPARED: dict[str, Any] = dict.fromkeys(
    (
        *(f"{unit}_to_target_difference{end}" for unit in UNITS for end in ("", "_low", "_high")),
        *(f"area_difference{end}" for end in ("", "_low", "_high")),
        *("epochs_to_target_p", "area_p", "reached_target_with_rival", "rival_reached_target"),
    ),
    math.nan,
)
"""The columns of the comparison of speed, with their values for an arm that is not compared."""
FITS = (
    *("context", "batchnorm", "lambdas", "runs", "censored"),
    *("constant", "slope", "slope_low", "slope_high"),
)
"""The columns of the table that `fits` returns."""


def target(named: float | None, strongest: Scores | None) -> float:
    """Return the target test accuracy.

    Args:
        named: the target that the user has set, if any.
        strongest: the strongest fixed λ, if any. The default target is `SHORT_OF` points below its
            mean; it is NaN if the fixed λ diverged or stayed at chance level.
    """
    if named is not None:
        return named
    if strongest is None or no_yardstick(strongest):
        return math.nan
    # Rounding removes floating-point noise: an accuracy of exactly 60.2 % reaches 60.2 %.
    return round(float(np.mean(list(strongest.by_seed.values()))) - SHORT_OF, 6)


def of_run(history: Curves, steps_per_epoch: int | None, seconds: float) -> dict[str, Any]:
    """Return the columns on the speed of a run that do not depend on the target.

    Args:
        history: the history of the run.
        steps_per_epoch: the steps per epoch; None if not known.
        seconds: the duration of the run; 0 if not known.

    Returns:
        The columns, among them ``highs`` for `reached`; ``epochs_to_best`` and ``steps_to_best``,
        the time of the best test accuracy (t* of Lewkowycz and Gur-Ari); and ``area_under_curve``,
        the mean test accuracy between the first and the last evaluation by the trapezoidal rule.
    """
    epochs, accuracies = (history.epochs.get(name) or [] for name in ("epoch", "test_accuracy"))
    highs = history.highs or _highs(epochs, accuracies)
    best = highs[-1][0] if highs else None
    area = None
    if len(accuracies) > 1:
        area = float(np.trapezoid(accuracies, epochs)) / (epochs[-1] - epochs[0])
    elif accuracies:
        area = accuracies[0]
    return {
        "highs": highs,
        "evaluated": tuple(epochs),
        "steps_per_epoch": steps_per_epoch,
        "seconds_per_epoch": seconds / epochs[-1] if seconds and epochs else None,
        "epochs_to_best": best,
        "steps_to_best": round(best * steps_per_epoch) if best and steps_per_epoch else None,
        "area_under_curve": area,
    }


def _highs(epochs: list[float], accuracies: list[float]) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for epoch, accuracy in zip(epochs, accuracies, strict=True):
        if not found or accuracy > found[-1][1]:
            found.append((epoch, accuracy))
    return found


def reached(runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """Find when each completed or diverged run first reached a test accuracy of `level`.

    Args:
        runs: the table of runs.
        level: the test accuracy in percent.

    Returns:
        A table with one row per run: ``seed`` and the fields of `Times`.
    """
    rows = runs.to_dict("records")
    times = times_to(rows, level, length_of(rows))
    found = [{"seed": seed, **time_._asdict()} for seed, time_ in times.items()]
    return pd.DataFrame(found, columns=["seed", *Times._fields])


def length_of(runs: Sequence[Run]) -> float:
    """Return the number of epochs of the longest completed run."""
    done = [float(run["epochs_done"]) for run in runs if run["status"] == "completed"]
    return max(done, default=0.0)


def times_to(runs: Sequence[Run], level: float, length: float) -> dict[int, Times]:
    """Return the `Times` of each completed or diverged run, by seed; see `reached`.

    Args:
        runs: the rows of the runs.
        level: the test accuracy in percent.
        length: the number of epochs that a run which does not reach `level` counts as needing.
    """
    found: dict[int, Times] = {}
    for run in runs:
        diverged = run["status"] == "diverged"
        ended = max(length, run["epochs_done"])
        if not (diverged or run["status"] == "completed") or not ended or math.isnan(level):
            continue
        first = next((epoch for epoch, accuracy in run["highs"] if accuracy >= level), None)
        first = None if diverged else first
        epochs = float(ended) if first is None else float(first)
        paces = (run["steps_per_epoch"], run["seconds_per_epoch"])
        steps, seconds = (epochs * float(pace) if known(pace) else math.nan for pace in paces)
        found[int(run["seed"])] = Times(first is not None, epochs, steps, seconds)
    return found


def described(arm: Sequence[Run], around: Sequence[Run], level: float) -> dict[str, Any]:
    """Return the columns on the speed of an arm, which are means over its runs.

    Seconds are given only if all runs in `around` had the same hardware and number of threads.

    Args:
        arm: the runs of the arm.
        around: all runs in the same context.
        level: the target test accuracy.
    """
    times = list(times_to(arm, level, length_of(around)).values())
    some = any(time_.reached for time_ in times)
    means = [mean_of(column) for column in zip(*times, strict=True)] if some else [math.nan] * 4
    done = [run for run in arm if run["status"] == "completed"]
    return {
        "target": level,
        "reached_target": sum(time_.reached for time_ in times),
        "epochs_to_target": means[1],
        "steps_to_target": means[2],
        "seconds_to_target": means[3] if _alike(around) else math.nan,
        "steps_to_best": mean_of(numbers(done, "steps_to_best")),
        "area_under_curve": mean_of(numbers(done, "area_under_curve")),
    }


def _alike(runs: Sequence[Run]) -> bool:
    """Whether the runs had the same hardware and threads, so that their seconds are comparable."""
    ended = [run for run in runs if run["status"] in ("completed", "diverged")]
    hardware = {(run["hardware"], run["threads"]) for run in ended}
    return len(hardware) == 1 and all(known(run["hardware"]) for run in ended)


def compared(
    arm: Sequence[Run], rival: Sequence[Run], factor: float, accuracy: float
) -> dict[str, Any]:
    """Compare the speed of an arm with that of its rival, seed by seed.

    The columns are the difference in the time to a test accuracy and in the area under the curve.
    Seconds are compared only if both had the same hardware and number of threads.

    Args:
        arm: the runs of the arm.
        rival: the runs of the rival.
        factor: the factor of Holm's adjustment, which is applied to the intervals and p-values.
        accuracy: the target test accuracy.
    """
    level = 1 - (1 - stats.LEVEL) / factor
    found = dict(NOT_COMPARED)
    length = length_of([*arm, *rival])
    ours, theirs = (times_to(runs, accuracy, length) for runs in (arm, rival))
    grids = [
        {int(run["seed"]): tuple(run.get("evaluated") or ()) for run in runs}
        for runs in (arm, rival)
    ]
    both = sorted(ours.keys() & theirs.keys())
    both = [seed for seed in both if _one_grid(grids[0][seed], grids[1][seed])]
    if both:
        found["reached_target_with_rival"] = sum(ours[seed].reached for seed in both)
        found["rival_reached_target"] = sum(theirs[seed].reached for seed in both)
    if any(ours[seed].reached or theirs[seed].reached for seed in both):
        later = {
            unit: [getattr(ours[seed], unit) - getattr(theirs[seed], unit) for seed in both]
            for unit in UNITS[: 3 if _alike([*arm, *rival]) else 2]
        }
        for unit, differences in later.items():
            _put(found, f"{unit}_to_target_difference", differences, level)
        found["epochs_to_target_p"] = _adjusted(stats.sign_flip_p(later["epochs"]), factor)
    mine, others = (
        {
            int(run["seed"]): float(run["area_under_curve"])
            for run in of
            if run["status"] == "completed" and known(run["area_under_curve"])
        }
        for of in (arm, rival)
    )
    alike = [
        seed for seed in sorted(mine.keys() & others.keys()) if grids[0][seed] == grids[1][seed]
    ]
    gained = [mine[seed] - others[seed] for seed in alike]
    if gained and not any(run["status"] == "diverged" for run in (*arm, *rival)):
        _put(found, "area_difference", gained, level)
        found["area_p"] = _adjusted(stats.sign_flip_p(gained), factor)
    return found


def _one_grid(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Whether two runs were evaluated at the same epochs until the shorter one ended."""
    end = min(len(ours), len(theirs))
    return list(ours[:end]) == list(theirs[:end])


def _adjusted(p: float, factor: float) -> float:
    return p if math.isnan(p) else min(1.0, p * factor)


def _put(found: dict[str, Any], name: str, differences: list[float], level: float) -> None:
    one = stats.interval(differences, level)
    found |= {name: one.mean, f"{name}_low": one.low, f"{name}_high": one.high}


def fits(runs: pd.DataFrame) -> pd.DataFrame:
    """Fit t* = c/λ to the steps to the best test accuracy, for each context.

    Lewkowycz and Gur-Ari (*On the training dynamics of deep networks with L2 regularization*,
    NeurIPS 2020) found that this law holds if the learning rate is constant. Runs whose last
    evaluation was the best are censored and left out.

    Args:
        runs: the table of runs.

    Returns:
        A table with one row for each context with at least two fixed λs above 0. ``constant`` is c,
        the geometric mean of t*·λ. ``slope`` is the slope of log t* against log λ, which is −1 if
        the law holds; it has a 95 % interval if at least three values of λ are left.
    """
    rows = []
    if "fixed_lambda.value" not in runs:
        return pd.DataFrame(columns=FITS)
    baseline = runs["baseline"].fillna(False).astype(bool)
    fixed = runs[baseline & (runs["status"] == "completed")]
    fixed = fixed[fixed["steps_to_best"].notna() & (fixed["fixed_lambda.value"] > 0)]
    for context, around in fixed.groupby("context", sort=False):
        peaked = around[around["epochs_to_best"] < around["epochs_done"]]
        if around["fixed_lambda.value"].nunique() < 2:
            continue
        x = np.log(peaked["fixed_lambda.value"].astype(float).to_numpy())
        y = np.log(peaked["steps_to_best"].astype(float).to_numpy())
        values = len(np.unique(x))
        slope = reach = math.nan
        if values > 1:
            line = scipy_stats.linregress(x, y)
            slope = float(line.slope)
            if values > 2:
                reach = float(line.stderr) * float(
                    scipy_stats.t.ppf((1 + stats.LEVEL) / 2, len(x) - 2)
                )
        rows.append(
            {
                "context": context,
                "batchnorm": around["batchnorm"].iloc[0],
                "lambdas": values,
                "runs": len(peaked),
                "censored": len(around) - len(peaked),
                "constant": float(np.exp(np.mean(x + y))) if values > 1 else math.nan,
                "slope": slope,
                "slope_low": slope - reach,
                "slope_high": slope + reach,
            }
        )
    return pd.DataFrame(rows, columns=FITS)


def lr_stays(options: Mapping[str, Any]) -> bool:
    """Whether a run with these options has a constant learning rate, as t* = c/λ requires."""
    # Runs of autol2.train do not list a schedule that has no effect.
    return not any(
        name.partition(".")[0] in ("lr_schedule", "lr_scheduler", "scheduler")
        and str(value).lower() not in ("constant", "none", "false", "")
        for name, value in options.items()
    )


def holds(fit: pd.Series) -> bool:
    """Whether a row of `fits` is compatible with t* = c/λ; True if it has no interval."""
    low, high = fit["slope_low"] - 1e-6, fit["slope_high"] + 1e-6
    return math.isnan(low) or bool(low <= -1 <= high)


def known(value: Any) -> bool:
    """Whether a cell of the table of runs has a value."""
    return value is not None and value is not pd.NA and value == value


def numbers(runs: Sequence[Run], column: str) -> list[float]:
    """Return the known values of a column."""
    return [float(run[column]) for run in runs if column in run and known(run[column])]


def mean_of(values: Sequence[float]) -> float:
    """Return the mean; NaN if there are no values."""
    return float(np.mean(values)) if len(values) else math.nan
