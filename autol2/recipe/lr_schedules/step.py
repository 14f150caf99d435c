"""Step decay at milestones, the original schedule of residual networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...component import option
from ...errors import require
from .lr_schedule import LRSchedule

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass
class Step(LRSchedule):
    """The learning rate is multiplied by a factor at each milestone."""

    milestones: list[float] = option(lambda: [0.3, 0.6, 0.9])
    """Shares of training after which the learning rate changes."""
    factor: float = option(0.2)
    """Factor by which the learning rate is multiplied."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        require(
            rising and all(0 < milestone < 1 for milestone in self.milestones),
            f"lr_schedule.milestones must be increasing shares of training between 0 and 1, not "
            f"{self.milestones}: try lr_schedule.milestones=[0.3,0.6,0.9]",
        )
        require(
            self.warmup < min(self.milestones, default=1.0),
            "lr_schedule.warmup must end before the first of lr_schedule.milestones",
        )
        require(
            0 < self.factor <= 1e6,
            f"lr_schedule.factor must be above 0 and at most 1e6, not {self.factor:g}: try 0.2",
        )

    def main(self, optimizer: Optimizer, steps: int, before: int) -> LRScheduler:
        """Return the step scheduler (see `LRSchedule.main`); milestones include the warm-up."""
        from torch.optim.lr_scheduler import MultiStepLR

        places = [round(milestone * (before + steps)) - before for milestone in self.milestones]
        return MultiStepLR(optimizer, places, self.factor)
