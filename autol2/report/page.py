"""The report as one self-contained page."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from ..files import write_atomically
from ..run import FINISHED, now
from . import verdict
from .plot import Drawing
from .tables import Tables

HEADINGS = {
    "arm": "arm",
    "batchnorm": "batch-norm",
    "n": "seeds",
    "mean": "mean of last 10 (%)",
    "low": "95 % from",
    "high": "to",
    "final": "final (%)",
    "best": "best (%)",
    "difference": "to best fixed λ (points)",
    "difference_low": "95 % from",
    "difference_high": "to",
    "p_holm": "p (Holm)",
    "shrinking_200": "Π(1 − 2·lr·λ), 200 steps",
    "diverged": "diverged",
    "unfinished": "unfinished",
}
POINTS = {
    *("mean", "low", "high", "final", "best"),
    *("difference", "difference_low", "difference_high"),
    *("published_final", "ours_final", "published_mean_last_10", "ours_mean_last_10"),
    *("final_test_accuracy", "mean_last_10_epochs"),
}
"""Columns in percent, or in points of it: two decimals."""
SHORT = 9
"""Sentences of the verdict that are shown at once."""
PUBLISHED = {
    "arm": "arm",
    "batchnorm": "batch-norm",
    "published_final": "published final (%)",
    "ours_final": "ours",
    "published_mean_last_10": "published mean of last 10 (%)",
    "ours_mean_last_10": "ours",
    "published_changes": "published λ changes (step:λ)",
    "ours_changes": "ours",
    "published_shrinking": "published Π(1 − 2·lr·λ), 200 steps",
    "ours_shrinking": "ours",
    "n": "our seeds",
}


def write(
    path: Path,
    study: str,
    tables: Tables,
    beside: pd.DataFrame,
    drawings: Sequence[Drawing],
    missing: Sequence[str],
) -> list[str]:
    """Write the page; the verdict that it begins with."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = verdict.verdict(tables.summary)
    runs = tables.runs
    page = environment.get_template("page.html").render(
        study=study,
        made=now(),
        verdict=words,
        rule=verdict.RULE,
        short=SHORT,
        partial=bool(missing) or not set(runs["status"]) <= set(FINISHED),
        counts=runs["status"].value_counts().to_dict(),
        missing=list(missing),
        troubles=_troubles(runs),
        figures=[(drawing, _data_uri(drawing.svg)) for drawing in drawings],
        summary=_table(tables.summary, HEADINGS),
        published=_table(beside, PUBLISHED),
        provenance=_provenance(runs),
        warnings=_warnings(runs),
        runs=_table(
            runs,
            {
                "run_id": "run",
                "arm": "arm",
                "batchnorm": "batch-norm",
                "status": "status",
                "seed": "seed",
                "final_test_accuracy": "final (%)",
                "mean_last_10_epochs": "mean of last 10 (%)",
                "epochs_done": "epochs",
                "lambda_changes": "λ changes (step:λ)",
                "seconds": "seconds",
                "command": "command",
            },
        ),
    )
    write_atomically(path, page.encode())
    return words


def _data_uri(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()


def _table(frame: pd.DataFrame, headings: dict[str, str]) -> dict[str, Any]:
    """Headings and rows of (text, sort key), columns without a single value left out."""
    columns = [name for name in headings if name in frame and frame[name].notna().any()]
    rows = [[_cell(row[name], name) for name in columns] for _, row in frame.iterrows()]
    return {"headings": [headings[name] for name in columns], "rows": rows}


def _cell(value: Any, name: str) -> tuple[str, str, str]:
    """Text, sort key and kind (the cell's class)."""
    text, key = _text(value, name)
    if not isinstance(value, str):
        return text, key, "number"
    return text, key, "longer" if len(value) > 100 else "long" if len(value) > 40 else ""


def _text(value: Any, name: str = "") -> tuple[str, str]:
    if isinstance(value, bool):
        return ("on" if value else "off"), str(int(value))
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–", ""
    if isinstance(value, float) and name in POINTS:
        return f"{value:.2f}", repr(value)
    if isinstance(value, float):
        return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}", repr(value)
    return str(value), str(value)


def _troubles(runs: pd.DataFrame) -> list[dict[str, str]]:
    rows = []
    for _, run in runs[runs["status"] != "completed"].iterrows():
        what = str(run["problem"] or "")
        if run["status"] == "diverged":
            what = f"loss not finite at step {run['diverged_step']:g}, λ = {run['diverged_lambda']}"
        rows.append({"run": run["run_id"], "status": run["status"], "what": what})
    return rows


def _provenance(runs: pd.DataFrame) -> list[tuple[str, str]]:
    columns = ("commit", "torch", "python", "hardware", "threads", "precision", "host", "seed")
    facts = []
    for column in columns:
        values = sorted({_text(value)[0] for value in runs[column] if not pd.isna(value)})
        facts.append((column, ", ".join(values) or "–"))
    return facts


def _warnings(runs: pd.DataFrame) -> list[str]:
    found = []
    if (runs["dirty"] == True).any():  # noqa: E712 (missing values are neither)
        found.append("Some runs were made from a source tree with uncommitted changes.")
    for column, what in (
        ("commit", "commits"),
        ("torch", "PyTorch versions"),
        ("hardware", "kinds of hardware"),
        ("threads", "thread counts"),
    ):
        if runs[column].nunique() > 1:
            found.append(f"The runs were made with several {what}.")
    if (runs["problem"].astype(bool) & (runs["status"] == "completed")).any():
        found.append("The records of some completed runs cannot be read.")
    return found
