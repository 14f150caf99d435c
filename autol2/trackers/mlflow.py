"""The experiment tracker MLflow."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import require
from ..storage.lock import locked
from .tracker import Figures, Shown, Tracker, TrackerOptions

ENDS = {"completed": "FINISHED", "interrupted": "KILLED"}
"""MLflow's statuses by how a run ended; all other ends are FAILED."""
BATCH = 1000
"""The largest number of metrics in one request to MLflow."""


@dataclass
class MLflowOptions(TrackerOptions):
    """The experiment tracker MLflow."""

    project: str = "autol2"
    """Name of the MLflow experiment."""
    uri: str | None = None
    """The tracking server; null for mlflow.db in the study's folder."""

    name = "mlflow"
    package = "mlflow"

    def open(self, run: Shown) -> Tracker:
        """Open an MLflow run (see `TrackerOptions`)."""
        return MLflow(run, self)


def _database(study: Path) -> str:
    """Return the address of mlflow.db in the study's folder.

    Raises:
        UserError: the path cannot be part of an address.
    """
    from sqlalchemy import make_url

    path = str((study / "mlflow.db").resolve())
    uri = f"sqlite:///{path}"
    require(
        make_url(uri).database == path,
        f"MLflow cannot keep its database in {study}: choose outputs=FOLDER without ? and % in its "
        f"path, or set logger.uri",
    )
    return uri


class MLflow:
    """An MLflow run, which all attempts at a run share."""

    def __init__(self, run: Shown, options: MLflowOptions) -> None:
        for name, value in (
            ("MAX_RETRIES", "1"),
            ("TIMEOUT", "10"),
        ):  # otherwise, a lost server would block the run
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        study = run.folder.parent
        uri = options.uri or _database(study)
        # so that only one process creates its tables
        with locked(study / ".mlflow.lock", "opens MLflow's database"):
            self._client = MlflowClient(uri)
            self._run_id = self._find_or_create(run, options.project)

    def _find_or_create(self, run: Shown, project: str) -> str:
        client = self._client
        known = client.get_experiment_by_name(project)
        experiment = known.experiment_id if known else client.create_experiment(project)
        found = client.search_runs([experiment], f"tags.`autol2.id` = '{run.id}'")
        if found:
            client.update_run(found[0].info.run_id, "RUNNING")
            return str(found[0].info.run_id)
        tags = {"autol2.id": run.id, "autol2.study": run.study}
        made = client.create_run(experiment, tags=tags, run_name=run.folder.name).info.run_id
        for name, value in run.options.items():
            client.log_param(made, name, value)
        return str(made)

    def log(self, rows: Sequence[tuple[int, Figures]]) -> None:
        """Log figures (see `Tracker`)."""
        now = int(1000 * time.time())
        metrics = [
            self._metric(name, value, now, step)
            for step, figures in rows
            for name, value in figures.items()
        ]
        for first in range(0, len(metrics), BATCH):
            self._client.log_batch(self._run_id, metrics[first : first + BATCH])

    def close(self, status: str) -> None:
        """End the MLflow run (see `Tracker`)."""
        self._client.set_tag(self._run_id, "autol2.status", status)
        self._client.set_terminated(self._run_id, ENDS.get(status, "FAILED"))
