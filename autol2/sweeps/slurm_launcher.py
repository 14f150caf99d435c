"""``hydra/launcher=submitit_slurm``: a sweep as SLURM job arrays."""

from __future__ import annotations

import contextlib
import io
import subprocess
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from filelock import FileLock
from hydra.core.config_store import ConfigStore

from ..cli.progress import StudyProgress, counted
from ..errors import UserError
from ..runs.run import FINISHED
from . import slurm
from .batch import Task
from .launcher import Interrupted, StudyLauncher, remember
from .study import RETRIES, Job


@dataclass
class SlurmConf:
    """How a sweep's jobs are asked for."""

    _target_: str = "hydra_plugins.autol2_launchers.SubmititSlurm"
    submitit_folder: str | None = None
    """For job scripts and what jobs print; the study's .launch/jobs if none is named."""
    timeout_min: int = 240
    """Time limit of a job. It is no limit for a run: a job saves and requeues itself before."""
    cpus_per_task: int | None = 4
    """CPU cores of a job, shared out among its runs."""
    gpus_per_node: int | None = None
    """GPUs of a job; null where the cluster wants `gres` or one of the next two instead."""
    gpus_per_task: int | None = None
    """sbatch's --gpus-per-task."""
    cpus_per_gpu: int | None = None
    """sbatch's --cpus-per-gpu."""
    tasks_per_node: int = 1
    """sbatch's --ntasks-per-node."""
    nodes: int = 1
    """sbatch's --nodes."""
    mem_gb: int | None = 8
    """GB of memory, sbatch's --mem."""
    mem_per_gpu: str | None = None
    """sbatch's --mem-per-gpu."""
    mem_per_cpu: str | None = None
    """sbatch's --mem-per-cpu."""
    name: str = "autol2"
    """What the queue calls the jobs: --job-name."""
    partition: str | None = None
    """sbatch's --partition."""
    qos: str | None = None
    """sbatch's --qos."""
    account: str | None = None
    """sbatch's --account."""
    comment: str | None = None
    """sbatch's --comment."""
    constraint: str | None = None
    """sbatch's --constraint."""
    exclude: str | None = None
    """sbatch's --exclude."""
    gres: str | None = None
    """GPUs where the cluster counts them so, as in gpu:1."""
    signal_delay_s: int = 120
    """Seconds before the time limit at which a job is told to save."""
    max_num_timeout: int = 1000
    """How often a job may requeue itself at its time limit."""
    array_parallelism: int = 256
    """Array tasks that run at the same time."""
    stderr_to_stdout: bool = False
    """One file for all that a job prints."""
    setup: list[str] = field(default_factory=list)
    """Shell lines before the job, as in module load …"""
    srun_args: list[str] = field(default_factory=list)
    """Options of srun, which starts the runs within a job."""
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    """Any other option of sbatch, as in {reservation: NAME}."""
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
    max_retries: int = RETRIES
    """How often a run that was killed is done again without having got further; what a node lost is
    requeued by SLURM, without a limit."""


class SlurmLauncher(StudyLauncher):
    """``hydra/launcher=submitit_slurm``."""

    SCHEMA: ClassVar = SlurmConf
    AT_LEAST: ClassVar = {
        **{"timeout_min": 1, "nodes": 1, "tasks_per_node": 1, "signal_delay_s": 0},
        **{"array_parallelism": 1, "max_num_timeout": 0},
        **{"runs_per_job": 1, "side_by_side": 1, "max_retries": 0},
    }
    WILL_BE: ClassVar = "submitted"

    def _jobs(self, names: Collection[str]) -> dict[str, Job]:
        if not slurm.available():
            raise UserError(
                "sbatch is not on this machine: log in to a SLURM cluster, or sweep here with "
                "hydra/launcher=submitit_local"
            )
        return slurm.jobs(names)

    def _act(self, wanted: list[Task]) -> None:
        with contextlib.ExitStack() as stack:
            for study in sorted({task.study for task in wanted}):
                stack.enter_context(FileLock(study / ".submit.lock"))
            # The same command, given elsewhere at the same time, may have been quicker.
            still = [task for task, how in self._decide(wanted) if self._wanted(how)]
            if still:
                self._submit(still)

    def _submit(self, wanted: list[Task]) -> None:
        import submitit

        options = self.options
        threads = options["cpus_per_task"] or 0
        size = options["runs_per_job"]
        side_by_side = min(options["side_by_side"], size)
        batches = [
            self._batch(wanted, wanted[first : first + size], side_by_side, threads // side_by_side)
            for first in range(0, len(wanted), size)
        ]
        folder = options["submitit_folder"] or wanted[0].study / ".launch" / "jobs"
        executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=options["max_num_timeout"])
        try:
            executor.update_parameters(**self._parameters())
        except ValueError as error:
            raise UserError(f"hydra.launcher: {str(error).splitlines()[0]}") from error
        limit = slurm.array_limit()
        for first in range(0, len(batches), limit):
            part = batches[first : first + limit]
            try:
                with contextlib.redirect_stderr(io.StringIO()):  # the error has it as well
                    submitted = executor.submit_array(part)
            except (
                submitit.core.utils.FailedJobError,
                submitit.core.utils.FailedSubmissionError,
                subprocess.CalledProcessError,
            ) as error:
                raise UserError(_refusal(error)) from error
            except OSError as error:
                raise UserError(
                    f"{folder} cannot be written ({error.strerror or error}): "
                    f"choose another folder with hydra.launcher.submitit_folder=FOLDER"
                ) from error
            names = [job.job_id for job in submitted]
            remember(
                (task, {"job": name})
                for batch, name in zip(part, names, strict=True)
                for task in batch.tasks
            )
            self.console.print(
                f"submitted {counted(sum(len(batch.tasks) for batch in part))} as job "
                f"{names[0].partition('_')[0]}",
                markup=False,
            )

    def _parameters(self) -> dict[str, Any]:
        named = {
            "timeout_min": "time",
            "tasks_per_node": "ntasks_per_node",
            "name": "job_name",
        }
        own = (
            *("runs_per_job", "side_by_side", "detach", "dry_run", "retry_failed"),
            *("max_retries", "max_num_timeout", "mem_gb", "submitit_folder"),
        )
        parameters = {
            named.get(option, option): value
            for option, value in self.options.items()
            if value not in (None, []) and option not in own
        }
        if self.options["mem_gb"] is not None:
            parameters["mem"] = f"{self.options['mem_gb']}GB"
        parameters["additional_parameters"] = {
            "requeue": True,
            **self.options["additional_parameters"],
        }
        return parameters

    def _wait(self, tasks: list[Task]) -> None:
        """Wait until SLURM has none of the jobs of `tasks` any more.

        Ctrl-C only stops the waiting, and a SLURM that does not answer for a while does not.
        """
        jobs = {name for name in self._job_names(tasks).values() if name}
        open_ = {task: task.state for task in tasks}
        count, silent = len(open_), False
        try:
            with StudyProgress(count, self.console) as progress:
                while jobs:
                    queue = None
                    try:
                        queue, silent = slurm.queue(), False
                    except UserError as error:
                        if not silent:
                            self.console.print(f"{error}; still waiting", markup=False)
                        silent = True
                    states = {task: task.state for task in open_}
                    for task, state in states.items():
                        if _over(task, open_[task], state):
                            del open_[task]
                            self._tell(task, count - len(open_), count)
                    if not open_ or (queue is not None and jobs.isdisjoint(queue)):
                        return
                    under_way = {task.run_id: states[task] for task in open_}
                    progress.update(count - len(open_), under_way)
                    time.sleep(2)
        except KeyboardInterrupt:
            raise Interrupted(
                "no longer waiting; the jobs go on. The same command waits again, scancel ends them"
            ) from None


def _over(task: Task, before: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    """Whether the run came to its end, since it was planned if that was an error."""
    if state.get("status") != "failed":
        return state.get("status") in FINISHED
    since = len(state.get("attempts", [])) > task.attempts
    return since or state.get("updated") != before.get("updated")


def _refusal(error: Exception) -> str:
    text = getattr(error, "stderr", None) or str(error)
    text = text.decode() if isinstance(text, bytes) else str(text)
    said = slurm.words("\n".join(line for line in text.splitlines() if "sbatch:" in line) or text)
    return (
        f"SLURM refuses the jobs: {said} (change it with hydra.launcher.partition=…, .account=…, "
        f".qos=…, .gres=… or .timeout_min=…)"
    )


ConfigStore.instance().store("submitit_slurm_schema", SlurmConf, group="hydra/launcher")
