"""``hydra/launcher=submitit_local``: a sweep on this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from hydra.core.config_store import ConfigStore

from ..cli.progress import StudyProgress, counted
from ..config import THREADS
from ..errors import UserError, unwritable
from ..training.signals import caught
from ..training.train import require_installed
from ..training.visible_gpus import gpus
from .batch import Batch
from .launcher import Interrupted, Plan, StudyLauncher, remember
from .machine import cores
from .run_status import RETRIES, in_background, status_of
from .task import Task


@dataclass
class LocalConf:
    """Options of the launcher on this machine."""

    _target_: str = "hydra_plugins.autol2_launchers.SubmititLocal"
    n_jobs: int = 0
    """Number of parallel runs; 0 for `runs_per_job` per GPU, or as many as the cores allow."""
    cpus_per_task: int = 0
    """CPU threads of each run; 0 divides the cores among the runs, or leaves the number to PyTorch
    if they use GPUs."""
    runs_per_job: int = 1
    """Number of parallel runs on one GPU."""
    detach: bool = False
    """Return immediately while the runs continue in the background."""
    dry_run: bool = False
    """Show what would run, and start nothing."""
    retry_failed: bool = False
    """Repeat runs that ended with an error."""
    max_retries: int = RETRIES
    """How often to retry a killed run that has made no further progress."""


class LocalLauncher(StudyLauncher):
    """The launcher ``hydra/launcher=submitit_local``."""

    SCHEMA: ClassVar = LocalConf
    AT_LEAST: ClassVar = {"n_jobs": 0, "cpus_per_task": 0, "runs_per_job": 1, "max_retries": 0}
    AT_MOST: ClassVar = {"cpus_per_task": THREADS}

    def _decide(self, tasks: Collection[Task]) -> Plan:
        """Determine how each run stands; with `detach`, those of a detached sweep are queued."""
        plan = super()._decide(tasks)
        if not self.options["detach"]:
            return plan
        entries = self._entries(tasks)
        return [(task, in_background(how, entries[task])) for task, how in plan]

    def _act(self, wanted: list[Task]) -> None:
        for task in wanted:
            require_installed(self._config(task))
        self._do(wanted, [*self.under_way, *wanted])

    def _wait(self, tasks: list[Task]) -> None:
        """Wait for runs that another process executes, and continue what it leaves unfinished."""
        left = [task for task in tasks if status_of(task.state, None).under_way]
        if left:
            self._do([], left)

    def _do(self, wanted: list[Task], tasks: list[Task]) -> None:
        """Execute `wanted`, which are among `tasks`; other processes may be executing the rest."""
        gpus, threads = _devices(tasks), self.options["cpus_per_task"]
        room = len(gpus) * self.options["runs_per_job"] or max(
            1, cores() // max(threads, 1, *(task.config.get("threads", 0) for task in tasks))
        )
        at_once = min(self.options["n_jobs"] or room, len(tasks))
        if not (threads or gpus):
            threads = max(1, cores() // at_once)
        shared = [gpus[place % len(gpus)] for place in range(at_once)] if gpus else []
        batch = replace(self._batch(wanted, tasks, at_once, threads), gpus=shared)
        if self.options["detach"]:
            self._detach(batch)
            return
        others = sum(status_of(task.state, None).under_way for task in tasks)
        words = f", {others} under way in another process" if others else ""
        self.console.print(f"{len(wanted)} to do, {at_once} at a time{words}", markup=False)
        done = 0
        with _stopping(batch) as stopped, StudyProgress(len(tasks), self.console) as progress:

            def look(ended: list[Task], under_way: list[Task]) -> None:
                nonlocal done
                for task in ended:
                    done += 1
                    self._tell(task, done, len(tasks))
                progress.update(done, {task.run_id: task.state for task in under_way})

            batch.work(look)
        if stopped:
            words = "interrupted; every run is saved, and the same command continues them"
            raise Interrupted(words, stopped[0])

    def _detach(self, batch: Batch) -> None:
        import submitit

        folder = batch.tasks[0].study / ".launch" / "jobs"
        try:
            executor = submitit.LocalExecutor(folder=folder)
            executor.update_parameters(timeout_min=60 * 24 * 365, name="autol2")
            with _nowhere():
                job = executor.submit(Detached(batch))
        except OSError as error:
            raise unwritable(folder, error) from error
        process = {"host": socket.gethostname(), "pid": int(job.job_id), "since": time.time()}
        remember((task, {"process": process}) for task in batch.tasks)
        self.console.print(
            f"{counted(len(batch.tasks))} in the background, in process {job.job_id}; "
            f"see python -m autol2.status study={batch.tasks[0].study.name}",
            markup=False,
        )


@dataclass
class Detached:
    """A batch in a separate process, which signals stop like a sweep in a terminal."""

    batch: Batch

    def __call__(self) -> None:
        """Execute the batch; this replaces submitit's handlers, which would ignore SIGTERM."""
        with _stopping(self.batch):
            self.batch()


@contextlib.contextmanager
def _nowhere() -> Iterator[None]:
    """Start processes without input and output, so that nobody waits for their end."""
    kept = [os.dup(number) for number in range(3)]
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        for number in range(3):
            os.dup2(nowhere, number)
        yield
    finally:
        for number, before in enumerate(kept):
            os.dup2(before, number)
            os.close(before)
        os.close(nowhere)


@contextlib.contextmanager
def _stopping(batch: Batch) -> Iterator[list[int]]:
    """Let the signals that `caught` handles stop `batch`, and yield those that arrived."""
    seen: list[int] = []

    def stop(number: int, frame: object) -> None:
        seen.append(number)
        batch.stop()

    with caught(stop):
        yield seen


def _devices(tasks: Sequence[Task]) -> list[str]:
    """Return the GPUs to distribute among `tasks`; none if all of them use the CPU.

    A run that names its device, as in cuda:1, uses that one (see `Process`).

    Raises:
        UserError: a run asks for a GPU that does not exist.
    """
    asked = {str(task.config.get("device", "auto")) for task in tasks}
    if asked == {"cpu"}:
        return []
    there = gpus()
    named = sorted(device for device in asked if device.startswith("cuda:"))
    for device in named:
        if there and int(device.partition(":")[2]) >= len(there):
            raise UserError(
                f"device={device}: this machine has {counted(len(there), 'CUDA device')}"
            )
    if named and len(named) == len(asked):
        return [there[int(device.partition(":")[2])] for device in named] if there else []
    return there


ConfigStore.instance().store("submitit_local_schema", LocalConf, group="hydra/launcher")
