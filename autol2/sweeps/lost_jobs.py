"""Detect lost jobs: those that ended before the run began that they were submitted for."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .job import BEGINS
from .run_status import TAKEN_AWAY, Job

WORDS = 2
"""Number of a job's last lines to show."""
BOILERPLATE = re.compile(r"srun: (error: .*(task|Exited)|Terminating)|slurmstepd: error: \*\*\*")
"""Messages that srun prints when any task ends."""


def job_of(
    run: str, known: Mapping[str, Any], state: Mapping[str, Any], jobs: Mapping[str, Job]
) -> Job | None:
    """Return the job that a run was last submitted in, if any, and whether the run began in it.

    Args:
        run: the run's name.
        known: the run's entry in the manifest.
        state: the contents of its run.json.
        jobs: the jobs that SLURM knows.
    """
    job = jobs.get(known.get("job", ""))
    if job is None or job.active or "log" not in known:
        return job
    log, tried = Path(known["log"]), len(state.get("attempts", []))
    if tried > known.get("tried", 0) or not _in_vain(run, job, log):
        return job
    words = _words_of(run, log) or last_words(log) or "without a message"
    return replace(job, in_vain=known.get("in_vain", 0) + 1, words=f"{words}; see {log}")


def _in_vain(run: str, job: Job, log: Path) -> bool:
    """Return whether `job` ended by itself when it reached the run, or before its first run."""
    if job.state in TAKEN_AWAY:
        return False
    output = log.with_suffix(".out")
    if not (os.path.exists(log) or os.path.exists(output)):
        return job.state == "FAILED"  # not even its files could be created
    if re.search(r"CANCELLED AT(?!.*TIME LIMIT)|PREEMPT|NODE FAIL", _read(log)):
        return False
    said = re.findall(rf"^{BEGINS}(\S+)$", _read(output), re.MULTILINE)
    return not said or run in said


def _words_of(run: str, log: Path) -> str:
    """Return what the job printed about the run, as when its end could not be recorded."""
    said = re.findall(rf"^{re.escape(run)}: (.*)$", _read(log.with_suffix(".out")), re.MULTILINE)
    return said[-1] if said else ""


def last_words(log: Path) -> str:
    """Return the last lines of a job's `log`; empty if there are none."""
    lines = [line.strip() for line in _read(log).splitlines() if line.strip()]
    own = [line for line in lines if not BOILERPLATE.match(line)]
    return "; ".join((own or lines)[-WORDS:])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
