"""Reads the results of the user's own training loop from two CSV files in the folder of a study.

``runs.csv`` has one row per run, and ``epochs.csv`` one row per evaluated epoch;
autol2/report/README.md documents their columns. The files are written by `recording.record` or by
any other program, and are checked and read here.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import UserError, require
from ..runs.identity import digest
from ..sweeps.study import Record
from .runs import MORE, Curves, by_epoch, highs
from .tables import RESERVED
from .words import called

RUNS, EPOCHS = "runs.csv", "epochs.csv"
NEEDED = {RUNS: ("run", "method", "seed"), EPOCHS: ("run", "epoch", "test_accuracy")}
"""The required columns of each file."""
STATUSES = ("completed", "diverged", "running", "failed", "interrupted")
MADE_WITH = ("seconds", "hardware", "threads", "torch", "host")
FACTS = ("status", *MADE_WITH, "python", "commit")
"""Columns of runs.csv that describe how a run was made and ended, and are not options."""
OF_DATA = ("classes", "test_images")
"""Columns of runs.csv that describe the data; runs that differ in them are not comparable."""
TEXTS = ("run", "method", "status", "data", "hardware", "torch", "python", "host", "commit")
"""Columns of runs.csv whose cells are always text; for example, version 3.10 is not a number."""
NO_TEXTS = ("seed", "fixed_lambda", "alpha", "batchnorm", "steps_per_epoch", "seconds", "threads")
"""Columns of runs.csv in which the words in `MISSING` stand for a missing value."""
MISSING = ("na", "n/a", "nan", "none", "null")
"""Words for a missing value, as other programs such as R write them."""
SWITCHES = {
    **dict.fromkeys(("true", "on", "yes", "1"), True),
    **dict.fromkeys(("false", "off", "no", "0"), False),
}
"""The accepted values of the column ``batchnorm``."""


def read(study: Path) -> list[tuple[Record, Curves]]:
    """Read the runs from runs.csv and epochs.csv in the folder of a study.

    Returns:
        The record and the history of each run; empty if there is no runs.csv.

    Raises:
        UserError: if the files do not have the documented format.
    """
    if not (study / RUNS).exists():
        return []
    runs, epochs = rows_of(study / RUNS), rows_of(study / EPOCHS)
    twice = runs["run"][runs["run"].duplicated()].tolist()
    require(not twice, f"{study / RUNS}: there are two rows for run {twice[:1]}")
    numeric = [name for name in ("epoch", "step", "test_accuracy", *MORE) if name in epochs]
    for name in numeric:
        epochs[name] = _numbers(epochs, name, study / EPOCHS)
    odd = [name for name in runs["run"] if name in (".", "..") or "/" in str(name)]
    require(not odd, f"{study / RUNS}: run {odd[:1]} cannot have a slash in its name")
    _refuse_fractions(epochs, [*numeric], runs, study / EPOCHS)
    read = [_run(study, row, epochs) for row in runs.to_dict("records")]
    seen: dict[str, str] = {}
    for run, _ in read:
        name = digest(run.state["identity"] | {"data": run.state["data"]["digest"]})
        require(
            name not in seen,
            f"{study / RUNS}: runs {seen.get(name)} and {run.run_id} have the same method, "
            f"options and seed",
        )
        seen[name] = run.run_id
    _note_lengths(read)
    return read


def _refuse_fractions(
    epochs: pd.DataFrame, numeric: list[str], runs: pd.DataFrame, path: Path
) -> None:
    """Raise an error if accuracies are given as shares of 1 instead of percentages.

    A run with 100 classes or more may have accuracies below 1 %, so it is refused only if the
    accuracies of all runs are below that.
    """
    classes = _numbers(runs, "classes", path.with_name(RUNS)) if "classes" in runs else None
    many = set() if classes is None else set(runs["run"][classes >= 100])
    for name in [column for column in numeric if column.endswith("_accuracy")]:
        tops = epochs.groupby("run", sort=False)[name].max()
        shares = [run for run, top in tops.items() if 0 < top <= 1]
        wrong = shares if len(shares) == len(tops) else [run for run in shares if run not in many]
        require(
            not wrong,
            f"{path}, run {wrong[0] if wrong else ''}: {name} is in percent, and no value is above "
            f"1: write 72.5, not 0.725",
        )


def _note_lengths(read: list[tuple[Record, Curves]]) -> None:
    """Add the number of epochs to the options of runs, if arms differ in it.

    Runs of different lengths are not compared. If the seeds of one arm differ in length, its loop
    stops early on its own; the arm then counts as having the length of other arms within its range.
    """
    lengths: dict[str, list[float]] = {}
    arms = []
    for run, curves in read:
        told = {name: value for name, value in run.state["identity"].items() if name != "seed"}
        arms.append(digest(told | {"data": run.state["data"]["digest"]}))
        if run.state["status"] == "completed" and curves.epochs.get("epoch"):
            lengths.setdefault(arms[-1], []).append(curves.epochs["epoch"][-1])
    length_of = _common_lengths({arm: (min(of), max(of)) for arm, of in lengths.items()})
    if len(set(length_of.values())) < 2:
        return
    for (entry, _), arm in zip(read, arms, strict=True):
        if arm in lengths and "epochs" not in entry.state["identity"]:
            entry.state["identity"]["epochs"] = length_of[arm]


def _common_lengths(ranges: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Determine the length that each arm counts as having.

    An arm whose runs all have one length has that length. Any other arm gets the longest such
    length within its range. If there is none, it gets the longest length of all arms whose ranges
    overlap with its own.

    Args:
        ranges: the lengths of the shortest and the longest run of each arm, in epochs.
    """
    found = {arm: low for arm, (low, high) in ranges.items() if low == high}
    clear = set(found.values())
    reach = -math.inf
    together: list[str] = []
    others = [arm for arm in ranges if arm not in found]
    for arm in sorted(others, key=lambda one: ranges[one]):
        low, high = ranges[arm]
        if within := [length for length in clear if low <= length <= high]:
            found[arm] = max(within)
            continue
        together = [*together, arm] if low <= reach else [arm]
        reach = max(high, reach) if len(together) > 1 else high
        found.update(dict.fromkeys(together, reach))
    return found


def checked(told: Mapping[str, object], where: str) -> None:
    """Check the values of a row of runs.csv.

    Args:
        told: the values, by column; missing values are left out.
        where: the beginning of the error message.

    Raises:
        UserError: if a value is not valid for its column.
    """
    require(bool(str(told.get("method") or "").strip()), f"{where}: it has no method")
    seed = _real(told.get("seed"))
    require(seed == seed // 1, f"{where}: seed is {told.get('seed')!r}, not a whole number")
    for column in ("fixed_lambda", "alpha", "steps_per_epoch", "seconds"):
        require(
            _real(told.get(column, 0)) >= 0,
            f"{where}: {column} is {told.get(column)!r}, not a number of at least 0",
        )
    for column, least in (("classes", 2), ("test_images", 1)):
        value = _real(told.get(column, least))
        require(
            value >= least and value == value // 1,
            f"{where}: {column} is {told.get(column)!r}, not a whole number of at least {least}",
        )
    require(
        str(told.get("batchnorm", True)).strip().lower() in SWITCHES,
        f"{where}: batchnorm is {told.get('batchnorm')!r}, neither on nor off",
    )
    require(
        told.get("method") != "fixed" or "fixed_lambda" in told,
        f"{where}: method is fixed, but it has no fixed_lambda",
    )
    taken = sorted(name for name in told if name in RESERVED)
    require(
        not taken,
        f"{where}: {', '.join(taken)} is a column of the report's own tables; call the option "
        f"something else",
    )


def _real(value: object) -> float:
    """Return a finite number as a float, and NaN, which fails all comparisons, otherwise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return math.nan
    number = float(value)
    return number if math.isfinite(number) else math.nan


def _run(study: Path, row: dict[Any, Any], epochs: pd.DataFrame) -> tuple[Record, Curves]:
    cells = {name: str(value).strip() for name, value in row.items() if not pd.isna(value)}
    told: dict[str, Any] = {
        name: text if name in TEXTS else _value(text)
        for name, text in cells.items()
        if not (name in (*NO_TEXTS, *OF_DATA) and text.lower() in MISSING)
    }
    where, name = f"{study / RUNS}, run {row['run']}", str(row["run"])
    status = str(told.get("status", "completed"))
    require(status in STATUSES, f"{where}: status {status!r} is not one of {', '.join(STATUSES)}")
    checked({name: value for name, value in told.items() if name != "run"}, where)
    if "batchnorm" in told:
        told["batchnorm"] = SWITCHES[str(told["batchnorm"]).strip().lower()]
    length = told.get("steps_per_epoch")
    mine = epochs[epochs["run"] == row["run"]].sort_values("epoch", kind="stable")
    mine = mine.drop_duplicates("epoch", keep="last")
    if status != "completed":
        mine = mine[mine["test_accuracy"].notna()]
    curves = _curves(mine, told, length)
    if status == "completed" and mine.empty:
        curves = Curves(problem="epochs.csv has no rows for it")
    accuracies = curves.epochs.get("test_accuracy") or []
    of_data = {name: told[name] for name in ("data", *OF_DATA) if name in told}
    state: dict[str, Any] = {
        "status": status,
        "seed": told["seed"],
        "identity": _identity(told),
        "method": {"label": _label(told), "baseline": "fixed_lambda" in told},
        "steps_per_epoch": length,
        "data": {
            "digest": digest(of_data) if of_data else None,
            "classes": told.get("classes"),
            "test": told.get("test_images"),
        },
        "attempts": [
            {name: told.get(name) for name in MADE_WITH}
            | {"versions": {"python": told.get("python")}, "git": {"commit": told.get("commit")}}
        ],
    }
    if accuracies:
        validation = pd.Series(curves.epochs.get("validation_accuracy", []), dtype=float)
        selected = pd.Series(accuracies) if validation.isna().all() else validation
        best = int(selected.argmax())
        state["result"] = {
            "final_test_accuracy": accuracies[-1],
            "best_test_accuracy": accuracies[best],
            "best_epoch": curves.epochs["epoch"][best],
        }
    if status == "diverged":
        last = curves.epochs.get("epoch") or [0.0]
        curves.diverged = last[-1]
        state["diverged"] = {"step": None}  # It diverged at or after its last evaluation.
    return Record(study / name, state), curves


def _curves(rows: pd.DataFrame, told: dict[str, Any], length: int | None) -> Curves:
    rows = rows.assign(epoch_done=rows["epoch"])
    if "lambda" not in rows or rows["lambda"].isna().all():
        rows = rows.assign(**{"lambda": told.get("fixed_lambda", math.nan)})
    try:
        if not (rows["epoch"] > 0).all():
            raise ValueError("epochs.csv: epoch must be the number of completed epochs, above 0")
        read = by_epoch(rows)
    except ValueError as error:
        return Curves(problem=f"its records cannot be read: {error}")
    path = [
        (max(1, round(epoch * (length or 1))), value)
        for epoch, value in zip(read["epoch"], read["lambda"], strict=True)
        if not math.isnan(value)
    ]
    changes = [
        point
        for place, point in enumerate(path)
        if place in (0, len(path) - 1) or point[1] != path[place - 1][1]
    ]
    return Curves(read, changes, highs(rows))


def _identity(told: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a run, under the names that runs of autol2.train use."""
    names = {
        "method": "method.name",
        "fixed_lambda": "fixed_lambda.value",
        "alpha": "alpha.percent",
        "batchnorm": "batchnorm.enabled",
        "data": "data.name",
    }
    found: dict[str, Any] = {}
    for name, value in told.items():
        if name not in (*FACTS, *OF_DATA, "run"):
            found[names.get(name, name)] = value
    for name in ("fixed_lambda.value", "alpha.percent"):
        if name in found:
            found[name] = float(found[name])
    found["method.name"] = str(found["method.name"])
    return found


def _label(told: dict[str, Any]) -> str:
    name = str(told["method"])
    if "fixed_lambda" in told and name != "fixed":
        return f"{name} λ"
    return called("method", name)


def _value(text: str) -> Any:
    """Convert a cell to a Boolean or a number, if it is one."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        number = float(text.replace("_", "x"))
    except ValueError:
        return text
    if not math.isfinite(number):
        return text
    if number == int(number) and "e" not in text.lower():
        return int(number) if "." in text else int(text)
    return number


def _numbers(frame: pd.DataFrame, name: str, path: Path) -> pd.Series:
    found = pd.to_numeric(frame[name], errors="coerce")
    missing = frame[name].isna() | frame[name].astype(str).str.strip().str.lower().isin(MISSING)
    wrong = frame[found.isna() & ~missing]
    require(
        wrong.empty,
        f"{path}: {name} is {'' if wrong.empty else wrong[name].iloc[0]!r}, not a number",
    )
    return found


def rows_of(path: Path) -> pd.DataFrame:
    """Read the cells of runs.csv or epochs.csv as text; there are no rows if the file is missing.

    Empty rows are left out, as is an empty cell after the last column.

    Raises:
        UserError: if it is not a CSV file, or a required column is missing.
    """
    needed = NEEDED[path.name]
    try:
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            rows = pd.read_csv(
                path,
                dtype=str,
                encoding="utf-8-sig",
                index_col=False,
                keep_default_na=False,
                na_values=[""],
            )
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return pd.DataFrame(columns=needed, dtype=object)
    except pd.errors.ParserWarning as error:
        raise UserError(
            f"{path}: rows have more cells than there are columns: write numbers with a point, "
            f"and quote cells that contain a comma"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not a CSV file in UTF-8: {error}") from error
    absent = [name for name in needed if name not in rows]
    require(not absent, f"{path} has no column {', '.join(absent)}")
    return rows.dropna(how="all")
