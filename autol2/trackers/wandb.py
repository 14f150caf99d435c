"""The experiment tracker Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .tracker import Figures, Shown, Tracker, TrackerOptions


@dataclass
class WandBOptions(TrackerOptions):
    """The experiment tracker Weights & Biases."""

    project: str = "autol2"
    """Name of the Weights & Biases project."""
    mode: str = "offline"
    """offline stores the data in the run's folder for `wandb sync`; online uploads them."""

    name = "wandb"
    package = "wandb"

    def open(self, run: Shown) -> Tracker:
        """Open a Weights & Biases run (see `TrackerOptions`)."""
        return WandB(run, self)


class WandB:
    """A Weights & Biases run, which all attempts at a run share."""

    def __init__(self, run: Shown, options: WandBOptions) -> None:
        import wandb

        self._run = wandb.init(
            project=options.project,
            id=run.id,
            name=run.folder.name,
            group=run.study,
            config=dict(run.options),
            dir=run.folder,
            mode="online" if options.mode == "online" else "offline",
            resume="allow",
            settings=wandb.Settings(console="off", silent=True, init_timeout=30),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, rows: Sequence[tuple[int, Figures]]) -> None:
        """Log figures (see `Tracker`)."""
        for step, figures in rows:
            self._run.log({**figures, "step": step})

    def close(self, status: str) -> None:
        """End the Weights & Biases run (see `Tracker`)."""
        self._run.summary["status"] = status
        self._run.finish(exit_code=int(status == "failed"))
