"""How a run stands: its run.json decides, the scheduler is a hint."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..runs.state import FINISHED
from ..storage.lock import PATIENCE, lives

HOPELESS = 3
"""So many runs that fail alike before any other ends stop a sweep."""
TAKEN_AWAY = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED", "CANCELLED")
"""How a job ends, in SLURM's words, through no fault of its runs."""
RETRIES = 3
"""How often a run that was killed is done again without having got further."""


@dataclass(frozen=True)
class Job:
    """What the scheduler says of the job that a run was last submitted in."""

    name: str
    """As in 12_3."""
    active: bool
    """Whether it is pending or running."""
    state: str
    """PENDING, RUNNING, …; how it ended where it is not active, as far as the scheduler tells."""
    reason: str = ""
    """Why it waits, in SLURM's word; empty where it does not."""
    never: str = ""
    """What must be done before it can start at all; empty where SLURM starts it in time."""
    in_vain: int = 0
    """So many jobs in a row, the last being this one, that ended before the run began."""
    words: str = ""
    """What the last of these said last."""

    @property
    def about(self) -> str:
        """How it stands, in words."""
        if self.never:
            return f"job {self.name} can never start ({self.reason}): {self.never}"
        waits = f" ({self.reason})" if self.reason else ""
        return f"job {self.name} is {self.state.lower()}{waits}"


@dataclass(frozen=True)
class RunStatus:
    """How a run stands, and why one thinks so."""

    status: str
    """done, running, queued, failed, stopped (to be gone on with) or missing."""
    why: str

    @property
    def wanted(self) -> bool:
        """Whether it is to be submitted."""
        return self.status in ("stopped", "missing")

    @property
    def under_way(self) -> bool:
        """Whether it is being done, or is going to be."""
        return self.status in ("running", "queued")


def status_of(state: Mapping[str, Any], job: Job | None, retries: int = RETRIES) -> RunStatus:
    """How a run stands: its run.json decides, the scheduler is a hint.

    Args:
        state: its run.json, empty where there is none.
        job: what the scheduler says; None where the run was not submitted, or nothing is known.
        retries: how often a run is done again that was killed without having got further.
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
    silent = status == "running"  # to the last
    taken_away = silent and job is not None and job.state in TAKEN_AWAY
    if (times := kills(state)) > retries and not taken_away:
        return RunStatus("failed", f"killed {times} times without making progress")
    if status == "interrupted":
        return RunStatus("stopped", f"interrupted: {_last(state).get('why')}")
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
    """How a run stands, given what the manifest says of a detached sweep's process."""
    process = entry.get("process")
    if process is None or how.status not in ("missing", "stopped"):
        return how
    if process["host"] != socket.gethostname() or not lives(process["pid"], process["since"]):
        return how
    return RunStatus("queued", f"in the background, in process {process['pid']}")


def _in_a_job_elsewhere(state: Mapping[str, Any]) -> bool:
    last = _last(state)
    return last.get("host") != socket.gethostname() and last.get("slurm_job_id") is not None


def _last(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The last attempt; empty in a run.json without any, which nothing here writes."""
    attempts: Sequence[Mapping[str, Any]] = state.get("attempts") or [{}]
    return attempts[-1]


def kills(state: Mapping[str, Any]) -> int:
    """How often in a row the run was killed, from the last step that it resumed from.

    An attempt that fell silent before another in the very same job does not count: SLURM requeued
    that job, which it does for a node that is lost and not for a process.
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
    """Whether a run that says it is running still does: by its process here, else its heartbeat."""
    last, updated = _last(state), float(state.get("updated", 0.0))
    if last.get("host") == socket.gethostname() and last.get("pid") is not None:
        return lives(int(last["pid"]), updated)
    return time.time() - updated < PATIENCE


def last_line(text: str) -> str:
    """The last line of a traceback: the error itself."""
    return text.strip().splitlines()[-1] if text.strip() else ""


def common_error(runs: Sequence[Mapping[str, Any]]) -> str:
    """The error that each of `runs`, run.jsons, failed with; empty if they have none in common."""
    errors = {last_line(state.get("error", "")) for state in runs}
    alike = len(errors) == 1 and all(state.get("status") == "failed" for state in runs)
    return errors.pop() if alike else ""
