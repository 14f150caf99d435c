"""A task: one run of a sweep that is to be executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runs.state import FINISHED, read_state


@dataclass(frozen=True)
class Task:
    """One run that is to be executed."""

    folder: str
    """The run's directory."""
    overrides: tuple[str, ...]
    """The arguments of ``python -m autol2.train`` for the same run, for messages."""
    attempts: int = 0
    """Number of attempts when the sweep was planned."""
    updated: float = 0.0
    """The ``updated`` time of its run.json when the sweep was planned."""
    config: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The complete, resolved configuration (`autol2.cli.composition.resolved`). It is executed even
    if the files change that it was composed from."""

    @property
    def run_id(self) -> str:
        """The name of the run."""
        return Path(self.folder).name

    @property
    def study(self) -> Path:
        """The study's folder."""
        return Path(self.folder).parent

    @property
    def log(self) -> Path:
        """The file for the output of processes that a sweep starts for this run."""
        return self.study / ".launch" / "logs" / f"{self.run_id}.log"

    @property
    def state(self) -> dict[str, Any]:
        """The current contents of its run.json."""
        return read_state(Path(self.folder))

    def finished(self, state: Mapping[str, Any]) -> bool:
        """Return whether the run is finished according to `state`, its run.json.

        With ``rerun=true``, this takes a result that is newer than the plan.
        """
        again = self.config.get("rerun") and state.get("updated", 0.0) == self.updated
        return state.get("status") in FINISHED and not again
