"""A study on disk: the folders of its runs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runs.state import read_state
from .states import States


@dataclass(frozen=True)
class Record:
    """One run of a study."""

    folder: Path
    state: dict[str, Any]
    """The contents of its run.json; empty if that is missing or cannot be read."""

    @property
    def run_id(self) -> str:
        """The name of the run."""
        return self.folder.name

    @property
    def broken(self) -> bool:
        """Whether there is a run.json that cannot be read."""
        return not self.state and _is_there(self.folder / "run.json")


def records(folder: Path, states: States | None = None) -> list[Record]:
    """Return the runs in a study's folder, including broken ones, sorted by name.

    A folder counts as a run's if it has a run.json or a train.log, or if it cannot be read but is
    named like one.

    Args:
        folder: the study's folder.
        states: a cache of what was read before, for repeated calls.

    Raises:
        UserError: the study's folder cannot be read.
    """
    found, read = [], read_state if states is None else states.read
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or error}") from error
    for path in paths:
        state = read(path)
        if state or _is_there(path / "run.json") or _is_there(path / "train.log"):
            found.append(Record(path, state))
    return found


def find(outputs: Path, name: str | None) -> Path:
    """Return the folder of the study `name`, or of the most recently changed study.

    Raises:
        UserError: there is no such study (the message lists the existing ones), or it cannot be
            read.
    """
    try:
        if name is not None and (any(_traces(outputs / name)) or _runs_in(outputs / name)):
            return outputs / name
        studies = _studies(outputs)
    except OSError as error:
        where = error.filename or outputs
        raise UserError(f"{where} cannot be read: {error.strerror or error}") from error
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
    """Return each study's folder and the time when it or one of its runs last changed.

    Folders without permission to read are left out.
    """
    changed = {}
    for study in _within(outputs):
        with contextlib.suppress(OSError):
            times = [path.stat().st_mtime for path in _traces(study)]
            if times:
                changed[study] = max(times)
    return changed


def _traces(study: Path) -> Iterator[Path]:
    """Yield the files that make a folder a study; runs.csv lists runs trained elsewhere."""
    for name in ("study.json", "runs.csv"):
        if (study / name).exists():
            yield study / name
    yield from study.glob("*/run.json")


def _runs_in(study: Path) -> list[Record]:
    return records(study) if _within(study) else []


def _within(folder: Path) -> list[Path]:
    """Return the contents of a folder; empty if it does not exist."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return re.search(r"-s\d+-", path.parent.name) is not None
