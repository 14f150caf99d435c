"""AdamW (Loshchilov & Hutter, 2019, "Decoupled weight decay regularization", ICLR)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...component import option
from ...errors import require
from .optimizer import Optimizer

if TYPE_CHECKING:
    import torch


@dataclass
class AdamW(Optimizer):
    """torch's AdamW: each step first multiplies the weights by 1 − lr·2λ."""

    name: ClassVar[str] = "adamw"
    decoupled: ClassVar[bool] = True

    betas: list[float] = option(lambda: [0.9, 0.999])
    """Decay rates of the running means of the gradient and of its square."""
    eps: float = option(1e-8)
    """Term added to the denominator, the root of the mean square."""

    def __post_init__(self) -> None:
        require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"optimizer.betas must be two numbers in [0, 1), not {self.betas}: try "
            f"optimizer.betas=[0.9,0.999]",
        )
        require(
            0 < self.eps < math.inf,
            f"optimizer.eps must be above 0, not {self.eps:g}: try optimizer.eps=1e-8",
        )

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """Return torch's AdamW (see `Optimizer.build`)."""
        import torch

        betas = self.betas[0], self.betas[1]
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=self.eps, weight_decay=0.0)
