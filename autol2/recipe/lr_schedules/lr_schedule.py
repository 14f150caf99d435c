"""`LRSchedule`: what every option of the config group ``lr_schedule`` is derived from."""

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
        """The scheduler of `steps` steps, which come after `before` of a warm-up.

        None where lr stays as it is.
        """
        raise NotImplementedError

    def warmup_steps(self, steps: int) -> int:
        """How many of `steps` steps the warm-up takes; one is left at least."""
        return min(round(self.warmup * steps), steps - 1)

    def build(self, optimizer: Optimizer, steps: int) -> LRScheduler | None:
        """The scheduler of a training of `steps` steps; None where lr stays as it is."""
        from torch.optim.lr_scheduler import ConstantLR, LinearLR, SequentialLR

        rising = self.warmup_steps(steps)
        if rising == 0:
            return self.main(optimizer, steps, 0)
        first = LinearLR(optimizer, 1 / (rising + 1), total_iters=rising)
        then = self.main(optimizer, steps - rising, rising) or ConstantLR(optimizer, 1.0)
        return SequentialLR(optimizer, [first, then], [rising])
