"""A task: one run of a sweep that is to be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runs.state import FINISHED, read_state


@dataclass(frozen=True)
class Task:
    """One run to be done."""

    folder: str
    """The run's directory."""
    overrides: tuple[str, ...]
    """What ``python -m autol2.train`` would be given, for messages."""
    attempts: int = 0
    """How often it had been tried when it was planned."""
    updated: float = 0.0
    """When its run.json had last changed then, as that says itself."""
    config: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Its whole configuration, resolved (`autol2.cli.composition.resolved`): what is done, whatever
    becomes of the files that it was composed from."""

    @property
    def run_id(self) -> str:
        """The run's name."""
        return Path(self.folder).name

    @property
    def study(self) -> Path:
        """Its study's folder."""
        return Path(self.folder).parent

    @property
    def log(self) -> Path:
        """What its processes print, when a sweep started them."""
        return self.study / ".launch" / "logs" / f"{self.run_id}.log"

    @property
    def state(self) -> dict[str, Any]:
        """Its run.json as it is now."""
        return read_state(Path(self.folder))

    def finished(self, state: Mapping[str, Any]) -> bool:
        """Whether `state`, its run.json, says that there is nothing left to do.

        With ``rerun=true`` that takes a result which is newer than the plan.
        """
        again = self.config.get("rerun") and state.get("updated", 0.0) == self.updated
        return state.get("status") in FINISHED and not again
