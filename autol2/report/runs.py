"""What the report needs of each run, read once and kept until the run's files change."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..study import Record

CHANGES = 400
"""Of λ that are kept of a run, at most: a schedule that always moves is thinned, late more than
early, as a logarithmic axis shows it."""
SHRINKING_STEPS = 200
"""Steps over which the shrinking of the weights is multiplied up."""
FORMAT = 3
"""Of what is kept; another one is read anew."""
FILES = ("run.json", "measurements.csv", "epochs.csv")


@dataclass
class Curves:
    """A run's course, thinned to what is drawn."""

    epochs: dict[str, list[float]] = field(default_factory=dict)
    """Columns of epochs.csv, the last evaluation of each epoch; ``epoch`` counts epochs done."""
    lambdas: list[tuple[int, float]] = field(default_factory=list)
    """(step of the run, λ from there on): the first measurement, each change and the last one; of
    more than `CHANGES` a selection."""
    shrinking: float = math.nan
    """Π(1 − 2·lr·λ) over the first 200 steps: what the penalty alone leaves of the weights."""
    diverged: float | None = None
    """Epoch at which the run diverged."""
    problem: str = ""
    """Why the run's records could not be read."""


def curves(records: Iterable[Record], cache: Path) -> Iterator[tuple[Record, Curves]]:
    """Each run with its course; `cache` is a folder for what has been read."""
    cache.mkdir(parents=True, exist_ok=True)
    for record in records:
        kept = cache / f"{record.run_id}.json"
        key = _key(record.folder)
        try:
            known = json.loads(kept.read_text(encoding="utf-8"))
            if known.pop("key") != key:
                raise ValueError("the run has gone on")
            known["lambdas"] = [(step, value) for step, value in known["lambdas"]]
            yield record, Curves(**known)
            continue
        except (OSError, ValueError, KeyError, TypeError):
            pass
        course = _read(record)
        # Not atomically, which waits for the disk a run: what is torn does not read.
        kept.write_text(json.dumps({"key": key, **asdict(course)}), encoding="utf-8")
        yield record, course


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
    if not record.state:
        return Curves(problem="run.json is missing or cannot be read")
    try:
        evaluations = _rows(record.folder / "epochs.csv")
        measurements = _rows(record.folder / "measurements.csv", ["epoch", "step", "lambda"])
        length = int(record.state["steps_per_epoch"])
        lr = float(record.state["config"]["lr"])
        end = record.state.get("diverged")
        return Curves(
            _by_epoch(evaluations, length),
            *_lambdas(measurements, length, lr),
            end["step"] / length if end else None,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Curves(problem=f"its records cannot be read: {error}")


def _rows(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """The whole rows of a CSV file, of which a running run may have flushed half of the last."""
    content = path.read_bytes()
    return pd.read_csv(io.BytesIO(content[: content.rfind(b"\n") + 1]), usecols=columns)


def _by_epoch(evaluations: pd.DataFrame, length: int) -> dict[str, list[float]]:
    last = evaluations.groupby("epoch", as_index=False).last()
    last["epoch"] = last["epoch"] + last["step"] / length
    return {str(name): last[name].astype(float).tolist() for name in last.columns}


def _lambdas(
    measurements: pd.DataFrame, length: int, lr: float
) -> tuple[list[tuple[int, float]], float]:
    if measurements.empty:
        return [], math.nan
    steps = (measurements["epoch"] * length + measurements["step"]).to_numpy()
    values = measurements["lambda"].to_numpy(float)
    changes = [0, *((values[1:] != values[:-1]).nonzero()[0] + 1), len(values) - 1]
    if len(changes) > CHANGES:
        kept = np.geomspace(1, len(changes), CHANGES).astype(int) - 1
        changes = [changes[place] for place in np.unique(kept)]
    path = [(int(steps[place]), float(values[place])) for place in changes]
    # λ of a measurement holds for the steps since the one before it, at most k of them; at an
    # epoch's end a few steps have no measurement, and keep the λ that follows them.
    shrinking, before = 1.0, 0
    for step, value in zip(steps, values, strict=True):
        upto = min(int(step), SHRINKING_STEPS)
        shrinking *= (1 - 2 * lr * value) ** (upto - before)
        before = upto
        if before == SHRINKING_STEPS:
            break
    return path, shrinking


def path_text(path: list[tuple[int, float]]) -> str:
    """Changes of λ as ``step:λ``, the step being the first that is measured with it."""
    if len(path) >= CHANGES // 2:
        return "all the time"
    return " ".join(
        f"{step}:{value:.0e}"
        for (step, value), (_, before) in zip(path[1:], path[:-1], strict=True)
        if value != before
    )


def knobs(identity: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested knobs as ``{"method.name": …}``."""
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        if isinstance(value, dict):
            flat.update(knobs(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
