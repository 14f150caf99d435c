"""The work of a SLURM job: a batch of runs that is saved and requeued if SLURM ends the job."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, replace
from typing import Any

from . import slurm
from .batch import Batch
from .task import Task

BEGINS = "begins "
"""The prefix of the line that a job prints when it starts a run."""
WARNINGS = (signal.SIGUSR2, signal.SIGTERM)
"""The signals that SLURM sends before it ends a job: submitit's, before the time limit, and that of
preemption, of draining a node and of scancel."""


@dataclass
class JobBatch(Batch):
    """Runs to execute in a SLURM job; without `threads`, its cores are divided among them."""

    def __call__(self) -> None:
        """Execute the runs; if SLURM ends the job, save them and requeue it."""
        caught: list[int] = []
        requeue: Any = signal.getsignal(signal.SIGUSR2)
        one = replace(self, threads=self.threads or max(1, cores() // self.at_once))

        def note(number: int, frame: object) -> None:
            caught.append(number)
            one.stop()

        for number in WARNINGS:
            signal.signal(number, note)
        Batch.__call__(one)
        if not caught or all(one._over(task) for task in one.tasks):
            return
        if signal.SIGTERM in caught and not slurm.running(os.environ.get("SLURM_JOB_ID", "")):
            print("the job was cancelled, so it is not requeued")
            sys.exit(128 + signal.SIGTERM)
        requeue(signal.SIGUSR2, None)  # submitit's handler, which also calls `checkpoint`

    def checkpoint(self) -> Any:
        """Return the submission with which submitit continues after a requeue."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(replace(self))

    def begins(self, task: Task) -> None:
        """Print the start of a run, for finding out later why a job had no result."""
        print(f"{BEGINS}{task.run_id}", flush=True)


def cores() -> int:
    """Return the number of CPU cores that SLURM gave this job."""
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
