"""Made-up studies for the tests of the report: run.jsons, or the table of runs at once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from autol2.report.arms import Question
from autol2.report.runs import Curves
from autol2.report.tables import Tables, tables
from autol2.sweeps.study import Record

LABELS = {"fixed": "fixed λ", "auto_l2": "Auto L2", "advance": "Advance L2"}


def identity(method: str, seed: int, **options: object) -> dict[str, Any]:
    """As in run.json; ``alpha__percent=5.0`` is an option of a group, ``lr=0.1`` is of none."""
    found: dict[str, Any] = {
        "method": {"name": method},
        "batchnorm": {"enabled": True},
        "seed": seed,
        "lr": 0.01,
    }
    for name, value in options.items():
        group, _, option = name.partition("__")
        if option:
            found.setdefault(group, {})[option] = value
        else:
            found[group] = value
    return found


def record(
    accuracy: float, options: dict[str, Any], status: str = "completed", **more: object
) -> Record:
    figures = ("mean_last_tenth", "final_test_accuracy", "best_test_accuracy")
    state = {
        "status": status,
        "identity": options,
        "seed": options["seed"],
        "result": dict.fromkeys(figures, accuracy) if status == "completed" else None,
        "data": {"digest": "0123456789ab", "classes": 10, "test": 10_000},
        **more,
    }
    if status == "diverged":
        state["diverged"] = {"step": 3, "lambda": 1.0}
    return Record(Path(re.sub(r"\W+", "-", f"{options}{more}")), state)


def arm(
    method: str, accuracies: Sequence[float | None], seeds: Sequence[int] = (), **options: object
) -> list[Record]:
    """A run a seed, from 0 or as `seeds`; one whose accuracy is None diverged."""
    return [
        record(accuracy or 0.0, identity(method, seed, **options), "completed")
        if accuracy is not None
        else record(0.0, identity(method, seed, **options), "diverged")
        for accuracy, seed in zip(accuracies, seeds or range(len(accuracies)), strict=True)
    ]


def fixed(value: float, accuracies: Sequence[float | None], **options: Any) -> list[Record]:
    return arm("fixed", accuracies, fixed_lambda__value=value, **options)


def made(*arms: list[Record], curves: Mapping[str, Curves] = {}, **question: float) -> Tables:
    runs = [run for of in arms for run in of]
    return tables([(run, curves.get(run.run_id, Curves())) for run in runs], Question(**question))


def table_of_runs(arms: Mapping[float | str, Sequence[float]]) -> pd.DataFrame:
    """The table of runs of arms under the same circumstances: accuracies by λ, or by method."""
    rows = []
    for name, accuracies in arms.items():
        value = name if isinstance(name, float) else math.nan
        label = str(name) if isinstance(name, str) else f"fixed λ {name:g}"
        rows += [
            {
                "run_id": f"{label}-{seed}",
                "status": "completed",
                "arm": label,
                "arm_digest": label,
                "context": "context",
                "problem_digest": "problem",
                "method": "fixed" if isinstance(name, float) else name,
                "baseline": isinstance(name, float),
                "batchnorm": True,
                "seed": seed,
                "fixed_lambda.value": value,
                "accuracy": accuracy,
                "evaluations": 10,
                "validation": math.nan,
                "chance": 10.0,
                "collapsed": False,
                "final_test_accuracy": accuracy,
                "best_test_accuracy": accuracy,
                "shrinking_200": math.nan,
                "epochs_done": 0.0,
                "highs": [],
                "steps_per_epoch": math.nan,
                "seconds_per_epoch": math.nan,
                "steps_to_best": math.nan,
                "area_under_curve": math.nan,
                "hardware": None,
                "threads": math.nan,
            }
            for seed, accuracy in enumerate(accuracies)
        ]
    return pd.DataFrame(rows)
