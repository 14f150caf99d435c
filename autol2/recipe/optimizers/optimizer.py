"""`Optimizer`, the base class of the config group ``optimizer``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...component import Component

if TYPE_CHECKING:
    import torch


@dataclass
class Optimizer(Component):
    """The rule by which a step changes the weights, given their gradients."""

    decoupled: ClassVar[bool] = False
    """Whether the decay multiplies the weights instead of being added to their gradients."""

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """Return the optimizer.

        Args:
            groups: the parameter groups; the ``weight_decay`` of each is set to 2λ before each
                step.
            lr: learning rate of the groups that do not have their own.
        """
        raise NotImplementedError
