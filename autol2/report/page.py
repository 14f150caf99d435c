"""Writes the report as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from ..runs.run import now
from ..runs.state import FINISHED
from ..storage.files import write_atomically
from . import verdict
from .arms import FIGURE, in_order
from .markup import markup, variables
from .plot import Drawing
from .reproduction import Reproduction
from .tables import Tables
from .words import arm_name, number, plural, signed, yardstick

ARMS = {
    "arm": "arm",
    "batchnorm": "batch-norm",
    "n": "seeds",
    "mean": "accuracy (%)",
    "interval": "95 % interval",
    "median": "median (%)",
    "iqm": "interquartile mean (%)",
    "validation": "validation accuracy (%)",
    "final": "final epoch (%)",
    "best": "best epoch (%)",
    "shrinking_200": "weights left after 200 steps (share)",
    "collapsed": "at chance",
    "diverged": "diverged",
    "unfinished": "unfinished",
    "lost": "failed",
}
COMPARISONS = {
    "arm": "schedule",
    "batchnorm": "batch-norm",
    "rival": "strongest fixed λ",
    "pairs": "common seeds",
    "difference": "difference (points)",
    "difference_interval": "95 % interval, adjusted",
    "p_adjusted": "p, adjusted",
    "probability_of_improvement": "probability of improvement",
    "improvement_interval": "95 % interval",
    "equivalent": "equivalent within the margin",
    "seeds_needed": "seeds needed",
}
SPEED = {
    "arm": "arm",
    "batchnorm": "batch-norm",
    "target": "target accuracy (%)",
    "n": "seeds",
    "reached_target": "reached it",
    "epochs_to_target": "epochs to the target",
    "rival": "strongest fixed λ",
    "epochs_to_target_difference": "difference (epochs)",
    "epochs_interval": "95 % interval, adjusted",
    "steps_to_target": "steps to the target",
    "seconds_to_target": "seconds to the target",
    "area_under_curve": "mean accuracy over training (%)",
}
INTERVALS = {
    "interval": ("low", "high"),
    "difference_interval": ("difference_low", "difference_high"),
    "epochs_interval": ("epochs_to_target_difference_low", "epochs_to_target_difference_high"),
    "improvement_interval": ("poi_low", "poi_high"),
}
"""Columns that combine two columns of the table of arms."""
SIGNED = ("difference", "difference_interval", "epochs_to_target_difference", "epochs_interval")
"""Columns of differences, which are shown with their sign."""
TENTHS = ("epochs_to_target", "seconds_to_target")
"""Columns that are shown with one decimal."""
NEVER = ("diverged", "unfinished", "lost", "collapsed")
"""Columns of counts that are left out if they are all 0."""
RUNS = {
    "run_id": "run",
    "arm": "arm",
    "batchnorm": "batch-norm",
    "status": "status",
    "seed": "seed",
    FIGURE: "accuracy (%)",
    "final_test_accuracy": "final epoch (%)",
    "epochs_done": "epochs",
    "lambda_changes": "changes of λ (step:λ)",
    "seconds": "seconds",
    "command": "command",
}
ABSENT = "–"
"""The text of an empty cell."""
TALL = 30
"""Number of rows above which a table has its own scroll bar."""
POINTS = {
    *("mean", "low", "high", "final", "best"),
    *("difference", "difference_low", "difference_high"),
    *("published_final", "ours_final", "published_mean_last_10", "ours_mean_last_10"),
    *("final_test_accuracy", FIGURE, "iqm", "median", "target", "area_under_curve"),
    *("validation", "probability_of_improvement"),
}
"""Columns in percent or points, which are shown with two decimals."""
TRAINED = (
    *("data.name", "batchnorm.enabled", "model.width", "model.hidden"),
    *("epochs", "batch_size", "lr"),
    *("method.optimizer", "protocol.name"),
)
"""Options that the page lists if all runs have the same value."""
SHORT = 9
"""Number of sentences of the verdict that are shown at first."""
PUBLISHED = {
    "arm": "arm",
    "batchnorm": "batch-norm",
    "n": "seeds of this study",
    "published_mean_last_10": "accuracy, published (%)",
    "ours_mean_last_10": "accuracy, this study (%)",
    "published_final": "final epoch, published (%)",
    "ours_final": "final epoch, this study (%)",
    "published_shrinking": "weights left by the penalty after 200 steps, published (share)",
    "ours_shrinking": "weights left by the penalty after 200 steps, this study (share)",
    "published_changes": "changes of λ, published (step:λ)",
    "ours_changes": "changes of λ, this study (step:λ)",
}
FOLDED = "explain"
"""The prefix of the names of figures that are shown in a section of their own, which is folded."""


def write(
    path: Path,
    study: str,
    tables: Tables,
    reproduced: Reproduction,
    drawings: Sequence[Drawing],
    missing: Sequence[str],
) -> list[str]:
    """Write the page.

    Args:
        path: the file to write.
        study: the name of the study.
        tables: the tables of the study.
        reproduced: the comparison with the published runs.
        drawings: the figures.
        missing: the IDs of the expected runs that have not been started.

    Returns:
        The sentences of the verdict, with which the page begins.
    """
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
        rule=verdict.rule(tables.summary),
        laws=verdict.laws(tables.fits),
        short=SHORT,
        partial=bool(missing) or not set(runs["status"]) <= set(FINISHED),
        counts=runs["status"].value_counts().to_dict(),
        missing=list(missing),
        troubles=_troubles(runs),
        figures=[(drawing, markup(drawing)) for drawing in drawings if not _folded(drawing)],
        folded=[(drawing, markup(drawing)) for drawing in drawings if _folded(drawing)],
        colours=variables(drawings),
        arms=_table(_in_rows(tables.summary), ARMS),
        comparisons=_comparisons(tables.summary),
        yardstick=yardstick(tables.summary),
        speed=_speed(tables.summary),
        published=_table(_in_rows(reproduced.table), PUBLISHED),
        differences=reproduced.differences,
        provenance=_provenance(tables),
        warnings=_warnings(runs, tables.attempts),
        runs=_table(_in_rows(runs), RUNS),
        tall=TALL,
    )
    write_atomically(path, page.encode())
    return words


def _folded(drawing: Drawing) -> bool:
    return drawing.name.startswith(FOLDED)


def _speed(summary: pd.DataFrame) -> dict[str, Any]:
    """Return the table of training speed; it has no rows if there is no target."""
    if "target" not in summary or summary["target"].isna().all():
        return _table(summary[:0], SPEED)
    shown = _in_rows(summary.loc[summary["target"].notna(), :])
    never = shown["reached_target"] == 0  # the difference is one of training lengths then
    for column in ("difference", "difference_low", "difference_high"):
        shown[f"epochs_to_target_{column}"] = shown[f"epochs_to_target_{column}"].mask(never)
    return _table(shown, SPEED)


def _comparisons(summary: pd.DataFrame) -> dict[str, Any]:
    """Return the table of schedules and their rivals; it has no rows if none can be compared."""
    return _table(
        summary if summary.empty else _in_rows(summary.loc[summary["pairs"] > 0, :]), COMPARISONS
    )


def _in_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort rows without batch-norm before those with it, and keep the order otherwise."""
    return frame.sort_values("batchnorm", kind="stable") if "batchnorm" in frame else frame


def _table(frame: pd.DataFrame, headings: dict[str, str]) -> dict[str, Any]:
    """Format a table as headings and rows of cells, and leave out columns without content."""
    frame = frame.copy()
    for name, (low, high) in INTERVALS.items():
        if low in frame:
            frame[name] = list(zip(frame[low], frame[high], strict=True))
    columns = [name for name in headings if name in frame and _says_something(frame, name)]
    places = in_order(frame["arm"]) if "arm" in frame else {}
    rows = [[_cell(row[name], name, places) for name in columns] for _, row in frame.iterrows()]
    headings = headings | {"rival": yardstick(frame)}
    kinds = [_kind(column) for column in zip(*rows, strict=True)] or [""] * len(columns)
    rows = [
        [
            (text, key, of if text == ABSENT else kind)
            for (text, key, kind), of in zip(row, kinds, strict=True)
        ]
        for row in rows
    ]
    named = [headings[name] for name in columns]
    return {"headings": list(zip(named, kinds, strict=True)), "rows": rows}


def _kind(column: Sequence[tuple[str, str, str]]) -> str:
    """Return the kind of a column, "number" or "", according to its non-empty cells."""
    return "number" if {kind for text, _, kind in column if text != ABSENT} <= {"number"} else ""


def _says_something(frame: pd.DataFrame, name: str) -> bool:
    if name in INTERVALS:
        name = INTERVALS[name][0]
    values = frame[name]
    if name == "batchnorm":
        return values.nunique() > 1  # Otherwise, it is listed with what all runs have in common.
    if name in NEVER:
        return bool(values.any())
    return bool((values.notna() & (values != "")).any())


def _cell(value: Any, name: str, places: dict[str, int]) -> tuple[str, str, str]:
    """Return the text, the sort key and the kind (the CSS class) of a cell."""
    if isinstance(value, tuple):
        low = value[0]
        written = [signed(end) if name in SIGNED else f"{end:.2f}" for end in value]
        return ABSENT if _absent(low) else " to ".join(written), _key(low), "number"
    if name == "arm":
        return _unbroken(arm_name(value)), str(places[value]), ""
    if name == "rival" and isinstance(value, str):
        return _unbroken(arm_name(value)), value, ""
    if isinstance(value, bool | np.bool_):
        return _text(bool(value), name), _key(bool(value)), ""
    if isinstance(value, str):
        return value, value, "longer" if len(value) > 100 else "long" if len(value) > 40 else ""
    return _text(value, name), _key(value), "number"


def _unbroken(name: str) -> str:
    """Return `name` with a no-break space between a number and its unit."""
    return name.replace(" %", "\N{NO-BREAK SPACE}%")


def _text(value: Any, name: str = "") -> str:
    if isinstance(value, bool):
        on, off = ("yes", "no") if name == "equivalent" else ("on", "off")
        return on if value else off
    if _absent(value):
        return ABSENT
    if isinstance(value, float) and name in SIGNED:
        return signed(value)
    if isinstance(value, float) and name in (*POINTS, *TENTHS):
        return f"{value:.{1 if name in TENTHS else 2}f}"
    if isinstance(value, float):
        return number(float(f"{value:.3g}")) if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def _key(value: Any) -> str:
    """Return the sort key of a value; empty if the value is missing."""
    return "" if _absent(value) else str(int(value)) if isinstance(value, bool) else str(value)


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _troubles(runs: pd.DataFrame) -> list[dict[str, str]]:
    rows = []
    for _, run in runs[runs["status"] != "completed"].iterrows():
        what = str(run["problem"])
        if run["status"] == "diverged":
            said = ["diverged" if pd.isna(run["diverged_step"]) else _where(run)]
            what = "; ".join([*said, *([what] if what else [])])
        elif not what:
            what = f"{run['epochs_done']:g} epochs done"
        rows.append({"run": run["run_id"], "status": run["status"], "what": what})
    unread = runs[(runs["status"] == "completed") & runs["problem"].astype(bool)]
    rows += [
        {"run": run["run_id"], "status": "completed", "what": run["problem"]}
        for _, run in unread.iterrows()
    ]
    return rows


def _where(run: pd.Series) -> str:
    at = f"loss not finite at step {run['diverged_step']:g}"
    known = not pd.isna(run["diverged_lambda"])
    return f"{at}, λ = {number(run['diverged_lambda'])}" if known else at


def _provenance(tables: Tables) -> list[tuple[str, str]]:
    runs, attempts = tables.runs, tables.attempts
    alike = [f"{name}={_text(tables.common[name])}" for name in TRAINED if name in tables.common]
    facts = [
        *((name, attempts[name]) for name in ("commit", "torch", "python", "hardware", "threads")),
        *((name, runs[name]) for name in ("precision", "data", "seed")),
        ("host", attempts["host"]),
    ]
    same = [("all runs", ", ".join(alike))] if alike else []
    return [*same, *((name, _values(column)) for name, column in facts)]


def _values(column: pd.Series) -> str:
    values = list({value for value in column if not pd.isna(value)})
    if any(isinstance(value, str) for value in values):
        return ", ".join(sorted(map(_text, values)))
    values.sort()
    if len(values) > 2 and values[-1] - values[0] == len(values) - 1:
        return f"{values[0]:g} to {values[-1]:g}"
    return ", ".join(_text(value) for value in values) or "–"


def _warnings(runs: pd.DataFrame, attempts: pd.DataFrame) -> list[str]:
    found = []
    if (attempts["dirty"] == True).any():  # noqa: E712 (missing values are neither)
        found.append("Some runs used a source tree with uncommitted changes.")
    for column, what in (
        ("commit", "commits"),
        ("torch", "PyTorch versions"),
        ("python", "Python versions"),
        ("hardware", "kinds of hardware"),
        ("threads", "thread counts"),
    ):
        if attempts[column].nunique() > 1:
            within = attempts.groupby("run_id")[column].nunique() > 1
            also = f" ({plural(int(within.sum()), 'run')} used more than one)" * bool(within.any())
            found.append(f"The runs used several {what}{also}.")
    names = runs["data.name"] if "data.name" in runs else pd.Series("", runs.index)
    if (runs["data"].groupby(names).nunique() > 1).any():
        found.append("Runs with the same data name used different data.")
    for files in sorted({passed for passed in runs["passed_over"] if passed}):
        found.append(f"Some files in the image folders were ignored: {files}.")
    if (runs["problem"].astype(bool) & (runs["status"] == "completed")).any():
        found.append("The records of some completed runs cannot be read.")
    return found
