"""A run's result: the figures that its epochs.csv ends with."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path
from typing import Any


def late(evaluated: int) -> int:
    """How many of a run's last evaluated epochs its figure is the mean of: one in ten, 1 to 10."""
    return min(10, max(1, evaluated // 10))


def result(folder: Path) -> dict[str, Any]:
    """The final figures of a run, from its epochs.csv. Accuracies in percent.

    ``final_…`` is the last evaluation; ``mean_last_tenth`` the mean test accuracy of the last
    `late` evaluated epochs, each by its last evaluation (the published table's mean of ten, for 200
    epochs); ``best_epoch`` the first of the highest validation accuracy, or test accuracy where
    there are no validation images, and ``best_test_accuracy`` the test accuracy of that evaluation.
    With validation images, both means have a ``…_validation`` beside them.
    """
    with (folder / "epochs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return {}
    last = rows[-1]
    of_epoch = list({row["epoch"]: row for row in rows}.values())
    end = of_epoch[-late(len(of_epoch)) :]
    chosen_on = "validation_accuracy" if last.get("validation_accuracy") else "test_accuracy"
    best = max(rows, key=lambda row: float(row[chosen_on]))
    figures = {
        "final_test_accuracy": float(last["test_accuracy"]),
        "best_test_accuracy": float(best["test_accuracy"]),
        "best_epoch": int(best["epoch"]),
        "mean_last_tenth": statistics.fmean(float(row["test_accuracy"]) for row in end),
        "final_test_loss": float(last["test_loss"]),
        "final_train_loss": float(last["train_loss"]),
        "final_train_accuracy": float(last["train_accuracy"]),
        "final_lambda": float(last["lambda"]),
    }
    if chosen_on == "validation_accuracy":
        figures["final_validation_accuracy"] = float(last[chosen_on])
        figures["mean_last_tenth_validation"] = statistics.fmean(
            float(row[chosen_on]) for row in end
        )
    return figures
