"""What a study's arms came to, and how each compares with the best fixed λ."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

from ..runs.run import FINISHED
from . import stats

FIGURE = "mean_last_10_epochs"
"""The figure that arms are compared by: less noisy than the last epoch's, and not a maximum over
test accuracies, which would peek."""
NAMES = {
    "fixed": "fixed λ",
    "auto_l2": "Auto L2",
    "threshold": "threshold",
    "advance": "Advance L2",
    "combined": "combined",
    "cosine": "cosine",
    "decoupled": "decoupled",
    "cpr": "CPR",
}
"""Of methods, for a reader, in the order of tables."""


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """A row an arm, from the table of runs."""
    readable = runs[runs["method"].notna()]
    arms = []
    for _, around in readable.groupby("context", sort=False):
        done = around[around["status"] == "completed"]
        fixed = _by_seed(done[done["baseline"]])
        for _, arm in around.groupby("arm_digest", sort=False):
            schedule = not arm["baseline"].iloc[0]
            completed = arm[arm["status"] == "completed"]
            arms.append((arm, _differences(completed, fixed) if schedule else [], len(fixed)))
    comparisons = sum(bool(differences) for _, differences, _ in arms)
    table = pd.DataFrame([_arm_row(*arm, comparisons) for arm in arms])
    if table.empty:
        return table
    table["p_holm"] = stats.holm(table["p"].tolist())
    table["place"] = table["arm"].map(in_order(table["arm"]))
    table = table.sort_values(["batchnorm", "place"], ascending=[False, True])
    return table.drop(columns="place").reset_index(drop=True)


def _by_seed(runs: pd.DataFrame) -> dict[str, dict[int, float]]:
    return {
        str(arm): {
            int(seed): float(value) for seed, value in zip(of["seed"], of[FIGURE], strict=True)
        }
        for arm, of in runs.groupby("arm_digest")
    }


def _arm_row(
    arm: pd.DataFrame, differences: list[float], baselines: int, comparisons: int
) -> dict[str, Any]:
    done = arm[arm["status"] == "completed"]
    first = arm.iloc[0]
    values = [float(value) for value in done[FIGURE]]
    mean = stats.interval(values) if values else stats.Interval(math.nan, math.nan, math.nan)
    row = {
        "arm": first["arm"],
        "method": first["method"],
        "baseline": bool(first["baseline"]),
        "baselines": baselines,
        "batchnorm": bool(first["batchnorm"]),
        "context": first["context"],
        "arm_digest": first["arm_digest"],
        "n": len(done),
        "diverged": int((arm["status"] == "diverged").sum()),
        "unfinished": int((~arm["status"].isin(FINISHED)).sum()),
        "mean": mean.mean,
        "low": mean.low,
        "high": mean.high,
        "final": done["final_test_accuracy"].mean(),
        "best": done["best_test_accuracy"].mean(),
        "shrinking_200": arm["shrinking_200"].mean(),
    }
    if differences:
        comparison = stats.compare(differences, comparisons)
        return row | {
            "pairs": comparison.pairs,
            "difference": comparison.difference.mean,
            "difference_low": comparison.difference.low,
            "difference_high": comparison.difference.high,
            "p": comparison.p,
            "smallest_p": comparison.smallest_p,
            "seeds_needed": comparison.seeds_needed,
        }
    return row | {
        "pairs": 0,
        "difference": math.nan,
        "difference_low": math.nan,
        "difference_high": math.nan,
        "p": math.nan,
        "smallest_p": math.nan,
        "seeds_needed": None,
    }


def _differences(done: pd.DataFrame, fixed: dict[str, dict[int, float]]) -> list[float]:
    """On each seed, the arm less the fixed λ that is best on the other seeds."""
    found = []
    for seed, value in zip(done["seed"], done[FIGURE], strict=True):
        if len(fixed) == 1:  # nothing to choose
            baseline = next(iter(fixed))
        else:
            baseline = stats.best_on_other_seeds(fixed, int(seed)) or ""
        if int(seed) in fixed.get(baseline, {}):
            found.append(float(value) - fixed[baseline][int(seed)])
    return found


def in_order(arms: Iterable[str]) -> dict[str, int]:
    """The place of each arm's name: by method, then by its numbers."""
    methods = list(NAMES.values())

    def key(arm: str) -> tuple[int, list[float], str]:
        place = next((at for at, name in enumerate(methods) if arm.startswith(name)), len(methods))
        numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e[-+]?\d+)?", arm)
        return place, [float(number) for number in numbers], arm

    return {arm: place for place, arm in enumerate(sorted(set(arms), key=key))}
