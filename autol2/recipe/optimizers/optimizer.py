"""`Optimizer`: what every option of the config group ``optimizer`` is derived from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...component import Component

if TYPE_CHECKING:
    import torch


@dataclass
class Optimizer(Component):
    """How a step changes the weights, given their gradients."""

    decoupled: ClassVar[bool] = False
    """Whether the decay multiplies the weights, instead of being added to their gradients."""

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """The optimizer.

        Args:
            groups: parameter groups. Each has its ``weight_decay`` set to 2λ before each step.
            lr: learning rate of groups that name none.
        """
        raise NotImplementedError
