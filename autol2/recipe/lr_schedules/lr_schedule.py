"""`LRSchedule`, the base class of the config group ``lr_schedule``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...component import Component, option
from ...errors import require

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass
class LRSchedule(Component):
    """How the learning rate changes after the warm-up: a PyTorch scheduler, stepped every step."""

    warmup: float = option(0.0, neutral=0.0)
    """Share of training during which the learning rate rises linearly to lr."""

    def __post_init__(self) -> None:
        require(
            0 <= self.warmup < 1,
            f"lr_schedule.warmup must be a share of training, at least 0 and below 1, not "
            f"{self.warmup:g}: 0.05 is the first twentieth",
        )

    def main(self, optimizer: Optimizer, steps: int, before: int) -> LRScheduler | None:
        """Return the scheduler for `steps` steps, which follow `before` steps of warm-up.

        None means that lr stays constant.
        """
        raise NotImplementedError

    def warmup_steps(self, steps: int) -> int:
        """Return how many of `steps` steps the warm-up takes; at least one is left."""
        return min(round(self.warmup * steps), steps - 1)

    def build(self, optimizer: Optimizer, steps: int) -> LRScheduler | None:
        """Return the scheduler for a training of `steps` steps; None if lr stays constant."""
        from torch.optim.lr_scheduler import ConstantLR, LinearLR, SequentialLR

        rising = self.warmup_steps(steps)
        if rising == 0:
            return self.main(optimizer, steps, 0)
        first = LinearLR(optimizer, 1 / (rising + 1), total_iters=rising)
        then = self.main(optimizer, steps - rising, rising) or ConstantLR(optimizer, 1.0)
        return SequentialLR(optimizer, [first, then], [rising])
