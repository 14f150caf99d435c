"""Experiment trackers beside a run's own records: TensorBoard, Weights & Biases, MLflow.

A tracker is shown what the run's CSV files say, row for row, each time they are flushed: nothing is
measured for it, and the GPU never waits. It is a copy: when it fails the run goes on without it.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from ..config import Config
from .identity import digest, identity
from .run import Run

Figures = dict[str, float]
"""By name, as in ``epochs/test_accuracy``; all finite."""
ENDS = {"completed": "FINISHED", "interrupted": "KILLED"}
"""MLflow's words for how a run ended; what is not here has FAILED."""
BATCH = 1000
"""Figures that MLflow takes at a time."""


class Tracker(Protocol):
    """What shows a run while it runs."""

    def log(self, rows: Sequence[tuple[int, Figures]]) -> None:
        """Take figures, each row with the step of the run that it belongs to."""

    def close(self, status: str) -> None:
        """The attempt ended; `status` as in run.json."""


class Mirror:
    """Shows a tracker what is new in a run's records.

    Args:
        tracker: the tracker.
        folder: the run's. What its records hold now, an earlier attempt has shown.
        length: steps of an epoch.
        warn: told once if the tracker fails.
    """

    def __init__(
        self, tracker: Tracker, folder: Path, length: int, warn: Callable[[str], None]
    ) -> None:
        self._tracker: Tracker | None = tracker
        self._length, self._warn = length, warn
        self._columns: dict[Path, list[str]] = {}
        self._seen: dict[Path, int] = {}
        for path in (folder / "measurements.csv", folder / "epochs.csv"):
            with path.open(newline="", encoding="utf-8") as file:
                self._columns[path] = next(csv.reader(file))
            self._seen[path] = path.stat().st_size

    def update(self) -> None:
        """Show what has been flushed since the last time."""
        if self._tracker is not None:
            self._attempt(lambda tracker: tracker.log(list(self._news())))

    def close(self, status: str) -> None:
        """Show the rest and let the tracker go; `status` as in run.json."""
        self.update()
        self._attempt(lambda tracker: tracker.close(status))
        self._tracker = None

    def _attempt(self, what: Callable[[Tracker], None]) -> None:
        try:
            if self._tracker is not None:
                what(self._tracker)
        except Exception as error:
            self._tracker = None
            self._warn(f"the logger failed, the run goes on without it: {_short(error)}")

    def _news(self) -> Iterator[tuple[int, Figures]]:
        for path, columns in self._columns.items():
            with path.open("rb") as file:
                file.seek(self._seen[path])
                content = file.read()
            content = content[: content.rfind(b"\n") + 1]  # a row may be half flushed
            self._seen[path] += len(content)
            for row in csv.DictReader(io.StringIO(content.decode()), columns):
                step = int(row.pop("epoch")) * self._length + int(row.pop("step"))
                row.pop("event", None)
                figures = {f"{path.stem}/{name}": float(value) for name, value in row.items()}
                yield step, {name: one for name, one in figures.items() if math.isfinite(one)}


def mirror(run: Run, first: int, length: int, warn: Callable[[str], None]) -> Mirror | None:
    """What shows `run` to the tracker that it names; None where it names none or that fails.

    Args:
        run: begun, with its records flushed.
        first: the last step that is not done again.
        length: steps of an epoch.
        warn: told if the tracker cannot be had, or later fails.
    """
    name = run.config.logger.name
    try:
        tracker = _tracker(run, first)
    except Exception as error:
        warn(f"no logger={name}, the run goes on without it: {_short(error)}")
        return None
    return None if tracker is None else Mirror(tracker, run.folder, length, warn)


def _tracker(run: Run, first: int) -> Tracker | None:
    match run.config.logger.name:
        case "tensorboard":
            return TensorBoard(run, first)
        case "wandb":
            return WandB(run)
        case "mlflow":
            return MLflow(run)
    return None


class TensorBoard:
    """Event files in the run's folder."""

    def __init__(self, run: Run, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(run.folder / "tensorboard", purge_step=first + 1)
        if first == 0:
            text = json.dumps(_options(run.config), indent=2, ensure_ascii=False)
            self._writer.add_text("configuration", f"```\n{text}\n```")

    def log(self, rows: Sequence[tuple[int, Figures]]) -> None:
        """See `Tracker`."""
        for step, figures in rows:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, status: str) -> None:
        """See `Tracker`."""
        self._writer.close()


class WandB:
    """A Weights & Biases run; every attempt at our run is the same one."""

    def __init__(self, run: Run) -> None:
        import wandb

        options = run.config.logger
        self._run = wandb.init(
            project=options.project,
            id=_id(run),
            name=run.folder.name,
            group=run.config.study,
            config=_options(run.config),
            dir=run.folder,
            mode="online" if options.mode == "online" else "offline",
            resume="allow",
            settings=wandb.Settings(console="off", silent=True, init_timeout=30),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, rows: Sequence[tuple[int, Figures]]) -> None:
        """See `Tracker`."""
        for step, figures in rows:
            self._run.log({**figures, "step": step})

    def close(self, status: str) -> None:
        """See `Tracker`."""
        self._run.summary["status"] = status
        self._run.finish(exit_code=int(status == "failed"))


class MLflow:
    """An MLflow run; every attempt at our run is the same one."""

    def __init__(self, run: Run) -> None:
        for name, value in (
            ("MAX_RETRIES", "1"),
            ("TIMEOUT", "10"),
        ):  # or a lost server holds us up
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        options, study = run.config.logger, run.folder.parent
        uri = options.uri or f"sqlite:///{(study / 'mlflow.db').resolve()}"
        with FileLock(study / ".mlflow.lock"):  # two runs must not both make the tables
            self._client = MlflowClient(uri)
            self._run_id = self._find_or_create(run, options.project)

    def _find_or_create(self, run: Run, project: str) -> str:
        client = self._client
        known = client.get_experiment_by_name(project)
        experiment = known.experiment_id if known else client.create_experiment(project)
        found = client.search_runs([experiment], f"tags.`autol2.id` = '{_id(run)}'")
        if found:
            client.update_run(found[0].info.run_id, "RUNNING")
            return str(found[0].info.run_id)
        tags = {"autol2.id": _id(run), "autol2.sweeps.study": run.config.study}
        made = client.create_run(experiment, tags=tags, run_name=run.folder.name).info.run_id
        for name, value in _options(run.config).items():
            client.log_param(made, name, value)
        return str(made)

    def log(self, rows: Sequence[tuple[int, Figures]]) -> None:
        """See `Tracker`."""
        now = int(1000 * time.time())
        metrics = [
            self._metric(name, value, now, step)
            for step, figures in rows
            for name, value in figures.items()
        ]
        for first in range(0, len(metrics), BATCH):
            self._client.log_batch(self._run_id, metrics[first : first + BATCH])

    def close(self, status: str) -> None:
        """See `Tracker`."""
        self._client.set_tag(self._run_id, "autol2.status", status)
        self._client.set_terminated(self._run_id, ENDS.get(status, "FAILED"))


def _id(run: Run) -> str:
    """The same for every attempt at a run, another one after ``rerun=true``."""
    started = run.state["attempts"][0]["started"]
    return f"{run.folder.name}-{digest({'study': run.config.study, 'started': started})}"


def _options(config: Config) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in identity(config).items():
        if isinstance(value, dict):
            flat.update({f"{name}.{inner}": one for inner, one in value.items()})
        else:
            flat[name] = value
    return flat


def _short(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
