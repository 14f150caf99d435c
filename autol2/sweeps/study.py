"""A study as it lies on disk: what was asked for (study.json), how each run stands (run.json)."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import UserError
from ..runs.files import to_json, write_atomically
from ..runs.run import FINISHED, PATIENCE, read_state

HOPELESS = 3
"""So many runs that fail alike before any other ends stop a sweep."""
TAKEN_AWAY = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED", "CANCELLED")
"""How a job ends, in SLURM's words, through no fault of its runs."""
RETRIES = 3
"""How often a run that was killed is done again without having got further."""


@dataclass(frozen=True)
class Record:
    """One run of a study."""

    folder: Path
    state: dict[str, Any]
    """Its run.json; empty where that is missing or cannot be read."""

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def broken(self) -> bool:
        """Whether there is a run.json and it cannot be read."""
        return not self.state and (self.folder / "run.json").exists()


def records(folder: Path) -> list[Record]:
    """The runs in a study's folder, broken ones included, by name.

    A folder counts as a run's where it has a run.json or a train.log.
    """
    found = []
    for path in sorted(folder.iterdir()):
        state = read_state(path)
        if state or (path / "run.json").exists() or (path / "train.log").exists():
            found.append(Record(path, state))
    return found


def find(outputs: Path, name: str | None) -> Path:
    """The folder of the study `name`, or of the one that was worked on last.

    Raises:
        UserError: there is no such study; its message lists those that are there.
    """
    if name is not None and any(_traces(outputs / name)):
        return outputs / name
    studies = _studies(outputs)
    if name is not None:
        known = ", ".join(sorted(study.name for study in studies)) or "none yet"
        raise UserError(f"there is no study {name!r} in {outputs}; there are: {known}")
    if not studies:
        raise UserError(
            f"there is no study in {outputs} yet: make one with python -m autol2.train -m "
            f"experiment=demo"
        )
    return max(studies, key=lambda study: studies[study])


def _studies(outputs: Path) -> dict[Path, float]:
    """Each study's folder and when it, or one of its runs, last changed."""
    changed = {}
    for study in outputs.glob("*"):
        times = [path.stat().st_mtime for path in _traces(study)]
        if times:
            changed[study] = max(times)
    return changed


def _traces(study: Path) -> Iterator[Path]:
    """The files that make a folder a study; runs.csv tells of runs that were trained elsewhere."""
    for name in ("study.json", "runs.csv"):
        if (study / name).exists():
            yield study / name
    yield from study.glob("*/run.json")


def read_manifest(study: Path, *, strict: bool = False) -> dict[str, dict[str, Any]]:
    """The runs that sweeps asked for (study.json), by name: overrides and, on SLURM, the job.

    Raises:
        UserError: with `strict`, a study.json that is there and cannot be read: what is queued
            would be submitted again. Without, it says nothing.
    """
    path = study / "study.json"
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        if not (isinstance(runs, dict) and all(isinstance(one, dict) for one in runs.values())):
            raise TypeError("it is no list of runs")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        if strict:
            raise UserError(
                f"{path} cannot be read ({getattr(error, 'strerror', None) or error}), and it says "
                f"which runs are queued: mend it, or delete it when none of them is"
            ) from error
        return {}
    return runs


def add_to_manifest(study: Path, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Add to study.json what is asked for: each run's overrides and, on SLURM, its job.

    Raises:
        UserError: it cannot be written, or what it says cannot be read.
    """
    try:
        study.mkdir(parents=True, exist_ok=True)
        with FileLock(study / ".study.lock"):
            known = read_manifest(study, strict=True)
            for run, entry in runs.items():
                known[run] = {**known.get(run, {}), **entry}
            write_atomically(study / "study.json", to_json({"runs": known}).encode())
    except OSError as error:
        raise UserError(
            f"{study} cannot be written ({error.strerror or error}): "
            f"choose another folder with outputs=FOLDER, or make room"
        ) from error


@dataclass(frozen=True)
class Job:
    """What the scheduler says of the job that a run was last submitted in."""

    name: str
    """As in 12_3."""
    active: bool
    """Whether it is pending or running."""
    state: str
    """PENDING, RUNNING, …; how it ended where it is not active, as far as the scheduler tells."""


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
        return RunStatus("queued", f"job {job.name} is {job.state.lower()}")
    if status == "failed":
        return RunStatus("failed", last_line(state.get("error", "")))
    if job is not None and job.state == "OUT_OF_MEMORY":
        return RunStatus("failed", f"out of memory, says SLURM of job {job.name}")
    silent = status == "running"  # to the last
    taken_away = silent and job is not None and job.state in TAKEN_AWAY
    if (times := kills(state)) > retries and not taken_away:
        return RunStatus("failed", f"killed {times} times without getting further")
    if status == "interrupted":
        return RunStatus("stopped", f"interrupted: {_last(state).get('why')}")
    if job is not None:
        ended = job.state.lower().replace("_", " ")
        return RunStatus("stopped", f"job {job.name} is gone" + f": {ended}" * bool(ended))
    if status == "running":
        return RunStatus("stopped", "no sign of life")
    return RunStatus("missing", "never begun")


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
    if last.get("host") == socket.gethostname() and "pid" in last:
        pid = int(last["pid"])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        else:
            return _started(pid) <= updated + 2  # else the number has been given away since
    return time.time() - updated < PATIENCE


def _started(pid: int) -> float:
    """When a process here began (Unix time, to the second); 0 where the system does not tell."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        boot = re.search(r"^btime (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)
    except (OSError, IndexError, ValueError):
        return 0.0
    return float(boot[1]) + ticks / os.sysconf("SC_CLK_TCK") if boot else 0.0


def last_line(text: str) -> str:
    """The last line of a traceback: the error itself."""
    return text.strip().splitlines()[-1] if text.strip() else ""


def common_error(runs: Sequence[Mapping[str, Any]]) -> str:
    """The error that each of `runs`, run.jsons, failed with; empty if they have none in common."""
    errors = {last_line(state.get("error", "")) for state in runs}
    alike = len(errors) == 1 and all(state.get("status") == "failed" for state in runs)
    return errors.pop() if alike else ""
