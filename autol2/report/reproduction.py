"""The paper's recorded runs beside a study's."""

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
"""How the published runs were made."""


@dataclass(frozen=True)
class Reproduction:
    """Published and our figures of the paper's arms."""

    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    """In percent; empty where there are none."""
    differences: str = ""
    """How ours were made otherwise than the paper's; empty where they were not."""


def reproduction(runs: pd.DataFrame, records: Sequence[Record]) -> Reproduction:
    """What the paper's arms came to then and in the completed runs of a study."""
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
    """Those of the first two seeds: the paper has no more."""
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
