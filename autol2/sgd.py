"""Plain stochastic gradient descent with weight decay.

The same arithmetic, bit for bit, as `torch.optim.SGD` without momentum. That class costs more than
a second at its first use (it imports PyTorch's compiler), which every run would pay.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class SGD:
    """Updates parameters by θ ← θ − lr·(∇ + weight_decay·θ).

    Args:
        parameters: what is trained.
        lr: learning rate.

    Attributes:
        param_groups: as in `torch.optim.Optimizer`; ``lr`` and ``weight_decay`` may be changed.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        self.param_groups: list[dict[str, Any]] = [
            {"params": list(parameters), "lr": lr, "weight_decay": 0.0}
        ]

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters; their gradients are used up."""
        for group in self.param_groups:
            parameters = group["params"]
            gradients = [parameter.grad for parameter in parameters]
            if group["weight_decay"]:
                torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
            torch._foreach_add_(parameters, gradients, alpha=-group["lr"])

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
