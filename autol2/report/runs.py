"""Reads the history of each run for the report, and caches it until the files of the run change."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..runs.state import FINISHED, content
from ..sweeps.study import Record
from .faults import fault

CHANGES = 400
"""Maximum number of changes of λ that are kept for a run.

A schedule that changes all the time is thinned, with fewer changes late in training, to suit a
logarithmic axis.
"""
SHRINKING_STEPS = 200
"""Number of steps over which the shrinking of the weights is computed."""
LARGEST = 1e30
"""Values of λ from this limit on show that a file is damaged."""
FORMAT = 6
"""Version of the cache format; a cache of another version is not used."""
MEASUREMENTS = ("epoch", "step", "lambda")
EVALUATIONS = ("epoch", "step", "test_accuracy")
ACCURACIES = ("test_accuracy", "validation_accuracy", "train_accuracy")
MORE = (
    *("lambda", "lr", "train_loss", "train_accuracy", "test_loss", "weight_norm"),
    *("validation_loss", "validation_accuracy"),
)
"""Optional columns of measurements.csv and epochs.csv."""
OF_LAYERS = ("norm_", "effective_lr_")
"""The prefixes of optional columns that are named after the layers of the network."""
FILES = ("run.json", "measurements.csv", "epochs.csv")


@dataclass
class Curves:
    """The history of a run, thinned to what is drawn."""

    epochs: dict[str, list[float]] = field(default_factory=dict)
    """The columns of epochs.csv for the last evaluation in each epoch.

    ``epoch`` is the number of completed epochs.
    """
    lambdas: list[tuple[int, float]] = field(default_factory=list)
    """Pairs of a step of the run and the λ from there on.

    They include the first measurement, each change and the last measurement, or a selection if
    there are more than `CHANGES`.
    """
    highs: list[tuple[float, float]] = field(default_factory=list)
    """Pairs of completed epochs and the test accuracy, for evaluations better than all before.

    Evaluations within an epoch are included.
    """
    shrinking: float = math.nan
    """Π(1 − 2·lr·λ) over the first 200 steps: the share of the weights that the penalty leaves."""
    diverged: float | None = None
    """The epoch at which the run diverged; None if it did not."""
    problem: str = ""
    """The reason why the records of the run could not be read; empty if they could."""

    def at_length(self, own: float, other: float) -> Curves:
        """Rescale the steps of `lambdas` from `own` to `other` steps per epoch."""
        if own == other:
            return self
        scaled = [(round(step * other / own), value) for step, value in self.lambdas]
        return replace(self, lambdas=scaled)


def curves(records: Iterable[Record], cache: Path) -> Iterator[tuple[Record, Curves]]:
    """Read the history of each run.

    Args:
        records: the records of the runs.
        cache: the folder in which histories are cached.

    Yields:
        The record and the history of each run. If its run.json is not valid, the state in the
        record is empty, and the history contains the reason.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for record in records:
        if what := fault(record.state or content(record.folder)):
            yield Record(record.folder, {}), Curves(problem=what)
            continue
        kept = cache / f"{record.run_id}.json"
        key = _key(record.folder)
        try:
            known = json.loads(kept.read_text(encoding="utf-8"))
            if known.pop("key") != key:
                raise ValueError("the run has gone on")
            for name in ("lambdas", "highs"):
                known[name] = [(place, value) for place, value in known[name]]
            yield record, Curves(**known)
            continue
        except (OSError, ValueError, KeyError, TypeError):
            pass
        history = _read(record)
        # An atomic write would wait for the disk for each run. An incomplete file is ignored.
        kept.write_text(json.dumps({"key": key, **asdict(history)}), encoding="utf-8")
        yield record, history


def _key(folder: Path) -> list[list[int]]:
    """Return a cache key that changes whenever the files of the run do."""
    key = [[FORMAT]]
    for name in FILES:
        try:
            stat = (folder / name).stat()
            key.append([stat.st_size, stat.st_mtime_ns])
        except OSError:
            key.append([])
    return key


def _read(record: Record) -> Curves:
    state = record.state
    if not state.get("steps_per_epoch") or not state.get("config"):
        return Curves()  # The run never started.
    length, lr = int(state["steps_per_epoch"]), float(state["config"].get("lr") or math.nan)
    begun = state["status"] in FINISHED  # Otherwise, there may be no rows yet.
    try:
        evaluations = _rows(record.folder / "epochs.csv", EVALUATIONS, begun)
        measurements = _rows(record.folder / "measurements.csv", MEASUREMENTS, begun)
        if state["status"] == "completed" and evaluations.empty:
            raise ValueError("epochs.csv has no rows")
        if state["status"] == "diverged":  # λ may also be NaN if the optimizer noticed it.
            measurements = measurements[measurements["lambda"].notna()]
        path, shrinking = _lambdas(measurements, length, lr)
        evaluations["epoch_done"] = _steps(evaluations, length, "epochs.csv") / length
        return Curves(
            by_epoch(evaluations),
            path,
            highs(evaluations),
            shrinking,
            state["diverged"]["step"] / length if state["status"] == "diverged" else None,
        )
    except ValueError as error:
        return Curves(problem=f"its records cannot be read: {error}")


def _rows(path: Path, columns: tuple[str, ...], begun: bool) -> pd.DataFrame:
    """Read the complete rows of a CSV file; a running run may have written half of the last row.

    Args:
        path: the file.
        columns: the required columns.
        begun: whether the file must exist and have content.

    Raises:
        ValueError: if the file cannot be read or contains something other than numbers.
    """
    content = b""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from error
    content = content[: content.rfind(b"\n") + 1]
    if not content and begun:
        raise ValueError(f"{path.name} is missing or empty")
    if not content:
        return pd.DataFrame(columns=columns, dtype=float)
    wanted = {*columns, *MORE}
    try:
        rows = pd.read_csv(
            io.BytesIO(content),
            usecols=lambda name: name in wanted or name.startswith(OF_LAYERS),
        )
        absent = next((name for name in columns if name not in rows), None)
        if absent:
            raise ValueError(f"there is no column {absent}")
        return rows.astype(float)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _steps(rows: pd.DataFrame, length: int, name: str) -> np.ndarray:
    """Return the step of the run for each row.

    Raises:
        ValueError: if the steps do not increase.
    """
    steps = (rows["epoch"] * length + rows["step"]).to_numpy()
    if not (np.diff(steps, prepend=-1) > 0).all() or (steps > 1e12).any():
        raise ValueError(f"{name}: its steps do not increase")
    return steps


def by_epoch(evaluations: pd.DataFrame) -> dict[str, list[float]]:
    """Return the columns of the last evaluation in each epoch.

    Args:
        evaluations: the table of evaluations, with one row each; ``epoch_done`` is the number of
            completed epochs.

    Raises:
        ValueError: if any accuracy is not between 0 and 100.
    """
    for name in ACCURACIES:
        if name in evaluations and not evaluations[name].dropna().between(0, 100).all():
            raise ValueError(f"epochs.csv: not every {name} is a number from 0 to 100")
    if evaluations["test_accuracy"].isna().any():
        raise ValueError("epochs.csv: not every test_accuracy is a number from 0 to 100")
    last = evaluations.drop_duplicates("epoch", keep="last").assign(
        epoch=lambda rows: rows["epoch_done"]
    )
    layers = [str(name) for name in last if str(name).startswith(OF_LAYERS)]
    names = ["epoch", *(name for name in ("test_accuracy", *MORE) if name in last), *layers]
    return {name: last[name].astype(float).tolist() for name in names}


def highs(evaluations: pd.DataFrame) -> list[tuple[float, float]]:
    """Return the `Curves.highs` of a table of evaluations, as for `by_epoch`."""
    best = evaluations["test_accuracy"].cummax()
    new = best.diff().fillna(1.0) > 0
    rows = evaluations[new]
    return list(
        zip(rows["epoch_done"].tolist(), rows["test_accuracy"].astype(float).tolist(), strict=True)
    )


def _lambdas(
    measurements: pd.DataFrame, length: int, lr: float
) -> tuple[list[tuple[int, float]], float]:
    if measurements.empty:
        return [], math.nan
    steps = _steps(measurements, length, "measurements.csv")
    values = measurements["lambda"].to_numpy(float)
    if not ((values >= 0) & (values < LARGEST)).all():
        raise ValueError("measurements.csv: not every λ is a number of at least 0")
    changes = [0, *((values[1:] != values[:-1]).nonzero()[0] + 1), len(values) - 1]
    if len(changes) > CHANGES:
        kept = np.geomspace(1, len(changes), CHANGES).astype(int) - 1
        changes = [changes[place] for place in np.unique(kept)]
    path = [(int(steps[place]), float(values[place])) for place in changes]
    # The λ of a measurement holds for the steps since the previous measurement, which are at most
    # k. A few steps at the end of an epoch have no measurement, and use the λ of the next one. The
    # learning rate is interpolated.
    every = np.arange(1, min(int(steps[-1]), SHRINKING_STEPS) + 1)
    rates = np.full(len(steps), lr)
    if "lr" in measurements:
        rates = measurements["lr"].to_numpy(float)
    with np.errstate(over="ignore", invalid="ignore"):  # The run may diverge.
        factors = 2 * np.interp(every, steps, rates) * values[np.searchsorted(steps, every)]
        shrinking = np.prod(1 - factors)
    return path, float(shrinking)


def path_text(path: list[tuple[int, float]]) -> str:
    """Format changes of λ as ``step:λ``, where the step is the first that is measured with λ."""
    if len(path) >= CHANGES // 2:
        return "all the time"
    return " ".join(
        f"{step}:{_in_short(value)}"
        for (step, value), (_, before) in zip(path[1:], path[:-1], strict=True)
        if value != before
    )


def _in_short(value: float) -> str:
    """Format a number as in 1e-04, or with more digits if needed."""
    text = f"{value:.0e}"
    return text if math.isclose(float(text), value, rel_tol=1e-9) else f"{value:.2e}"
