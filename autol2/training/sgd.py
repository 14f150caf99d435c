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
        parameters: what is trained, or groups of it, as for `torch.optim.Optimizer`.
        lr: learning rate.

    Attributes:
        param_groups: as in `torch.optim.Optimizer`; ``lr`` and ``weight_decay`` may be changed.
    """

    def __init__(self, parameters: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float) -> None:
        groups: list[Any] = list(parameters)
        if isinstance(groups[0], Tensor):
            groups = [{"params": groups}]
        self.param_groups: list[dict[str, Any]] = [
            {"lr": lr, "weight_decay": 0.0, **group} for group in groups
        ]
        self._decays: list[Tensor] = []

    def decay_by_tensor(self) -> None:
        """Let `step` read each group's decay from a tensor, so that a recorded step follows it."""
        self._decays = [
            torch.zeros((), device=group["params"][0].device) for group in self.param_groups
        ]

    def update_decay_tensors(self) -> None:
        """Copy each group's ``weight_decay`` into its tensor."""
        for tensor, group in zip(self._decays, self.param_groups, strict=True):
            tensor.fill_(group["weight_decay"])

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters; their gradients are used up."""
        for place, group in enumerate(self.param_groups):
            parameters = group["params"]
            gradients = [parameter.grad for parameter in parameters]
            if self._decays:
                for gradient, parameter in zip(gradients, parameters, strict=True):
                    gradient.addcmul_(parameter, self._decays[place])
            elif group["weight_decay"]:
                torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
            torch._foreach_add_(parameters, gradients, alpha=-group["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Nothing: all that lasts is in the parameters."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
