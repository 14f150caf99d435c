"""Compares the runs of a study with the recorded runs of the paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from ..runs.identity import flat
from ..sweeps.study import Record
from .arms import in_order
from .published import published, shrinking_of
from .tables import label

PAPER = {
    "epochs": 200,
    "batch_size": 128,
    "lr": 0.01,
    "model.width": 300,
    "model.hidden": 500,
    "precision.name": "fp32",
    "protocol.name": "published",
    "protocol.initialization": "published",
}
"""The options of the published runs."""


@dataclass(frozen=True)
class Reproduction:
    """The published results of the paper's arms, and those of a study."""

    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row per arm, with accuracies in percent; empty if the study has none of the arms."""
    differences: str = ""
    """How the options of the study differ from those of the paper; empty if they do not."""


def reproduction(runs: pd.DataFrame, records: Sequence[Record]) -> Reproduction:
    """Compare the published results of the paper's arms with the completed runs of a study.

    Args:
        runs: the table of runs.
        records: the records of the runs.
    """
    rows = []
    done = runs[runs["status"] == "completed"]
    arms = ["method", "batchnorm", "alpha", "fixed_lambda"]
    for _, of in published().groupby(arms, dropna=False, sort=False):
        method, batchnorm, alpha, value = (of.iloc[0][name] for name in arms)
        name = label(
            {"method.name": method}
            | ({} if math.isnan(alpha) else {"alpha.percent": alpha})
            | ({} if math.isnan(value) else {"fixed_lambda.value": value}),
            [],
        )
        ours = done[(done["arm"] == name) & (done["batchnorm"] == (batchnorm == "on"))]
        if ours.empty:
            continue
        rows.append(
            {
                "arm": name,
                "batchnorm": batchnorm == "on",
                "n": len(ours),
                "published_final": of["final_test_accuracy"].mean(),
                "ours_final": ours["final_test_accuracy"].mean(),
                "published_mean_last_10": of["mean_last_10_epochs"].mean(),
                "ours_mean_last_10": ours["mean_last_tenth"].mean(),
                "published_shrinking": " / ".join(
                    f"{shrinking_of(run):.3g}" for _, run in of.iterrows()
                ),
                "ours_shrinking": ours["shrinking_200"].mean(),
                "published_changes": " / ".join(of["lambda_changes"].dropna()),
                "ours_changes": _some([text for text in ours["lambda_changes"] if text]),
            }
        )
    if not rows:
        return Reproduction()
    table = pd.DataFrame(rows)
    places = table["arm"].map(in_order(table["arm"]))
    table = table.assign(place=places).sort_values(["batchnorm", "place"], ascending=[False, True])
    shown = set(done["run_id"])
    differences = _differences([record for record in records if record.run_id in shown])
    return Reproduction(table.drop(columns="place").reset_index(drop=True), differences)


def _some(changes: list[str]) -> str:
    """Join the changes of λ of the first two seeds; the paper has no more than two."""
    return " / ".join(changes[:2]) + " / …" * (len(changes) > 2)


def _differences(records: Sequence[Record]) -> str:
    ours = [flat(record.state["identity"]) for record in records]
    found = []
    for name, theirs in PAPER.items():
        values = {run[name] for run in ours if name in run} - {theirs}
        if values:
            found.append(f"{name} is {_words(values)}, not {theirs}")
    return "; ".join(found)


def _words(values: set[object]) -> str:
    return " or ".join(
        sorted(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    )
