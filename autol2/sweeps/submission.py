"""The submission of a job array, and what the manifest records about it.

Before sbatch is called, each run's entry records the folder of the array's files. If the launcher
dies before it can record the job's number, the queue still shows that folder (see `reconciled`).
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from . import sbatch, slurm
from .job import JobBatch
from .task import Task

if TYPE_CHECKING:
    from submitit import SlurmExecutor

Entries = Iterator[tuple[Task, dict[str, Any]]]


class Submission:
    """A job array, or a single job.

    Args:
        folder: the folder that contains the files of all submissions.
        batches: the work of each job.
        options: the launcher's options (from `sbatch.without_rivals`).
        at_a_time: number of jobs that may run at the same time.
        before: the numbers of jobs that must end first, as in 12:13; empty for none.

    Attributes:
        number: SLURM's number of the job, once it is submitted.
    """

    def __init__(
        self,
        folder: Path,
        batches: Sequence[JobBatch],
        options: Mapping[str, Any],
        at_a_time: int,
        before: str,
    ) -> None:
        self.folder = folder / uuid.uuid4().hex[:12]
        self.batches = batches
        self.cluster = sbatch.cluster(options)
        depends = ",".join(filter(None, [options["dependency"], before and f"afterany:{before}"]))
        self.options = {
            **options,
            "array_parallelism": at_a_time,
            "dependency": depends or None,
        }
        self.number = ""

    def announced(self) -> Entries:
        """Yield what to record before submission: the folder of the files and each run's place."""
        for place, batch in enumerate(self.batches):
            where = {"folder": str(self.folder), "place": place, "of": len(self.batches)}
            for task in batch.tasks:
                yield task, {"submitting": {**where, "cluster": self.cluster}}

    def submit(self, in_vain: Mapping[Task, int]) -> Entries:
        """Submit the jobs, and return what to record in the manifest.

        Args:
            in_vain: for each run, the number of jobs in a row that were lost (see
                `lost_jobs.job_of`).

        Raises:
            UserError: SLURM rejects the jobs, or their files cannot be written.
        """
        when, log = time.time(), "out" if self.options["stderr_to_stdout"] else "err"
        with submitting(self.folder, self.options) as executor:
            names = [job.job_id for job in executor.submit_array(self.batches)]
        self.number = names[0].partition("_")[0]
        return self._entries(names, when, log, in_vain)

    def _entries(
        self, names: list[str], when: float, log: str, in_vain: Mapping[Task, int]
    ) -> Entries:
        for batch, name in zip(self.batches, names, strict=True):
            for task in batch.tasks:
                yield (
                    task,
                    {
                        "job": f"{name}@{self.cluster}" if self.cluster else name,
                        "log": str(self.folder / f"{name}_0_log.{log}"),
                        "submitted": when,
                        "tried": len(task.state.get("attempts", [])),
                        "in_vain": in_vain.get(task),
                        "submitting": None,
                    },
                )


def reconciled(known: Mapping[Task, Mapping[str, Any]]) -> Entries:
    """Yield what to record about runs whose launcher died while submitting them.

    A job with all of its files executes its run. A job without them would wait for them forever, so
    it is cancelled.

    Args:
        known: the runs and their entries in the manifest.

    Raises:
        UserError: SLURM does not answer; the message contains its own words.
    """
    queues: dict[str, list[slurm.Line]] = {}
    cancelled: dict[str, str] = {}
    for task, entry in known.items():
        if not (mark := entry.get("submitting")):
            continue
        folder, cluster = Path(mark["folder"]), mark["cluster"]
        if cluster not in queues:
            queues[cluster] = slurm.queue(cluster)
        number = next(
            (
                line.ids.partition("_")[0]
                for line in queues[cluster]
                if Path(line.script).parent == folder and line.state in slurm.ACTIVE
            ),
            "",
        )
        name = f"{number}_{mark['place']}" if mark["of"] > 1 else number
        if number and (folder / f"{name}_submitted.pkl").exists():
            log = {"log": str(folder / f"{name}_0_log.err"), "submitted": time.time()}
            job = f"{name}@{cluster}" if cluster else name
            tried = len(task.state.get("attempts", []))
            yield task, {**log, "job": job, "tried": tried, "submitting": None}
            continue
        if number:
            some = any(folder.glob(f"{number}_*_submitted.pkl"))
            cancelled[name if some else number] = cluster
        yield task, {"submitting": None}
    for job, cluster in cancelled.items():
        slurm.cancel(job, cluster)


@contextlib.contextmanager
def submitting(folder: Path, options: Mapping[str, Any]) -> Iterator[SlurmExecutor]:
    """Yield submitit's executor for jobs with these `options` and with files in `folder`.

    Raises:
        UserError: SLURM rejects what is submitted inside the block, or files cannot be written.
    """
    import submitit

    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=options["max_num_timeout"])
        if not options["use_srun"]:
            # otherwise, only the shell would be signalled
            executor.python = f"exec {executor.python}"
        executor.update_parameters(**sbatch.parameters(options))
        with _clean_environment(), contextlib.redirect_stderr(io.StringIO()):
            yield executor
    except ValueError as error:
        raise UserError(f"hydra.launcher: {str(error).splitlines()[0]}") from error
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


@contextlib.contextmanager
def _clean_environment() -> Iterator[None]:
    """Remove variables that would affect the jobs, such as those of the current job."""
    before = dict(os.environ)
    for name in list(slurm.variables_for_jobs(before)):
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


def _refusal(error: Exception) -> str:
    text = getattr(error, "stderr", None) or str(error)
    text = text.decode() if isinstance(text, bytes) else str(text)
    said = slurm.words("\n".join(line for line in text.splitlines() if "sbatch:" in line) or text)
    return (
        f"SLURM refuses the jobs: {said} (change it with hydra.launcher.partition=…, .account=…, "
        f".qos=…, .gres=… or .timeout_min=…)"
    )
