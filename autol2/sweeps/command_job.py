"""Run a command in a SLURM job, print its output and wait for it."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import lost_jobs, sbatch, slurm
from .submission import submitting

PAUSE = 2.0
"""Seconds between two checks of the job."""


def run(command: Sequence[str], options: Mapping[str, Any], folder: Path) -> int:
    """Submit `command`, print its output, wait for its end, and return its exit status.

    Ctrl-C cancels the job.

    Args:
        command: the program and its arguments.
        options: the launcher's options (from `sbatch.without_rivals`).
        folder: the folder for the job's files, unless the options name another.

    Raises:
        UserError: SLURM rejects the job, or the job ended before the command did. The message
            contains SLURM's own words.
    """
    folder = sbatch.folder_for(Path(options["submitit_folder"] or folder).expanduser().absolute())
    slurm.queue(cluster := sbatch.cluster(options))  # first make sure that SLURM answers
    with submitting(folder, options) as executor:
        log = folder / f"{time.time_ns()}.log"
        job = executor.submit(functools.partial(_printed_to, log, list(command)))
    name = f"{job.job_id}@{cluster}" if cluster else str(job.job_id)
    print(f"submitted as job {job.job_id}", flush=True)
    try:
        _follow(name, log)
    except KeyboardInterrupt:
        slurm.cancel(str(job.job_id), cluster)
        raise
    if not job.paths.result_pickle.exists():
        said = lost_jobs.last_words(job.paths.stderr) or "without a message"
        raise UserError(f"job {job.job_id} ended before the command did: {said}")
    status: int = job.result()
    return status


def _printed_to(log: Path, command: list[str]) -> int:
    """Run the command inside the job, with its output in `log`."""
    with log.open("wb") as file:
        return subprocess.call(command, stdout=file, stderr=subprocess.STDOUT)


def _follow(name: str, log: Path) -> None:
    """Print new text in `log`, and why the job is pending, until SLURM no longer lists the job."""
    told = {""}
    with contextlib.ExitStack() as stack:
        file = None
        while True:
            jobs = slurm.active({name})
            for job in jobs.values():
                if job.reason not in told:
                    print(job.about, flush=True)
                told.add(job.reason)
            if file is None and log.exists():
                file = stack.enter_context(log.open(encoding="utf-8", errors="replace"))
            if file is not None:
                print(file.read(), end="", flush=True)
            if not jobs:
                return
            time.sleep(PAUSE)
