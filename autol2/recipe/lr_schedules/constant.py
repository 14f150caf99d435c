"""The schedule with a constant learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .lr_schedule import LRSchedule

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass
class Constant(LRSchedule):
    """The learning rate stays constant at lr after the warm-up."""

    usual: ClassVar[bool] = True

    def main(self, optimizer: Optimizer, steps: int, before: int) -> None:
        """Return None, since the learning rate is constant."""
        return
