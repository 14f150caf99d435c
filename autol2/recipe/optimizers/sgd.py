"""Stochastic gradient descent, with or without momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...component import option
from ...errors import require
from .optimizer import Optimizer

if TYPE_CHECKING:
    import torch


@dataclass
class SGD(Optimizer):
    """torch's SGD. The decay is exactly the gradient of the penalty λ·Σθ²."""

    usual: ClassVar[bool] = True

    momentum: float = option(0.0, neutral=0.0)
    """Momentum factor; 0 for plain SGD."""
    nesterov: bool = option(False, neutral=False)
    """Whether to use Nesterov momentum."""

    def __post_init__(self) -> None:
        require(
            0 <= self.momentum < 1,
            f"optimizer.momentum must lie in [0, 1), not {self.momentum:g}: try 0.9",
        )
        require(
            self.momentum > 0 or not self.nesterov,
            "optimizer.nesterov=true needs momentum: add optimizer.momentum=0.9",
        )

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """Return torch's SGD (see `Optimizer.build`)."""
        import torch

        return torch.optim.SGD(groups, lr=lr, momentum=self.momentum, nesterov=self.nesterov)
