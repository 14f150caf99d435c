"""Show the status of a study: ``python -m autol2.status study=paper``, by default the newest one.

The run directories are read first; if SLURM is available, it is queried about the other runs.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from rich.console import Console
from rich.live import Live
from rich.text import Text

from .cli.command import command
from .cli.progress import counted, duration
from .config import parse_as, study_name
from .errors import UserError
from .runs.state import FINISHED
from .storage.files import to_json
from .storage.lock import PATIENCE
from .sweeps import slurm
from .sweeps.lost_jobs import job_of
from .sweeps.manifest import read_manifest
from .sweeps.run_status import Job, in_background, status_of
from .sweeps.states import States
from .sweeps.study import Record, find, records

STATUSES = {
    "running": "cyan",
    "failed": "red",
    "stopped": "magenta",
    "queued": "yellow",
    "missing": "yellow",
    "diverged": "blue",
    "done": "green",
}
"""The statuses that a run can have, in the order of the table, with the colour of each."""
FORMATS = ("table", "json")
QUEUE_EVERY = 20.0
"""Minimum number of seconds between two queries to SLURM in `watch`."""


@dataclass
class StatusConfig:
    """The options of the command."""

    study: str | None = None
    """Name of the study; by default, the one that was changed last."""
    outputs: str = "outputs"
    """Folder in which studies are stored."""
    watch: bool = False
    """Keep the table up to date until Ctrl-C."""
    every: float = 5.0
    """Seconds between two updates of `watch`; updating takes at most a fifth of the time."""
    rows: int = 50
    """Maximum number of rows for each status; 0 for all rows. JSON always has all rows."""
    format: str = "table"
    """Output format: table or json."""

    def __post_init__(self) -> None:
        if self.study is not None:
            study_name(self.study)
        if self.format not in FORMATS:
            raise UserError(f"format={self.format} is not one of {', '.join(FORMATS)}")
        if self.watch and self.format != "table":
            raise UserError("watch=true shows a table: leave out format=json")
        if not self.every > 0:
            raise UserError(f"every must be above 0 seconds, not {self.every:g}")
        if self.rows < 0:
            raise UserError(f"rows must be at least 0, not {self.rows}")


@dataclass(frozen=True)
class Row:
    """The current status of one run."""

    run_id: str
    status: str
    """The status, which is one of `STATUSES`."""
    why: str
    """The reason for `status`; for a failed run, the last line of its error message."""
    epoch: int | None = None
    """The current epoch, counted from 1; for a finished run, its last epoch."""
    epochs: int | None = None
    lambda_: float | None = None
    """λ of the next step; for a finished run, its last λ."""
    test_accuracy: float | None = None
    """Test accuracy of the last evaluation, in percent."""
    seconds_left: float | None = None
    """Estimated number of seconds until a running run ends, at its pace so far."""
    silent: float | None = None
    """Seconds since the last update of run.json; None unless its status there is ``running``."""
    host: str | None = None
    job: str | None = None
    """ID of the SLURM job, such as 12_3."""


@dataclass(frozen=True)
class Status:
    """The current status of a study.

    Attributes:
        folder: the folder of the study.
        rows: the runs of the study, including those that never started.
        queue_problem: why the list of runs or the state of their jobs is incomplete; empty if
            there was no problem.
    """

    folder: Path
    rows: Sequence[Row]
    queue_problem: str

    @property
    def counts(self) -> dict[str, int]:
        """The number of runs for each status that occurs, in the order of `STATUSES`."""
        found = Counter(row.status for row in self.rows)
        return {status: found[status] for status in STATUSES if found[status]}


@command("status")
def main(cfg: DictConfig) -> None:
    """Show the status of the study that the configuration names."""
    config = parse_as(StatusConfig, cfg)
    folder = find(Path(config.outputs), config.study)
    console = Console(highlight=False)
    if config.watch:
        watch(folder, config, console)
    elif config.format == "json":
        print(as_json(look(folder)), end="")
    else:
        console.print(table(look(folder), config.rows), soft_wrap=True)


def watch(folder: Path, config: StatusConfig, console: Console) -> None:
    """Show the status of the study in `folder`, and update it until Ctrl-C.

    Raises:
        UserError: if `console` is not a terminal.
    """
    if not console.is_terminal:
        raise UserError("watch=true needs a terminal: in a script, use format=json")
    states, queue = States(), Queue(QUEUE_EVERY)
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                before = time.monotonic()
                live.update(table(look(folder, states, queue), config.rows), refresh=True)
                time.sleep(max(config.every, 4 * (time.monotonic() - before)))
        except KeyboardInterrupt:
            pass


class Queue:
    """Queries SLURM for the state of jobs, and limits how often it does so.

    Args:
        every: the minimum number of seconds between two queries; in between, `jobs` returns the
            previous answer.
    """

    def __init__(self, every: float = 0.0) -> None:
        self._every, self._asked = every, -math.inf
        self._answer: tuple[dict[str, Job], str] = {}, ""

    def jobs(self, submitted: Mapping[str, float | None]) -> tuple[dict[str, Job], str]:
        """Return the jobs (see `slurm.jobs`) and why the query failed, or "" if it did not."""
        if submitted and time.monotonic() - self._asked >= self._every:
            try:
                self._answer = slurm.jobs(submitted), ""
            except UserError as error:
                self._answer = {}, str(error)
            self._asked = time.monotonic()
        return self._answer


def look(folder: Path, states: States | None = None, queue: Queue | None = None) -> Status:
    """Return the current status of the study in `folder`.

    Args:
        folder: the folder of the study.
        states: a cache of the run.json files that were read before, for repeated calls.
        queue: the queue to query, which limits the queries to SLURM, for repeated calls.
    """
    damaged = ""
    try:
        expected = read_manifest(folder, strict=True)
    except UserError as error:
        expected, damaged = {}, f"{error}. Runs that never started are not in this list"
    found = {record.run_id: record for record in records(folder, states)}
    unsure = {
        str(entry["job"]): entry.get("submitted")
        for run, entry in expected.items()
        if "job" in entry and (run not in found or found[run].state.get("status") not in FINISHED)
    }
    jobs, problem = (queue or Queue()).jobs(unsure)
    now = time.time()
    rows = [
        _row(run, found.get(run), expected.get(run, {}), jobs, now)
        for run in sorted({*expected, *found})
    ]
    return Status(folder, rows, "; ".join(filter(None, (damaged, problem))))


def _row(
    run: str,
    record: Record | None,
    known: Mapping[str, Any],
    jobs: Mapping[str, Job],
    now: float,
) -> Row:
    state = record.state if record else {}
    job = job_of(run, known, state, jobs)
    how = in_background(status_of(state, job), known)
    status, why = how.status, how.why
    if status == "missing" and record is not None and record.broken:
        status, why = "stopped", "run.json cannot be read"
    if status == "done":
        status, why = ("diverged", _where(state)) if why == "diverged" else ("done", "")
    last = (state.get("attempts") or [{}])[-1]
    silent = now - float(state["updated"]) if state.get("status") == "running" else None
    if status == "queued" and silent is not None and _runs(job):
        status = "running"  # SLURM says that the job is running, so the run is slow, not dead.
    if silent is not None and status == "running":
        why = f"slow: silent for {duration(silent)}" if silent > PATIENCE else ""
    elif silent is not None and status == "stopped":
        why = f"dead: silent for {duration(silent)}, on {last.get('host')}"
    progress, result = state.get("progress") or {}, state.get("result") or {}
    left = progress.get("seconds_left") if status == "running" else None
    return Row(
        run_id=run,
        status=status,
        why=why,
        epoch=progress.get("epoch"),
        epochs=progress.get("epochs") or (state.get("config") or {}).get("epochs"),
        lambda_=_number(result.get("final_lambda", progress.get("lambda"))),
        test_accuracy=_number(result.get("final_test_accuracy", progress.get("test_accuracy"))),
        seconds_left=None if left is None else max(0.0, left - (silent or 0.0)),
        silent=silent,
        host=last.get("host"),
        job=known.get("job"),
    )


def _runs(job: Job | None) -> bool:
    return job is not None and job.state in ("RUNNING", "COMPLETING", "SUSPENDED")


def _where(state: Mapping[str, Any]) -> str:
    where = state.get("diverged") or {}
    lambda_ = _figure(_number(where.get("lambda")), "g")
    with_lambda = f", with λ = {lambda_}" if lambda_ else ""
    return f"loss not finite at step {where.get('step')}{with_lambda}"


def _number(value: Any) -> float | None:
    """Convert a number from JSON, in which non-finite ones are strings (see `files.to_json`)."""
    return None if value is None else float(value)


def as_json(status: Status) -> str:
    """Format `status` as JSON: the study, its counts, and the fields of the `Row` of each run."""
    runs = []
    for row in status.rows:
        fields = asdict(row)
        fields["lambda"] = fields.pop("lambda_")
        runs.append(fields)
    return to_json(
        {
            "study": status.folder.name,
            "folder": str(status.folder),
            "counts": status.counts,
            "queue_problem": status.queue_problem or None,
            "runs": runs,
        }
    )


def table(status: Status, limit: int) -> Text:
    """Format `status` as a table with at most `limit` rows for each status (0 for all rows)."""
    text = Text(f"{status.folder.name}: {counted(len(status.rows))}: ", no_wrap=True)
    for place, (name, count) in enumerate(status.counts.items()):
        text.append(", " if place else "")
        text.append(f"{count} {name}", style=STATUSES[name])
    shown = [
        row
        for name in STATUSES
        for row in [row for row in status.rows if row.status == name][: limit or None]
    ]
    width = max((len(row.run_id) for row in shown), default=0)
    text.append(f"\n{'run':{width}}  {'status':8}  {'epoch':>7} {'λ':>7} {'test %':>6}  left")
    for row in shown:
        text.append(f"\n{row.run_id:{width}}  ")
        text.append(f"{row.status:8}  ", style=STATUSES[row.status])
        text.append(_words(row))
    if len(shown) < len(status.rows):
        text.append(f"\n… and {len(status.rows) - len(shown)} more: rows=0 shows all")
    if status.queue_problem:
        text.append(f"\nthe queue is unknown: {status.queue_problem}", style="yellow")
    return text


def _words(row: Row) -> str:
    """Format the columns of a run that follow its name and status."""
    epoch = "" if row.epoch is None else f"{row.epoch}/{row.epochs}"
    if row.status in ("failed", "stopped", "queued", "missing"):
        return row.why + (f" (epoch {epoch})" if epoch else "")
    left = "" if row.seconds_left is None else duration(row.seconds_left)
    figures = f"{_figure(row.lambda_, '.3g'):>7} {_figure(row.test_accuracy, '.2f'):>6}"
    return f"{epoch:>7} {figures}  {left}  {row.why}".rstrip()


def _figure(value: float | None, form: str) -> str:
    return "" if value is None or math.isnan(value) else f"{value:{form}}"


ConfigStore.instance().store(name="status_schema", node=StatusConfig)

if __name__ == "__main__":
    main()
