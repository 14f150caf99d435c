"""Cosine annealing (Loshchilov & Hutter, 2017, "SGDR", without restarts)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...component import option
from ...errors import require
from .lr_schedule import LRSchedule

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass
class Cosine(LRSchedule):
    """The learning rate falls along half a cosine, from lr to `final` · lr after the last step."""

    final: float = option(0.0, neutral=0.0)
    """Share of lr that is left at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 <= self.final <= 1,
            f"lr_schedule.final must be a share of lr, from 0 to 1, not {self.final:g}",
        )

    def main(self, optimizer: Optimizer, steps: int, before: int) -> LRScheduler:
        """Return the cosine scheduler (see `LRSchedule.main`)."""
        from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

        if self.final and len(optimizer.param_groups) > 1:
            # torch's has one lowest rate for all groups, whatever their own rates.
            return LambdaLR(optimizer, self._share(steps))
        lr = optimizer.param_groups[0].get("initial_lr", optimizer.param_groups[0]["lr"])
        return CosineAnnealingLR(optimizer, steps, self.final * float(lr))

    def _share(self, steps: int) -> Callable[[int], float]:
        """Return the share of lr as a function of the step, like torch's CosineAnnealingLR."""

        def share(step: int) -> float:
            half = (1 + math.cos(math.pi * min(step, steps) / steps)) / 2
            return self.final + (1 - self.final) * half

        return share
