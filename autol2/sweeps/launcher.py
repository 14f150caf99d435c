"""Hydra launchers that treat a sweep as a desired state: they execute only the missing runs.

This is the common part of the launchers for one machine (`autol2.sweeps.local_launcher`) and for a
cluster (`autol2.sweeps.slurm_launcher`). First, `autol2.sweeps.run_status.status_of` determines how
each run stands; then only the missing runs are submitted. The same command, given again, continues
where the last one, or the cluster, left off.
"""

from __future__ import annotations

import difflib
import os
import signal
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.table import Table

from ..cli.composition import as_typed, restored, sources, sweep_loader
from ..cli.progress import Terminal, counted
from ..component import without_effect
from ..config import Config
from ..errors import UserError
from ..runs.identity import flat, run_id
from ..runs.run import Run
from ..runs.state import last_attempt, percent, read_state
from ..storage.files import to_json
from ..training.train import refuse_other_data
from .batch import Batch, hopeless
from .lost_jobs import job_of
from .manifest import add_to_manifest, read_manifest
from .run_status import HOPELESS, Job, RunStatus, status_of
from .task import Task

Plan = list[tuple[Task, RunStatus]]


class Failed(UserError):
    """Some runs of a sweep have no result."""

    status = 1


class Interrupted(UserError):
    """A signal stopped the sweep."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.status = 128 + number


class StudyLauncher(Launcher):
    """Base class of the launchers: compose the runs, decide what to do, and report."""

    AT_LEAST: ClassVar[dict[str, int]] = {}
    """The smallest valid values of options that are numbers."""
    AT_MOST: ClassVar[dict[str, int]] = {}
    """The largest valid values of options that are numbers."""
    SCHEMA: ClassVar[type]
    """The dataclass of the launcher's options."""
    WILL_BE: ClassVar = "started"
    """What happens to the missing runs, as a word for the user."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.console = Terminal()
        self.jobs: dict[Task, Job | None] = {}
        known = {item.name for item in fields(self.SCHEMA)}
        if unknown := sorted(options.keys() - known):
            near = difflib.get_close_matches(unknown[0], known, 1)
            hint = f"; did you mean hydra.launcher.{near[0]}?" if near else ""
            raise UserError(f"there is no option hydra.launcher.{unknown[0]}{hint}")
        for option, least in self.AT_LEAST.items():
            if options[option] < least:
                raise UserError(
                    f"hydra.launcher.{option} must be at least {least}, not {options[option]}"
                )
        for option, most in self.AT_MOST.items():
            if options[option] > most:
                raise UserError(
                    f"hydra.launcher.{option} must be at most {most}, not {options[option]}"
                )

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra passes, and create the loader, which the sweeper shares."""
        self.loader = sweep_loader(hydra_context)
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Execute the sweep's runs, and return one result per run for Hydra's sweepers."""
        if not job_overrides:
            raise UserError("there is nothing to sweep over: a range or glob has no values")
        self._sources = sources(self.config.hydra.overrides.hydra)
        tasks = self.tasks = self._tasks(job_overrides)
        self._refuse_other_data(tasks)
        once: dict[str, Task] = {}
        for task in tasks:
            once.setdefault(task.folder, task)
        plan = self._decide(once.values())
        self._show(plan)
        if self.options["dry_run"]:
            return [_returned(overrides, 0.0) for overrides in job_overrides]
        wanted = _unlike_first([task for task, how in plan if self._wanted(how)])
        self.under_way = [task for task, how in plan if how.under_way]
        if wanted:
            remember((task, {}) for task, _ in plan)
            self._act(wanted)
        if not self.options["detach"]:
            self._wait([task for task, how in plan if self._wanted(how) or how.under_way])
            self._sum_up([task for task, _ in plan], wanted)
        return [
            _returned(overrides, _objective(task.state))
            for overrides, task in zip(job_overrides, tasks, strict=True)
        ]

    def _tasks(self, runs: Sequence[Sequence[str]]) -> list[Task]:
        """Return the task of each run; report what the sweep leaves out or does only once."""
        tasks = [self._task(overrides) for overrides in runs]
        for said in self.loader.left_out:
            self.console.print(f"{said}: left out for its runs", markup=False)
        self.loader.left_out.clear()
        if differing := _differences(tasks):
            if "data.root" in differing:
                raise UserError(
                    "runs with several data.root would count as the same runs under one data.name: "
                    "run a separate command with its own data.name=NAME for each folder"
                )
            self.console.print(
                f"{', '.join(differing)} {'is' if len(differing) == 1 else 'are'} not part of a "
                f"run's identity: runs that differ in nothing else count as one, which uses the "
                f"first value",
                markup=False,
            )
        return tasks

    def _task(self, overrides: Sequence[str]) -> Task:
        options = self.loader.options(self.config, overrides)
        config = restored(options)
        folder = Path(config.outputs) / config.study / run_id(config)
        state = read_state(folder)
        typed = (as_typed(word, options) for word in overrides)
        return Task(
            str(folder.absolute()),
            (*self._sources, *typed),
            len(state.get("attempts", [])),
            state.get("updated", 0.0),
            options,
        )

    def _refuse_other_data(self, tasks: Iterable[Task]) -> None:
        """Raise a `UserError` if finished runs used other data, as a single run would."""
        seen = set()
        for task in tasks:
            state = task.state
            if not task.finished(state) or "data" not in state:
                continue
            what = to_json([task.config.get("data"), state["data"], state.get("code")])
            if what not in seen:
                seen.add(what)
                refuse_other_data(Run(restored(task.config)))

    def _decide(self, tasks: Collection[Task]) -> Plan:
        entries, states = self._entries(tasks), {task: task.state for task in tasks}
        submitted = {
            str(entry["job"]): entry.get("submitted")
            for task, entry in entries.items()
            if "job" in entry and not task.finished(states[task])
        }
        jobs = self._jobs(submitted)
        found = {task: job_of(task.run_id, entries[task], states[task], jobs) for task in tasks}
        self.jobs |= found
        return [(task, self._status(task, states[task], found[task])) for task in tasks]

    def _status(self, task: Task, state: Mapping[str, Any], job: Job | None) -> RunStatus:
        how = status_of(state, job, self.options["max_retries"])
        if how.status != "done" or task.finished(state):
            return how
        if job is not None and job.active:
            return RunStatus("queued", job.about)
        return RunStatus("missing", "rerun=true repeats it")

    def _config(self, task: Task) -> Config:
        return restored(task.config)

    def _entries(self, tasks: Collection[Task]) -> dict[Task, dict[str, Any]]:
        """Return what the manifest knows about each of `tasks`."""
        known = {
            study: read_manifest(study, strict=True) for study in {task.study for task in tasks}
        }
        return {task: known[task.study].get(task.run_id, {}) for task in tasks}

    def _jobs(self, submitted: Mapping[str, float | None]) -> dict[str, Job]:
        """Return the scheduler's jobs, if there is a scheduler (see `slurm.jobs`)."""
        return {}

    def _wanted(self, how: RunStatus) -> bool:
        return how.wanted or (how.status == "failed" and bool(self.options["retry_failed"]))

    def _act(self, wanted: list[Task]) -> None:
        raise NotImplementedError

    def _wait(self, tasks: list[Task]) -> None:
        """Wait for runs that other processes execute, if there are any."""

    def _batch(self, wanted: list[Task], of: list[Task], at_once: int, threads: int) -> Batch:
        """Return a batch of the runs `of`, some of `wanted`, that are executed together."""
        return Batch(of, wanted[:HOPELESS], at_once, threads, retries=self.options["max_retries"])

    def _show(self, plan: Plan) -> None:
        if self.options["dry_run"]:
            table = Table(box=None, pad_edge=False)
            for heading in ("run", "status", "reason", "will be"):
                table.add_column(heading)
            for task, how in plan:
                will = self.WILL_BE if self._wanted(how) else "skipped"
                table.add_row(task.run_id, how.status, how.why, will)
            self.console.print(table)
            self.console.print(expected(plan, sum(self._wanted(how) for _, how in plan)))
        counts = Counter(how.status for _, how in plan)
        said = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        self.console.print(f"{counted(len(plan))}: {said}", markup=False)

    def _tell(self, task: Task, number: int, count: int) -> None:
        state = task.state
        words = state.get("status", "never started")
        if state.get("result"):
            words += f", {percent(state, 'final_test_accuracy')}"
        self.console.print(f"[{number}/{count}] {task.run_id}: {words}", markup=False)

    def _sum_up(self, tasks: list[Task], wanted: list[Task]) -> None:
        open_ = [task for task in tasks if not task.finished(task.state)]
        done = len(tasks) - len(open_)
        self.console.print(f"{done} of {len(tasks)} runs have a result", markup=False)
        if not open_:
            return
        if why := hopeless(wanted):
            raise Failed(
                f"the first {HOPELESS} runs all failed, so no more were started; see "
                f"{open_[0].log}: {why}"
            )
        failed = [task for task in open_ if task.state.get("status") == "failed"]
        first = (failed or open_)[0]
        try:
            ((_, how),) = self._decide([first])
        except UserError:  # SLURM does not answer at the moment
            how = status_of(first.state, None, self.options["max_retries"])
        log = f"; see {first.log}" if os.path.exists(first.log) else ""
        again = "; the same command continues it" if how.wanted else ""
        raise Failed(
            f"{len(open_)} without a result, among them {first.run_id}: "
            f"{how.status}, {how.why}{again}{log}"
        )


def _differences(tasks: Iterable[Task]) -> list[str]:
    """Return the options without effect in which runs with the same identity differ."""
    first: dict[str, dict[str, Any]] = {}
    found: dict[str, None] = {}
    ignored: set[str] = set()
    for task in tasks:
        other = first.setdefault(task.folder, task.config)
        if other is task.config or other == task.config:
            continue
        one, two = flat(task.config), flat(other)
        found.update(dict.fromkeys(key for key in one if one[key] != two.get(key)))
        ignored.update(without_effect(restored(task.config)))
    return [key for key in found if key in ignored or key.partition(".")[0] in ignored]


def _unlike_first(tasks: Sequence[Task]) -> list[Task]:
    """Reorder `tasks` so that the first `HOPELESS` have little in common.

    If all of these fail, no single choice of the sweep can be the cause.
    """
    rest = list(tasks)
    chosen: list[Task] = []
    options = {
        task: {(name, str(value)) for name, value in flat(task.config).items()} for task in tasks
    }
    while rest and len(chosen) < HOPELESS:
        alike = [
            max((len(options[earlier] & options[task]) for earlier in chosen), default=0)
            for task in rest
        ]
        chosen.append(rest.pop(alike.index(min(alike))))
    return chosen + rest


def remember(entries: Iterable[tuple[Task, dict[str, Any]]]) -> None:
    """Record in each study's study.json which runs are requested, and what is known of each."""
    studies: dict[Path, dict[str, dict[str, Any]]] = {}
    for task, entry in entries:
        of_study = studies.setdefault(task.study, {})
        of_study[task.run_id] = {"overrides": list(task.overrides), **entry}
    for study, runs in studies.items():
        add_to_manifest(study, runs)


def _returned(overrides: Sequence[str], value: float) -> JobReturn:
    done = JobReturn()
    done.overrides = list(overrides)
    done.status = JobStatus.COMPLETED
    done.return_value = value
    return done


def _objective(state: dict[str, Any]) -> float:
    """Return what another sweeper may maximise.

    This is the mean accuracy of the last tenth of training on validation images, or on test images
    if there are none; it is 0 % without a result.
    """
    result = state.get("result", {})
    names = "mean_last_tenth_validation", "mean_last_tenth"
    return next((float(result[name]) for name in names if result.get(name) is not None), 0.0)


def expected(plan: Sequence[tuple[Task, RunStatus]], count: int) -> str:
    """Estimate how long the missing runs will take, based on the finished ones."""
    spent = [_spent(task.state) for task, how in plan if how.status == "done"]
    if not count:
        return "nothing to do"
    if not spent:
        return f"{counted(count)} to do; there is no time estimate until one run is finished"
    of_unit = {unit: [hours for entry, hours in spent if entry == unit] for unit, _ in spent}
    unit = max(of_unit, key=lambda one: len(of_unit[one]))
    hours = count * sum(of_unit[unit]) / len(of_unit[unit])
    return f"{counted(count)} to do, about {hours:.2g} {unit}-hours in total"


def _spent(state: Mapping[str, Any]) -> tuple[str, float]:
    """Return what a finished run took: the unit, GPU or core, and the hours of it."""
    on_gpu = last_attempt(state).get("device") == "cuda"
    seconds = sum(
        (attempt.get("seconds") or 0.0) * (1 if on_gpu else attempt.get("threads") or 1)
        for attempt in state.get("attempts", [])
    )
    return "GPU" if on_gpu else "core", seconds / 3600
