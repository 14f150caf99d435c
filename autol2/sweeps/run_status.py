"""The status of a run: its run.json decides, and the scheduler is only a hint."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..runs.state import FINISHED, last_attempt
from ..storage.lock import PATIENCE, lives

HOPELESS = 3
"""If this many runs fail alike before any other ends, the sweep stops."""
TAKEN_AWAY = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED", "CANCELLED")
"""SLURM's states of jobs that ended through no fault of their runs."""
RETRIES = 3
"""How often a killed run is repeated if it has made no progress."""


@dataclass(frozen=True)
class Job:
    """The job that a run was last submitted in, according to the scheduler."""

    name: str
    """The job's name, as in 12_3."""
    active: bool
    """Whether the job is pending or running."""
    state: str
    """The state, such as PENDING or RUNNING; for an inactive job, how it ended, if the scheduler
    says."""
    reason: str = ""
    """SLURM's reason why the job is waiting; empty if it is not."""
    never: str = ""
    """What must be done before the job can start at all; empty if SLURM will start it by itself."""
    in_vain: int = 0
    """The number of jobs in a row, up to this one, that ended before the run began."""
    words: str = ""
    """The last output of the last of these jobs."""

    @property
    def about(self) -> str:
        """A description of the job's state."""
        if self.never:
            return f"job {self.name} can never start ({self.reason}): {self.never}"
        waits = f" ({self.reason})" if self.reason else ""
        return f"job {self.name} is {self.state.lower()}{waits}"


@dataclass(frozen=True)
class RunStatus:
    """The status of a run and the reason for it."""

    status: str
    """done, running, queued, failed, stopped (to be continued) or missing."""
    why: str

    @property
    def wanted(self) -> bool:
        """Whether the run should be submitted."""
        return self.status in ("stopped", "missing")

    @property
    def under_way(self) -> bool:
        """Whether the run is being executed or is about to be."""
        return self.status in ("running", "queued")


def status_of(state: Mapping[str, Any], job: Job | None, retries: int = RETRIES) -> RunStatus:
    """Determine the status of a run: its run.json decides, and the scheduler is only a hint.

    Args:
        state: the contents of its run.json; empty if there is none.
        job: the run's job; None if the run was not submitted or nothing is known.
        retries: how often a killed run is repeated if it has made no progress.
    """
    status = state.get("status")
    gone = job is not None and not job.active
    if status in FINISHED:
        return RunStatus("done", str(status))
    if status == "running" and alive(state) and not (gone and _in_a_job_elsewhere(state)):
        return RunStatus("running", "it gave a sign of life")
    if job is not None and job.active:
        return RunStatus("queued", job.about)
    if status == "failed":
        return RunStatus("failed", last_line(state.get("error", "")))
    if job is not None and job.state == "OUT_OF_MEMORY":
        return RunStatus("failed", f"out of memory, according to SLURM (job {job.name})")
    silent = status == "running"  # it never recorded an end
    taken_away = silent and job is not None and job.state in TAKEN_AWAY
    if (times := kills(state)) > retries and not taken_away:
        return RunStatus("failed", f"killed {times} times without making progress")
    if status == "interrupted":
        return RunStatus("stopped", f"interrupted: {last_attempt(state).get('why')}")
    if job is not None and job.in_vain > retries:
        return RunStatus(
            "failed", f"{job.in_vain} jobs in a row ended before the run began: {job.words}"
        )
    if job is not None and job.in_vain:
        return RunStatus("stopped", f"job {job.name} ended before the run began: {job.words}")
    if job is not None:
        ended = job.state.lower().replace("_", " ")
        return RunStatus("stopped", f"job {job.name} is gone" + f": {ended}" * bool(ended))
    if status == "running":
        return RunStatus("stopped", "no sign of life")
    return RunStatus("missing", "never started")


def in_background(how: RunStatus, entry: Mapping[str, Any]) -> RunStatus:
    """Update a run's status with what the manifest says about a detached sweep's process."""
    process = entry.get("process")
    if process is None or how.status not in ("missing", "stopped"):
        return how
    if process["host"] != socket.gethostname() or not lives(process["pid"], process["since"]):
        return how
    return RunStatus("queued", f"in the background, in process {process['pid']}")


def _in_a_job_elsewhere(state: Mapping[str, Any]) -> bool:
    last = last_attempt(state)
    return last.get("host") != socket.gethostname() and last.get("slurm_job_id") is not None


def kills(state: Mapping[str, Any]) -> int:
    """Return how often in a row the run was killed since the last step that it resumed from.

    An attempt that fell silent before another one in the same job does not count: SLURM requeued
    that job, which it does for a lost node but not for a lost process.
    """
    attempts = state.get("attempts") or []
    count, following = 0, None
    for attempt in reversed(attempts):
        without_a_word = "ended" not in attempt or str(attempt.get("why")).startswith("killed")
        if not without_a_word or attempt.get("from_step") != attempts[-1].get("from_step"):
            break
        job, silent = attempt.get("slurm_job_id"), attempt.get("why") == "killed"
        if not (silent and job is not None and job == following):
            count += 1
        following = job
    return count


def alive(state: Mapping[str, Any]) -> bool:
    """Return whether a running run is alive, by its process if it is here, else its heartbeat."""
    last, updated = last_attempt(state), float(state.get("updated", 0.0))
    if last.get("host") == socket.gethostname() and last.get("pid") is not None:
        return lives(int(last["pid"]), updated)
    return time.time() - updated < PATIENCE


def last_line(text: str) -> str:
    """Return the last line of a traceback, which is the error itself."""
    return text.strip().splitlines()[-1] if text.strip() else ""


def common_error(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the error with which all of `runs` (run.jsons) failed; empty if there is none."""
    errors = {last_line(state.get("error", "")) for state in runs}
    alike = len(errors) == 1 and all(state.get("status") == "failed" for state in runs)
    return errors.pop() if alike else ""
