"""The experiment tracker TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from .tracker import Figures, Shown, Tracker, TrackerOptions


@dataclass
class TensorBoardOptions(TrackerOptions):
    """TensorBoard: event files in the run's folder."""

    name = "tensorboard"
    package = "tensorboard"

    def open(self, run: Shown) -> Tracker:
        """Open event files in the run's folder (see `TrackerOptions`)."""
        return TensorBoard(run)


class TensorBoard:
    """Event files in the run's folder."""

    def __init__(self, run: Shown) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purged = run.first + 1 if run.begun else 1
        self._writer = SummaryWriter(run.folder / "tensorboard", purge_step=purged)
        if not run.begun:
            text = json.dumps(dict(run.options), indent=2, ensure_ascii=False)
            self._writer.add_text("configuration", f"```\n{text}\n```")

    def log(self, rows: Sequence[tuple[int, Figures]]) -> None:
        """Write figures (see `Tracker`)."""
        for step, figures in rows:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, status: str) -> None:
        """Close the event files (see `Tracker`)."""
        self._writer.close()
