"""SLURM in memory, where autol2 meets it: submitit's executor, and squeue, sacct and scontrol.

Nothing happens until a test says what: see `Scheduler.happens`.
"""

from __future__ import annotations

import functools
import itertools
import os
import pickle
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import pytest
import submitit

from autol2.cli.command import CONF
from autol2.config import Config, parse
from autol2.runs import surroundings
from autol2.runs.run import Run
from autol2.runs.state import FINISHED
from autol2.sweeps import slurm
from autol2.sweeps import slurm_launcher as launch_slurm
from autol2.sweeps.batch import Batch
from autol2.sweeps.job import BEGINS
from autol2.sweeps.run_status import status_of
from autol2.sweeps.task import Task

ACTIVE = ("PENDING", "RUNNING")


@dataclass
class FakeJob:
    """A job, or one task of an array."""

    name: str
    batch: Batch
    state: str = "PENDING"
    waiting: list[Task] = field(default_factory=list)
    under_way: Run | None = None
    begun: bool = False
    folder: Path = Path()
    """Where its files are."""
    reason: str = ""
    submitted: float = field(default_factory=time.time)

    def says(self, line: str, where: str = "out") -> None:
        """The job prints something."""
        with (self.folder / f"{self.name}_0_log.{where}").open("a") as log:
            log.write(f"{line}\n")


@dataclass
class Scheduler:
    """What there is of SLURM."""

    limit: int = 1001
    accounting: bool = True
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    arrays: list[list[FakeJob]] = field(default_factory=list)
    """Each submission's jobs."""
    refusals: list[Exception | None] = field(default_factory=list)
    """What sbatch says of the next submissions: None takes one."""
    broken: dict[str, Exception] = field(default_factory=dict)
    """Commands (squeue, …) that do not work, and how they fail."""
    says: dict[str, str] = field(default_factory=dict)
    """What commands print, instead of what they would."""
    checkpoints: dict[Path, int] = field(default_factory=dict)
    """The step from which a run would go on."""
    ids: Any = field(default_factory=lambda: itertools.count(1))
    parameters: dict[str, Any] = field(default_factory=dict)
    all_parameters: list[dict[str, Any]] = field(default_factory=list)
    """Of each submission."""
    environments: list[dict[str, str]] = field(default_factory=list)
    """What sbatch would have seen."""
    asked: list[list[str]] = field(default_factory=list)
    """Every command."""
    dies_after_sbatch: bool = False
    """Whether the launcher ends when SLURM has the jobs and it does not know yet."""

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stand in for SLURM."""
        a_run()  # composed before a command composes
        monkeypatch.setenv("SQUEUE_STATES", "R")  # a user's own, which must not matter
        errors = "CalledProcessError", "TimeoutExpired"
        fake = {name: getattr(subprocess, name) for name in errors}
        monkeypatch.setattr(slurm, "subprocess", SimpleNamespace(run=self._answer, **fake))
        monkeypatch.setattr(slurm, "available", lambda: True)
        monkeypatch.setattr(submitit, "SlurmExecutor", self._executor)
        monkeypatch.setattr(surroundings, "_git", lambda: None)

    # ------------------------------------------------------------ what autol2 does

    def _executor(self, folder: str | Path, max_num_timeout: int) -> Scheduler:
        self.folder = Path(folder)
        return self

    def update_parameters(self, **parameters: Any) -> None:
        """As submitit's executor."""
        self.parameters = parameters

    def submit_array(self, batches: Sequence[Batch]) -> list[SimpleNamespace]:
        """As submitit's executor: an array, or a plain job where there is only one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.all_parameters.append(self.parameters)
        self.environments.append(dict(os.environ))
        if self.refusals and (refusal := self.refusals.pop(0)):
            raise refusal
        assert 0 < len(batches) <= self.limit
        number = next(self.ids)
        names = [f"{number}_{task}" for task in range(len(batches))]
        names = names if len(batches) > 1 else [str(number)]
        batches = pickle.loads(pickle.dumps(batches))
        array = [
            FakeJob(name, batch, folder=self.folder)
            for name, batch in zip(names, batches, strict=True)
        ]
        if self.dies_after_sbatch:
            self.arrays.append(array)
            self.jobs |= {job.name: job for job in array}
            raise KeyboardInterrupt
        for job in array:
            (self.folder / f"{job.name}_submitted.pkl").touch()
        self.arrays.append(array)
        self.jobs |= {job.name: job for job in array}
        return [SimpleNamespace(job_id=name) for name in names]

    def _answer(self, command: list[str], **how: Any) -> SimpleNamespace:
        name = command[0]
        self.asked.append(command)
        assert not [word for word in how["env"] if word.startswith(("SQUEUE_", "SACCT_"))]
        if name in self.broken:
            raise self.broken[name]
        if name == "sacct" and not self.accounting:
            raise refused("Slurm accounting storage is disabled", command)
        if name in self.says:
            return SimpleNamespace(stdout=self.says[name])
        if name == "scontrol":
            return SimpleNamespace(stdout=f"MaxArraySize            = {self.limit}\nOther = 1\n")
        if name == "squeue":
            lines = [
                f"{job.name}|{job.state}|{job.reason}|{job.folder}/.submission_file.sh"
                for job in self.active
            ]
        elif name == "scancel":
            lines = []
            for job in self.active:
                if command[-1] in (job.name, job.name.partition("_")[0]):
                    self.happens(job, "cancelled")
        else:
            assert name == "sacct", command
            arrays = command[-1].partition("=")[2].split(",")
            asked = [job for job in self.jobs.values() if job.name.partition("_")[0] in arrays]
            lines = [f"{job.name}|{job.state}|{job.submitted:.0f}" for job in asked]
            for array in arrays:  # what never began has one line together
                tasks = [job for job in asked if not job.begun and job.name.startswith(f"{array}_")]
                if len({job.state for job in tasks}) == 1:
                    numbers = ",".join(job.name.partition("_")[2] for job in tasks)
                    own = [f"{job.name}|{job.state}|{job.submitted:.0f}" for job in tasks]
                    lines = [line for line in lines if line not in own]
                    lines.append(f"{array}_[{numbers}%256]|{tasks[0].state}|{time.time():.0f}")
        return SimpleNamespace(stdout="".join(f"{line}\n" for line in lines))

    # ------------------------------------------------------------ what the test says

    @property
    def active(self) -> list[FakeJob]:
        """The jobs that are pending or running."""
        return [job for job in self.jobs.values() if job.state in ACTIVE]

    def happens(self, job: FakeJob, what: str) -> None:
        """Let `what` happen to `job` (see `ENDS` and `FATES`), or to the run that it does."""
        if what == "starts":
            if job.folder.name:
                job.says("submitit INFO")
            job.state, job.begun, job.waiting = "RUNNING", True, list(job.batch.tasks)
        elif what == "begins":
            self._begin_next(job)
        elif what == "checkpoint":
            self.checkpoints[_under_way(job).folder] += 5
        elif what in ENDS:
            one, (status, why, facts) = _under_way(job), ENDS[what]
            one.end(status, why, **facts)
            how = status_of(one.state, None, job.batch.retries)
            if status == "interrupted" and how.status == "stopped":
                job.waiting.insert(0, self._task(job, one))
            self._begin_next(job)
        else:
            if what == "cancelled" and job.state == "RUNNING" and job.folder.name:
                # as slurmstepd does, which alone knows of it where there is no accounting
                job.says(f"slurmstepd: error: *** JOB {job.name} ON n1 CANCELLED AT now ***", "err")
            why, job.state = FATES[what]
            if job.under_way and why:
                self.happens(job, "checkpoint")
                job.under_way.end("interrupted", why)
            job.under_way = None

    def _task(self, job: FakeJob, one: Run) -> Task:
        return next(task for task in job.batch.tasks if Path(task.folder) == one.folder)

    def _begin_next(self, job: FakeJob) -> None:
        """As `Batch.work` does, one run at a time."""
        job.under_way = None
        while job.waiting:
            task = job.waiting.pop(0)
            if not job.batch._over(task):
                if job.folder.name:
                    job.says(f"{BEGINS}{task.run_id}")
                job.under_way = self.begin(task, job)
                return
        job.state = "COMPLETED"

    def begin(self, task: Task, job: FakeJob) -> Run:
        """The run's process begins, on a node."""
        one = Run(replace(a_run(), seed=int(task.overrides[-1].partition("=")[2])))
        one.folder, one.state = Path(task.folder), task.state
        assert one.state.get("status") not in FINISHED
        one.folder.mkdir(exist_ok=True)
        one.begin(from_step=self.checkpoints.setdefault(one.folder, 0))
        place = {"host": "n1", "slurm_node": "n1", "slurm_job_id": f"1{job.name}"}
        one.state["attempts"][-1] |= place
        one.save()
        return one


ENDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "completes": ("completed", "completed", {"result": {"final_test_accuracy": 50.0}}),
    "diverges": ("diverged", "diverged", {"diverged": {"step": 1, "epoch": 1, "lambda": 1.0}}),
    "raises": ("failed", "ValueError", {"error": "Traceback\nValueError: bad"}),
    "exits": ("failed", "exited with status 7", {"error": "the process exited with status 7"}),
    "is killed": ("interrupted", "killed by SIGKILL", {}),
}
"""How a run's process ends, as its run.json has it; the job then goes on to its next."""
FATES = {
    "node lost": ("", "PENDING"),
    "node gone for good": ("", "NODE_FAIL"),
    "out of memory": ("", "OUT_OF_MEMORY"),
    "killed at its limit": ("", "TIMEOUT"),
    "time limit": ("SIGUSR2", "PENDING"),
    "preempted": ("SIGTERM", "PENDING"),
    "cancelled": ("SIGTERM", "CANCELLED by 0"),
}
"""What befalls a job: the signal at which its run saves, if it gets one; the job's new state."""


@functools.cache
def a_run() -> Config:
    """Some run's configuration."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        composed = hydra.compose("config", ["data=digits"])
    return parse(composed)


def refused(words: str, command: Sequence[str] = ("sbatch",)) -> subprocess.CalledProcessError:
    """A command of SLURM that fails, with its words."""
    return subprocess.CalledProcessError(1, list(command), stderr=f"{command[0]}: error: {words}")


def _under_way(job: FakeJob) -> Run:
    assert job.under_way is not None, job
    return job.under_way


def let_wait(monkeypatch: pytest.MonkeyPatch, moments: Sequence[Any]) -> list[int]:
    """Call one of `moments` each time that a waiting launcher sleeps; how often it did."""
    slept: list[int] = []

    def sleep(seconds: float) -> None:
        slept.append(len(slept))
        moments[len(slept) - 1]()

    monkeypatch.setattr(
        launch_slurm, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
    )
    return slept
