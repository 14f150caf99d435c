"""The paper's 20 recorded runs (its code's own recordings; attempt 2 is its Figure 4)."""

from __future__ import annotations

import math
from importlib.resources import files
from itertools import pairwise

import pandas as pd

from .runs import SHRINKING_STEPS

K, EPOCH, EPOCHS, LR = 5, 391, 200, 0.01
"""Steps between measurements and of an epoch, epochs, and the learning rate."""
MARKS = {
    1: "epoch_1",
    10: "epoch_10",
    50: "epoch_50",
    100: "epoch_100",
    EPOCHS: "final_test_accuracy",
}
"""Epochs whose test accuracy is known, and its column."""


def published() -> pd.DataFrame:
    """A row a run: accuracies in percent, ``lambda_changes`` as ``step:λ``."""
    with files(__package__).joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def path_of(run: pd.Series) -> list[tuple[float, float]]:
    """(epoch, λ from there on) of a row of the published table."""
    return [(step / EPOCH, value) for step, value in _steps(run)]


def _steps(run: pd.Series) -> list[tuple[int, float]]:
    """(step of the run, λ from there on); the step is the first that is measured with it."""
    last = EPOCH * EPOCHS
    if run["method"] == "fixed":
        return [(K, run["fixed_lambda"]), (last, run["fixed_lambda"])]
    path = [(K, 0.1)]
    for change in str(run["lambda_changes"]).split():
        step, value = change.split(":")
        path.append((int(step), float(value)))
    return [*path, (last, path[-1][1])]


def shrinking_of(run: pd.Series) -> float:
    """Π(1 − 2·lr·λ) over the first 200 steps of a row of the published table."""
    path = _steps(run)
    product = 1.0
    for (step, value), (until, _) in pairwise(path):
        # a λ first measured at `step` acts from the step after the measurement before it
        first, last = max(step - K, 0), min(until - K, SHRINKING_STEPS)
        product *= math.pow(1 - 2 * LR * value, max(0, last - first))
    return product
