"""A run's result: its final figures, computed from epochs.csv."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path
from typing import Any


def late(evaluated: int) -> int:
    """Return the number of last evaluated epochs to average over: one in ten, from 1 to 10."""
    return min(10, max(1, evaluated // 10))


def result(folder: Path) -> dict[str, Any]:
    """Return the final figures of a run, computed from its epochs.csv. Accuracies are in percent.

    ``final_…`` is from the last evaluation. ``mean_last_tenth`` is the mean test accuracy of the
    last `late` evaluated epochs, each with its last evaluation (for 200 epochs, the mean of ten in
    the published table). ``best_epoch`` is the first epoch with the highest validation accuracy, or
    test accuracy if there are no validation images; ``best_test_accuracy`` is the test accuracy of
    that evaluation. With validation images, ``final_validation_accuracy`` and
    ``mean_last_tenth_validation`` are added.
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
