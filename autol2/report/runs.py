"""What the report needs of each run, read once and kept until the run's files change."""

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
"""Of λ that are kept of a run, at most: a schedule that always moves is thinned, late more than
early, as a logarithmic axis shows it."""
SHRINKING_STEPS = 200
"""Steps over which the shrinking of the weights is multiplied up."""
LARGEST = 1e30
"""That a λ can be: beyond, the file is damaged."""
FORMAT = 6
"""Of what is kept; another one is read anew."""
MEASUREMENTS = ("epoch", "step", "lambda")
EVALUATIONS = ("epoch", "step", "test_accuracy")
ACCURACIES = ("test_accuracy", "validation_accuracy", "train_accuracy")
MORE = (
    *("lambda", "lr", "train_loss", "train_accuracy", "test_loss", "weight_norm"),
    *("validation_loss", "validation_accuracy"),
)
"""Columns of measurements.csv and epochs.csv that are read where they are there."""
OF_LAYERS = ("norm_", "effective_lr_")
"""How the names of further such columns begin, whatever the network's layers are called."""
FILES = ("run.json", "measurements.csv", "epochs.csv")


@dataclass
class Curves:
    """A run's history, thinned to what is drawn."""

    epochs: dict[str, list[float]] = field(default_factory=dict)
    """Columns of epochs.csv, of the last evaluation of each epoch; ``epoch`` counts epochs done."""
    lambdas: list[tuple[int, float]] = field(default_factory=list)
    """(step of the run, λ from there on): the first measurement, each change and the last one; of
    more than `CHANGES` a selection."""
    highs: list[tuple[float, float]] = field(default_factory=list)
    """(epochs done, test accuracy) of each evaluation, also within an epoch, that was better than
    all before it."""
    shrinking: float = math.nan
    """Π(1 − 2·lr·λ) over the first 200 steps: what the penalty alone leaves of the weights."""
    diverged: float | None = None
    """Epoch at which the run diverged."""
    problem: str = ""
    """Why the run's records could not be read."""

    def at_length(self, own: float, other: float) -> Curves:
        """The same, with the steps of `lambdas` in epochs of `other` steps instead of `own`."""
        if own == other:
            return self
        scaled = [(round(step * other / own), value) for step, value in self.lambdas]
        return replace(self, lambdas=scaled)


def curves(records: Iterable[Record], cache: Path) -> Iterator[tuple[Record, Curves]]:
    """Each run with its history; `cache` is a folder for what has been read.

    A run whose run.json is of no use comes with an empty state, and its history says why.
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
        # Not atomically, which waits for the disk a run: what is torn does not read.
        kept.write_text(json.dumps({"key": key, **asdict(history)}), encoding="utf-8")
        yield record, history


def _key(folder: Path) -> list[list[int]]:
    """Changes whenever the run's files do."""
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
        return Curves()  # it never began
    length, lr = int(state["steps_per_epoch"]), float(state["config"].get("lr") or math.nan)
    begun = state["status"] in FINISHED  # else there may be no rows yet
    try:
        evaluations = _rows(record.folder / "epochs.csv", EVALUATIONS, begun)
        measurements = _rows(record.folder / "measurements.csv", MEASUREMENTS, begun)
        if state["status"] == "completed" and evaluations.empty:
            raise ValueError("epochs.csv has no rows")
        if state["status"] == "diverged":  # and with it λ, where the optimizer finds that
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
    """The whole rows of a CSV file, of which a running run may have flushed half of the last.

    Args:
        path: the file.
        columns: those that must be there.
        begun: whether the file itself must be.

    Raises:
        ValueError: it cannot be read, or does not hold numbers.
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
    """The step of the run at each row; an error where they do not rise."""
    steps = (rows["epoch"] * length + rows["step"]).to_numpy()
    if not (np.diff(steps, prepend=-1) > 0).all() or (steps > 1e12).any():
        raise ValueError(f"{name}: its steps do not increase")
    return steps


def by_epoch(evaluations: pd.DataFrame) -> dict[str, list[float]]:
    """The columns of a run's evaluations, of the last one of each epoch.

    Args:
        evaluations: a row an evaluation; ``epoch`` and ``epoch_done``, the time in epochs.

    Raises:
        ValueError: not every accuracy is one.
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
    """See `Curves.highs`; arguments as of `by_epoch`."""
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
    # λ of a measurement holds for the steps since the one before it, at most k of them; at an
    # epoch's end a few steps have no measurement, and keep the λ that follows them. The learning
    # rate may have moved in between.
    every = np.arange(1, min(int(steps[-1]), SHRINKING_STEPS) + 1)
    rates = np.full(len(steps), lr)
    if "lr" in measurements:
        rates = measurements["lr"].to_numpy(float)
    with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges
        factors = 2 * np.interp(every, steps, rates) * values[np.searchsorted(steps, every)]
        shrinking = np.prod(1 - factors)
    return path, float(shrinking)


def path_text(path: list[tuple[int, float]]) -> str:
    """Changes of λ as ``step:λ``, the step being the first that is measured with it."""
    if len(path) >= CHANGES // 2:
        return "all the time"
    return " ".join(
        f"{step}:{_in_short(value)}"
        for (step, value), (_, before) in zip(path[1:], path[:-1], strict=True)
        if value != before
    )


def _in_short(value: float) -> str:
    """As in 1e-04, with more digits where there are some."""
    text = f"{value:.0e}"
    return text if math.isclose(float(text), value, rel_tol=1e-9) else f"{value:.2e}"
