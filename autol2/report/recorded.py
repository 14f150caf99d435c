"""A study of one's own training loop, as it is recorded: two CSV files in the study's folder.

``runs.csv`` has a row a run and ``epochs.csv`` a row an evaluated epoch; autol2/report/README.md
says what their columns are. Whatever writes them (`recording.record` does), they are checked and
read here.
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
from ..runs.identity import digest, flat
from ..sweeps.study import Record
from .runs import MORE, Curves, by_epoch, highs
from .tables import RESERVED
from .words import called

RUNS, EPOCHS = "runs.csv", "epochs.csv"
NEEDED = {RUNS: ("run", "method", "seed"), EPOCHS: ("run", "epoch", "test_accuracy")}
"""Columns that must be there."""
STATUSES = ("completed", "diverged", "running", "failed", "interrupted")
MADE_WITH = ("seconds", "hardware", "threads", "torch", "host")
FACTS = ("status", *MADE_WITH, "python", "commit")
"""Columns of runs.csv that say how a run was made and went, and are no option of it."""
OF_DATA = ("classes", "test_images")
"""Columns that tell of the data: where they differ, it is another problem."""
TEXTS = ("run", "method", "status", "data", "hardware", "torch", "python", "host", "commit")
"""Columns of runs.csv whose cells are never numbers, as version 3.10 is none."""
NO_TEXTS = ("seed", "fixed_lambda", "alpha", "batchnorm", "steps_per_epoch", "seconds", "threads")
"""Columns where a word for a missing value, as R writes it, is one; elsewhere it is a word."""
MISSING = ("na", "n/a", "nan", "none", "null")
SWITCHES = {
    **dict.fromkeys(("true", "on", "yes", "1"), True),
    **dict.fromkeys(("false", "off", "no", "0"), False),
}
"""How a file may say whether there is batch-norm."""


def read(study: Path) -> list[tuple[Record, Curves]]:
    """The runs that runs.csv and epochs.csv in a study's folder tell of; none without them.

    Raises:
        UserError: the files are not as documented.
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
    """Refuse accuracies that are shares of 1: of a whole run, unless guessing is as bad as that."""
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
    """Note the number of epochs among the options of runs, where that differs between arms.

    Runs of different length are not compared; but where an arm's own seeds differ in it, its loop
    stops training when it likes, and it counts as of a length that others have and it may have had.
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
    """The length that each arm counts as having, from the shortest and longest of its runs.

    One whose runs are alike has theirs. One whose runs are not has the longest such within its
    range; where there is none, the longest of those whose ranges overlap.
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
    """Check what is told of a run.

    Args:
        told: columns of runs.csv that have a value.
        where: what the error begins with.

    Raises:
        UserError: a value cannot be one of its column.
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
    """A finite number as it is; NaN, which compares with nothing, for anything else."""
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
        state["diverged"] = {"step": None}  # at or after its last evaluation
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
    """The options of a run, named as those of runs that were trained here."""
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
    return flat(found)


def _label(told: dict[str, Any]) -> str:
    name = str(told["method"])
    if "fixed_lambda" in told and name != "fixed":
        return f"{name} λ"
    return called("method", name)


def _value(text: str) -> Any:
    """A cell as a truth value or a number, where it is one."""
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
    """The cells of runs.csv or epochs.csv as text; no rows where it is not there.

    Rows that are empty throughout are left out, as is an empty cell behind the last column.

    Raises:
        UserError: it is no CSV file, or a column that it needs is not there.
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
