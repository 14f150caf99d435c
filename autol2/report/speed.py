"""How fast arms train: when a test accuracy is reached, and how it depends on λ.

A run that never reaches the target is right-censored: it counts as reaching it when the longest of
the runs beside it ends, so that differences are of restricted means (Royston and Parmar, *BMC
Medical Research Methodology* 13:152, 2013) and are biased towards no difference. One that diverged
never reached it, whatever it had come to. Runs are compared that were evaluated at the same epochs.
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
"""Points from the strongest fixed λ's final level down to the target, where none is named."""
Run = dict[Any, Any]
"""A row of the table of runs."""


class Times(NamedTuple):
    """When a run reached the target; if it did not, when it ended."""

    reached: bool
    epochs: float
    steps: float
    seconds: float


UNITS = Times._fields[1:]
"""What the time to a target is told in."""
NOT_COMPARED: dict[str, Any] = dict.fromkeys(
    (
        *(f"{unit}_to_target_difference{end}" for unit in UNITS for end in ("", "_low", "_high")),
        *(f"area_difference{end}" for end in ("", "_low", "_high")),
        *("epochs_to_target_p", "area_p", "reached_target_with_rival", "rival_reached_target"),
    ),
    math.nan,
)
"""The columns of a comparison of speed for an arm without one."""
FITS = (
    *("context", "batchnorm", "lambdas", "runs", "censored"),
    *("constant", "slope", "slope_low", "slope_high"),
)
"""The columns of `fits`."""


def target(named: float | None, strongest: Scores | None) -> float:
    """The test accuracy to reach: the user's, or `SHORT_OF` the strongest fixed λ's level.

    NaN where that diverged, or only guesses.
    """
    if named is not None:
        return named
    if strongest is None or no_yardstick(strongest):
        return math.nan
    # Rounded as it is said: an evaluation of exactly 60.2 % reaches 60.2 %.
    return round(float(np.mean(list(strongest.by_seed.values()))) - SHORT_OF, 6)


def of_run(history: Curves, steps_per_epoch: int | None, seconds: float) -> dict[str, Any]:
    """What of a run's speed does not depend on a target.

    Returns:
        ``highs`` for `reached`; ``epochs_to_best`` and ``steps_to_best`` of the best test accuracy
        (Lewkowycz and Gur-Ari's t*); ``area_under_curve``, the mean of the test accuracy from the
        first evaluation to the last by the trapezoidal rule.
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
    """When each run of the table of runs that came to an end first evaluated to at least `level`.

    Returns:
        A row a run: ``seed``, and the fields of `Times`.
    """
    rows = runs.to_dict("records")
    times = times_to(rows, level, length_of(rows))
    found = [{"seed": seed, **time_._asdict()} for seed, time_ in times.items()]
    return pd.DataFrame(found, columns=["seed", *Times._fields])


def length_of(runs: Sequence[Run]) -> float:
    """The epochs of the longest completed run."""
    done = [float(run["epochs_done"]) for run in runs if run["status"] == "completed"]
    return max(done, default=0.0)


def times_to(runs: Sequence[Run], level: float, length: float) -> dict[int, Times]:
    """As `reached`, by seed; one that does not reach it ends with the longest (`length`)."""
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
    """The speed of an arm: means over its runs, those that did not reach `level` at their end.

    Seconds only where all runs of `around` are known to have had the same hardware and threads.
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
    """Whether seconds of these runs can be compared."""
    ended = [run for run in runs if run["status"] in ("completed", "diverged")]
    hardware = {(run["hardware"], run["threads"]) for run in ended}
    return len(hardware) == 1 and all(known(run["hardware"]) for run in ended)


def compared(
    arm: Sequence[Run], rival: Sequence[Run], factor: float, accuracy: float
) -> dict[str, Any]:
    """The arm's time to `accuracy` and area under the curve less the rival's, seed by seed.

    Intervals and p, which is that of epochs, are adjusted by `factor`, that of Holm's adjustment.
    Seconds only where both had the same hardware and threads.
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
    """Whether two runs were evaluated at the same epochs, as long as both went on."""
    end = min(len(ours), len(theirs))
    return list(ours[:end]) == list(theirs[:end])


def _adjusted(p: float, factor: float) -> float:
    return p if math.isnan(p) else min(1.0, p * factor)


def _put(found: dict[str, Any], name: str, differences: list[float], level: float) -> None:
    one = stats.interval(differences, level)
    found |= {name: one.mean, f"{name}_low": one.low, f"{name}_high": one.high}


def fits(runs: pd.DataFrame) -> pd.DataFrame:
    """Steps to the best test accuracy against λ, with the fit t* = c/λ.

    Lewkowycz and Gur-Ari (*On the training dynamics of deep networks with L2 regularization*,
    NeurIPS 2020) found that it holds where the learning rate stays. A row for each set of
    circumstances with at least two fixed λs above 0. Runs that were best at their last evaluation
    are censored and left out. ``constant`` is c, the geometric mean of t*·λ; ``slope`` that of log
    t* against log λ, −1 where the law holds, with its 95 % interval where three values of λ or more
    are left.
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
    """Whether a run of these options has one learning rate throughout, as t* = c/λ takes it."""
    # One that moves nothing is left out of the identity of a run that was trained here.
    return not any(
        name.partition(".")[0] in ("lr_schedule", "lr_scheduler", "scheduler")
        and str(value).lower() not in ("constant", "none", "false", "")
        for name, value in options.items()
    )


def holds(fit: pd.Series) -> bool:
    """Whether a row of `fits` allows for t* = c/λ; True where it has no interval."""
    low, high = fit["slope_low"] - 1e-6, fit["slope_high"] + 1e-6
    return math.isnan(low) or bool(low <= -1 <= high)


def known(value: Any) -> bool:
    """Whether a cell of the table of runs says something."""
    return value is not None and value is not pd.NA and value == value


def numbers(runs: Sequence[Run], column: str) -> list[float]:
    """What is known of a column."""
    return [float(run[column]) for run in runs if column in run and known(run[column])]


def mean_of(values: Sequence[float]) -> float:
    """The mean; NaN of nothing."""
    return float(np.mean(values)) if len(values) else math.nan
