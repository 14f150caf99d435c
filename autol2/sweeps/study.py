"""A study as it lies on disk: its runs' folders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runs.run import read_state
from .states import States


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


def records(folder: Path, states: States | None = None) -> list[Record]:
    """The runs in a study's folder, broken ones included, by name.

    A folder counts as a run's where it has a run.json or a train.log.

    Args:
        folder: the study's.
        states: what was read before, for who looks again and again.
    """
    found, read = [], read_state if states is None else states.read
    for path in sorted(folder.iterdir()):
        state = read(path)
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
