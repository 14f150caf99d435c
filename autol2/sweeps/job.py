"""What a SLURM job does: a batch of runs, saved and requeued when the job is taken away."""

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
"""What a job says of each of its runs, when it comes to it."""
WARNINGS = (signal.SIGUSR2, signal.SIGTERM)
"""SLURM's signals before it takes a job away: submitit's, ahead of the time limit, and that of
preemption, of a node that is drained and of scancel."""


@dataclass
class JobBatch(Batch):
    """Runs to be done in a SLURM job; without `threads`, its cores are shared out among them."""

    def __call__(self) -> None:
        """Do the runs; when SLURM takes the job away, save them and requeue it."""
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
        requeue(signal.SIGUSR2, None)  # submitit's: it asks for `checkpoint`, too

    def checkpoint(self) -> Any:
        """For submitit, when the job is about to be taken away: how to go on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(replace(self))

    def begins(self, task: Task) -> None:
        """Say so, for who looks why a job came to nothing."""
        print(f"{BEGINS}{task.run_id}", flush=True)


def cores() -> int:
    """The CPU cores that SLURM gave this job."""
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
