"""A learning rate schedule of one's own: it halves again and again."""

from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR

from autol2.recipe.lr_schedules.lr_schedule import LRSchedule


@dataclass
class Halving(LRSchedule):
    """The learning rate is halved at regular intervals."""

    every: int = 4
    """Steps between two of them."""

    name = "halving"

    def main(self, optimizer: Optimizer, steps: int, before: int) -> LRScheduler:
        """See `LRSchedule`."""
        return StepLR(optimizer, self.every, 0.5)
