"""A study as it lies on disk: the folders of its runs and what each run's run.json says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import UserError
from .run import read_state


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
