"""Hydra launchers that make a sweep a desired state: what is missing is done, and nothing twice.

``hydra/launcher=submitit_local`` (the default) runs a sweep on this machine, ``submitit_slurm`` on
a SLURM cluster; the field names are those of hydra-submitit-launcher. First it is decided how each
run stands (`autol2.study.standing`), then only the missing ones are submitted. The same command
again goes on where the last one, or the cluster, left off.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from rich.console import Console
from rich.table import Table

from . import slurm
from .batch import Batch, Task
from .config import UserError, parse
from .files import to_json, write_atomically
from .progress import duration
from .run import FINISHED, read_state, run_id
from .study import Standing, standing


@dataclass
class LocalConf:
    """``hydra/launcher=submitit_local``: the sweep on this machine."""

    _target_: str = "hydra_plugins.autol2_launchers.SubmititLocal"
    n_jobs: int = 0
    """Runs at a time; 0 for one a GPU, or one a CPU core."""
    detach: bool = False
    """Return at once; the runs go on."""
    dry_run: bool = False
    """Show what would be done, and do nothing."""
    retry_failed: bool = False
    """Do runs over that ended with an error."""


@dataclass
class SlurmConf:
    """``hydra/launcher=submitit_slurm``: the sweep as SLURM job arrays."""

    _target_: str = "hydra_plugins.autol2_launchers.SubmititSlurm"
    timeout_min: int = 240
    """Time limit of a job. It is no limit for a run: a job saves and requeues itself before."""
    cpus_per_task: int | None = 4
    gpus_per_node: int | None = None
    gpus_per_task: int | None = None
    cpus_per_gpu: int | None = None
    tasks_per_node: int = 1
    nodes: int = 1
    mem_gb: int | None = 8
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    name: str = "autol2"
    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    comment: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    """GPUs where the cluster counts them so, as in gpu:1."""
    signal_delay_s: int = 120
    """Seconds before the time limit at which a job is told to save."""
    max_num_timeout: int = 1000
    """How often a job may requeue itself at its time limit."""
    array_parallelism: int = 256
    """Array tasks that run at the same time."""
    setup: list[str] = field(default_factory=list)
    """Shell lines before the job, as in module load …"""
    srun_args: list[str] = field(default_factory=list)
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    """Any other option of sbatch."""
    runs_per_job: int = 1
    """Runs of one job, one after the other."""
    side_by_side: int = 1
    """So many of a job's runs at the same time, on the same GPU."""
    detach: bool = False
    """Return when the runs are submitted."""
    dry_run: bool = False
    """Show what would be done, and do nothing."""
    retry_failed: bool = False
    """Do runs over that ended with an error."""


class Failed(UserError):
    """Some runs of a sweep did not come to a result."""

    status = 1


class Interrupted(UserError):
    """The user stopped the sweep."""

    status = 128 + signal.SIGINT


class StudyLauncher(Launcher):
    """What both launchers share: compose, decide, remember, and show."""

    def __init__(self, **knobs: Any) -> None:
        self.knobs = knobs
        self.console = Console(highlight=False, soft_wrap=True)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands over."""
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Bring the sweep's runs about; one return a job, with what a search maximises."""
        if self.knobs["detach"] and not self.config.hydra.sweeper._target_.endswith("BasicSweeper"):
            raise UserError("a search waits for what its runs come to: hydra.launcher.detach=false")
        tasks = [self._task(overrides) for overrides in job_overrides]
        unique = {task.folder: task for task in tasks}
        plan = self._decide(list(unique.values()))
        self._show(plan)
        wanted = [task for task, how in plan if self._wanted(how)]
        if self.knobs["dry_run"]:
            return [_returned(overrides, 0.0) for overrides in job_overrides]
        if wanted:
            self._remember(plan)
            self._act(wanted)
        if not self.knobs["detach"]:
            self._sum_up(list(unique.values()))
        return [
            _returned(overrides, _objective(read_state(Path(task.folder))))
            for overrides, task in zip(job_overrides, tasks, strict=True)
        ]

    def _task(self, overrides: Sequence[str]) -> Task:
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(composed):
            del composed["hydra"]
        config = parse(composed)
        folder = Path(config.outputs) / config.study / run_id(config)
        # A job composes by itself, so what makes it so must be said: an experiment's settings are
        # in the overrides already, since Hydra merges the two.
        return Task(str(folder.absolute()), tuple(overrides))

    def _decide(self, tasks: list[Task]) -> list[tuple[Task, Standing]]:
        queue = self._queue()
        jobs = {study: _jobs(study) for study in {Path(task.folder).parent for task in tasks}}
        return [
            (
                task,
                standing(
                    read_state(Path(task.folder)),
                    jobs[Path(task.folder).parent].get(task.run_id),
                    queue,
                ),
            )
            for task in tasks
        ]

    def _wanted(self, how: Standing) -> bool:
        return how.wanted or (how.status == "failed" and bool(self.knobs["retry_failed"]))

    def _queue(self) -> dict[str, str] | None:
        return None

    def _act(self, wanted: list[Task]) -> None:
        raise NotImplementedError

    def _show(self, plan: list[tuple[Task, Standing]]) -> None:
        counts: dict[str, int] = {}
        for _, how in plan:
            counts[how.status] = counts.get(how.status, 0) + 1
        if self.knobs["dry_run"]:
            table = Table(box=None, pad_edge=False)
            for heading in ("run", "stands", "why", "will be"):
                table.add_column(heading)
            for task, how in plan:
                will = "submitted" if self._wanted(how) else "left"
                table.add_row(task.run_id, how.status, how.why, will)
            self.console.print(table)
            self.console.print(_expected(plan, sum(self._wanted(how) for _, how in plan)))
        said = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        self.console.print(f"{len(plan)} runs: {said}", markup=False)

    def _remember(self, plan: list[tuple[Task, Standing]]) -> None:
        """Note in each study's study.json what was asked for."""
        for study in {Path(task.folder).parent for task, _ in plan}:
            asked = {
                task.run_id: {"overrides": list(task.overrides)}
                for task, _ in plan
                if Path(task.folder).parent == study
            }
            _update(study, asked)

    def _sum_up(self, tasks: list[Task]) -> None:
        states = {task: read_state(Path(task.folder)) for task in tasks}
        open_ = [task for task in tasks if states[task].get("status") not in FINISHED]
        done = len(tasks) - len(open_)
        self.console.print(f"{done} of {len(tasks)} runs have come to a result", markup=False)
        if not open_:
            return
        first = open_[0]
        log = Path(first.folder).parent / ".launch" / "logs" / f"{first.run_id}.log"
        raise Failed(
            f"{len(open_)} runs have not, the first {first.run_id} "
            f"({states[first].get('status', 'never begun')}): see {log}"
        )


class LocalLauncher(StudyLauncher):
    """``hydra/launcher=submitit_local``."""

    def _act(self, wanted: list[Task]) -> None:
        gpus = _gpus()
        at_once = self.knobs["n_jobs"] or len(gpus) or _cores()
        at_once = min(at_once, len(wanted))
        threads = 0 if gpus else max(1, _cores() // at_once)
        shared = [gpus[place % len(gpus)] for place in range(at_once)] if gpus else []
        batch = Batch(wanted, at_once, threads, shared)
        if self.knobs["detach"]:
            self._detach(batch)
            return
        self.console.print(f"{len(wanted)} to do, {at_once} at a time", markup=False)
        with _stopping(batch) as stopped, self.console.status("") as status:

            def look(statuses: dict[str, int]) -> None:
                for task in wanted:
                    if task.run_id in statuses and task.run_id not in told:
                        told.add(task.run_id)
                        self._tell(task, len(told), len(wanted))
                status.update(_running(wanted))

            told: set[str] = set()
            batch.work(look)
        if stopped:
            raise Interrupted("interrupted; every run is saved, and the same command goes on")

    def _detach(self, batch: Batch) -> None:
        import submitit

        study = Path(batch.tasks[0].folder).parent
        executor = submitit.LocalExecutor(folder=study / ".launch" / "jobs")
        executor.update_parameters(timeout_min=60 * 24 * 365, name="autol2")
        job = executor.submit(batch)
        self.console.print(f"{len(batch.tasks)} runs go on as process {job.job_id}", markup=False)

    def _tell(self, task: Task, number: int, count: int) -> None:
        state = read_state(Path(task.folder))
        words = state.get("status", "failed before it began")
        if "result" in state:
            words += f", {state['result']['final_test_accuracy']:.2f} %"
        self.console.print(f"[{number}/{count}] {task.run_id}: {words}", markup=False)


class SlurmLauncher(StudyLauncher):
    """``hydra/launcher=submitit_slurm``."""

    def _queue(self) -> dict[str, str]:
        if not slurm.available():
            raise UserError(
                "sbatch is not on this machine: log in to a SLURM cluster, or sweep here with "
                "hydra/launcher=submitit_local"
            )
        return slurm.queue()

    def _act(self, wanted: list[Task]) -> None:
        import submitit

        knobs = self.knobs
        threads = knobs["cpus_per_task"] or 0
        size = knobs["runs_per_job"]
        side_by_side = min(knobs["side_by_side"], size)
        batches = [
            Batch(wanted[first : first + size], side_by_side, threads // side_by_side)
            for first in range(0, len(wanted), size)
        ]
        study = Path(wanted[0].folder).parent
        executor = submitit.SlurmExecutor(
            folder=study / ".launch" / "jobs", max_num_timeout=knobs["max_num_timeout"]
        )
        try:
            executor.update_parameters(**self._parameters())
        except ValueError as error:
            raise UserError(f"hydra.launcher: {str(error).splitlines()[0]}") from error
        limit = slurm.array_limit()
        for first in range(0, len(batches), limit):
            part = batches[first : first + limit]
            try:
                with contextlib.redirect_stderr(io.StringIO()):  # the error has it as well
                    jobs = executor.submit_array(part)
            except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
                raise UserError(_refusal(error)) from error
            submitted = {
                task.run_id: {"overrides": list(task.overrides), "job": job.job_id}
                for batch, job in zip(part, jobs, strict=True)
                for task in batch.tasks
            }
            _update(study, submitted)
            self.console.print(
                f"submitted {len(submitted)} runs as job {jobs[0].job_id.split('_')[0]}",
                markup=False,
            )
        if not knobs["detach"]:
            self._wait(wanted)

    def _parameters(self) -> dict[str, Any]:
        named = {
            "timeout_min": "time",
            "tasks_per_node": "ntasks_per_node",
            "name": "job_name",
        }
        own = ("runs_per_job", "side_by_side", "detach", "dry_run", "retry_failed")
        parameters = {
            named.get(knob, knob): value
            for knob, value in self.knobs.items()
            if value not in (None, []) and knob not in (*own, "max_num_timeout", "mem_gb")
        }
        if self.knobs["mem_gb"] is not None:
            parameters["mem"] = f"{self.knobs['mem_gb']}GB"
        parameters["additional_parameters"] = {
            "requeue": True,
            **self.knobs["additional_parameters"],
        }
        return parameters

    def _wait(self, wanted: list[Task]) -> None:
        """Wait until SLURM has none of the runs any more; Ctrl-C only stops the waiting."""
        study = Path(wanted[0].folder).parent
        jobs = _jobs(study)
        told: set[str] = set()
        try:
            with self.console.status("") as status:
                while True:
                    queue = slurm.queue()
                    for task in wanted:
                        state = read_state(Path(task.folder))
                        if state.get("status") in FINISHED and task.run_id not in told:
                            told.add(task.run_id)
                            self.console.print(
                                f"[{len(told)}/{len(wanted)}] {task.run_id}: {state['status']}",
                                markup=False,
                            )
                    if not any(jobs.get(task.run_id) in queue for task in wanted):
                        return
                    status.update(_running(wanted))
                    time.sleep(2)
        except KeyboardInterrupt:
            raise Interrupted(
                "no longer waiting; the jobs go on. The same command waits again, scancel ends them"
            ) from None


@contextlib.contextmanager
def _stopping(batch: Batch) -> Iterator[list[int]]:
    """Let Ctrl-C and SIGTERM stop `batch`; the signals that did."""
    seen: list[int] = []

    def stop(number: int, frame: object) -> None:
        seen.append(number)
        batch.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _returned(overrides: Sequence[str], value: float) -> JobReturn:
    done = JobReturn()
    done.overrides = list(overrides)
    done.status = JobStatus.COMPLETED
    done.return_value = value
    return done


def _objective(state: dict[str, Any]) -> float:
    """What a search (hydra/sweeper=optuna) maximises: test accuracy, 0 % where there is none."""
    return float(state.get("result", {}).get("mean_last_10_epochs", 0.0))


def _refusal(error: Exception) -> str:
    text = getattr(error, "stderr", None) or str(error)
    text = text.decode() if isinstance(text, bytes) else str(text)
    said = slurm.words("\n".join(line for line in text.splitlines() if "sbatch:" in line) or text)
    return (
        f"SLURM refuses the jobs: {said} (change it with hydra.launcher.partition=…, .account=…, "
        f".qos=…, .gres=… or .timeout_min=…)"
    )


def _running(tasks: Sequence[Task]) -> str:
    """A line about the runs that are under way."""
    words = []
    for task in tasks:
        state = read_state(Path(task.folder))
        progress = state.get("progress")
        if state.get("status") == "running" and progress:
            left = progress.get("seconds_left")
            left = float(left) if left is not None else None
            words.append(
                f"{task.run_id} epoch {progress['epoch']}/{progress['epochs']}, "
                f"{duration(left)} left"
            )
    return "; ".join(words[:4]) or "running"


def _expected(plan: Sequence[tuple[Task, Standing]], count: int) -> str:
    """What the missing runs will take, judged by those that are finished."""
    seconds = [
        sum(one.get("seconds", 0.0) for one in state["attempts"])
        for task, how in plan
        if how.status == "done"
        for state in [read_state(Path(task.folder))]
    ]
    if not count:
        return "nothing to do"
    if not seconds:
        return f"{count} runs to do; how long they take is not known before one is finished"
    hours = count * sum(seconds) / len(seconds) / 3600
    return f"{count} runs to do, about {hours:.2g} hours of a device in all"


def _jobs(study: Path) -> dict[str, str]:
    """The job that each run of a study was last submitted in."""
    return {
        run: entry["job"]
        for run, entry in _read_study(study).items()
        if entry.get("job") is not None
    }


def _read_study(study: Path) -> dict[str, dict[str, Any]]:
    try:
        runs = json.loads((study / "study.json").read_text(encoding="utf-8"))["runs"]
    except (OSError, ValueError, KeyError):
        return {}
    assert isinstance(runs, dict)
    return runs


def _update(study: Path, entries: dict[str, dict[str, Any]]) -> None:
    study.mkdir(parents=True, exist_ok=True)
    with FileLock(study / ".study.lock"):
        runs = _read_study(study)
        for run, entry in entries.items():
            runs[run] = {**runs.get(run, {}), **entry}
        write_atomically(study / "study.json", to_json({"runs": runs}).encode())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    """This machine's NVIDIA GPUs, or those that CUDA_VISIBLE_DEVICES leaves."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()


for _name, _conf in (("submitit_local", LocalConf), ("submitit_slurm", SlurmConf)):
    ConfigStore.instance().store(f"{_name}_schema", _conf, group="hydra/launcher")
