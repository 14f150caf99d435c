"""A study as it lies on disk: the folders of its runs and what each run's run.json says."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import UserError
from .run import FINISHED, PATIENCE, read_state

HOPELESS = 3
"""So many runs failing alike, and none succeeding, end a study."""


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


def records(folder: Path) -> list[Record]:
    """The runs in a study's folder, broken ones included, by name.

    A folder counts as a run's where it has a run.json or a train.log.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if (path / "run.json").exists() or (path / "train.log").exists():
            found.append(Record(path, read_state(path)))
    return found


def find(outputs: Path, name: str | None) -> Path:
    """The folder of the study `name`, or of the one that was worked on last.

    Raises:
        UserError: there is no such study; its message lists those that are there.
    """
    studies = _studies(outputs)
    if name is not None:
        if outputs / name in studies:
            return outputs / name
        known = ", ".join(sorted(study.name for study in studies)) or "none yet"
        raise UserError(f"there is no study {name!r} in {outputs}; there are: {known}")
    if not studies:
        raise UserError(
            f"there is no study in {outputs} yet: make one with python -m autol2.train -m "
            f"experiment=demo"
        )
    return max(studies, key=lambda study: studies[study])


def _studies(outputs: Path) -> dict[Path, float]:
    """Each study's folder and when one of its runs last changed."""
    changed: dict[Path, float] = {}
    for path in outputs.glob("*/*/run.json"):
        study = path.parent.parent
        changed[study] = max(changed.get(study, 0.0), path.stat().st_mtime)
    return changed


@dataclass(frozen=True)
class Standing:
    """How a run stands, and why one thinks so."""

    status: str
    """done, running, queued, failed, lost (its process is gone) or missing."""
    why: str

    @property
    def wanted(self) -> bool:
        """Whether it is to be submitted."""
        return self.status in ("lost", "missing")


def standing(
    state: Mapping[str, Any], job: str | None, queue: Mapping[str, str] | None
) -> Standing:
    """How a run stands: its run.json decides, the queue is a hint.

    Args:
        state: its run.json, empty where there is none.
        job: the job it was last submitted in.
        queue: state of each job that the scheduler knows; None where there is no scheduler.
    """
    status = state.get("status")
    if status in FINISHED:
        return Standing("done", str(status))
    if status == "running" and alive(state):
        return Standing("running", "it gave a sign of life")
    queued = (queue or {}).get(job or "")
    if queued is not None:
        return Standing("queued", f"job {job} is {queued.lower()}")
    if status == "failed":
        return Standing("failed", last_line(state.get("error", "")))
    if status == "running":
        return Standing("lost", "no sign of life")
    if status == "interrupted":
        return Standing("lost", f"interrupted: {state['attempts'][-1].get('why')}")
    if job is not None and queue is not None:
        return Standing("lost", f"job {job} is gone")
    return Standing("missing", "never begun")


def alive(state: Mapping[str, Any]) -> bool:
    """Whether a run that says it is running still does: by its process here, else its heartbeat."""
    last = state["attempts"][-1]
    if last.get("host") == socket.gethostname():
        try:
            os.kill(int(last["pid"]), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        else:
            return True
    return time.time() - float(state.get("updated", 0.0)) < PATIENCE


def last_line(text: str) -> str:
    """The last line of a traceback: the error itself."""
    return text.strip().splitlines()[-1] if text.strip() else ""


def common_error(runs: Sequence[Record]) -> str:
    """The error with which several runs failed while none got anywhere; empty if that is not so."""
    ended = [run.state for run in runs if run.state.get("status") in ("failed", *FINISHED)]
    errors = {last_line(state.get("error", "")) for state in ended}
    alike = len(ended) >= HOPELESS and len(errors) == 1
    return errors.pop() if alike and all(state["status"] == "failed" for state in ended) else ""
