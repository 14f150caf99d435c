"""The 20 runs of the paper, as recorded by its code; attempt 2 is the one in its Figure 4."""

from __future__ import annotations

import math
from importlib.resources import files
from itertools import pairwise

import pandas as pd

from .runs import SHRINKING_STEPS

K, EPOCH, EPOCHS, LR = 5, 391, 200, 0.01
"""The steps between measurements, the steps per epoch, the epochs, and the learning rate."""
MARKS = {
    1: "epoch_1",
    10: "epoch_10",
    50: "epoch_50",
    100: "epoch_100",
    EPOCHS: "final_test_accuracy",
}
"""The epochs whose test accuracy is known, with the column that contains it."""


def published() -> pd.DataFrame:
    """Read the table of the published runs, with one row per run.

    Accuracies are in percent, and ``lambda_changes`` lists changes as ``step:λ``.
    """
    with files(__package__).joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def path_of(run: pd.Series) -> list[tuple[float, float]]:
    """Return the path of λ in a published run, as pairs of an epoch and the λ from there on."""
    return [(step / EPOCH, value) for step, value in _steps(run)]


def _steps(run: pd.Series) -> list[tuple[int, float]]:
    """Return the path of λ in a published run, as pairs of a step and the λ from there on.

    The step is the first one that is measured with this λ, counted over the whole run.
    """
    last = EPOCH * EPOCHS
    if run["method"] == "fixed":
        return [(K, run["fixed_lambda"]), (last, run["fixed_lambda"])]
    path = [(K, 0.1)]
    for change in str(run["lambda_changes"]).split():
        step, value = change.split(":")
        path.append((int(step), float(value)))
    return [*path, (last, path[-1][1])]


def shrinking_of(run: pd.Series) -> float:
    """Compute Π(1 − 2·lr·λ) over the first 200 steps of a published run."""
    path = _steps(run)
    product = 1.0
    for (step, value), (until, _) in pairwise(path):
        # A λ that is first measured at `step` takes effect right after the previous measurement.
        first, last = max(step - K, 0), min(until - K, SHRINKING_STEPS)
        product *= math.pow(1 - 2 * LR * value, max(0, last - first))
    return product
