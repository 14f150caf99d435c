"""An optimizer of one's own: PyTorch's RMSprop."""

from dataclasses import dataclass
from typing import Any

import torch

from autol2.component import option
from autol2.recipe.optimizers.optimizer import Optimizer


@dataclass
class RMSprop(Optimizer):
    """PyTorch's RMSprop; the decay is added to the gradient."""

    momentum: float = option(0.0, neutral=0.0)
    """Share of the last step that is added to the next one."""

    name = "rmsprop"

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """See `Optimizer`."""
        return torch.optim.RMSprop(groups, lr=lr, momentum=self.momentum)


@dataclass
class Ungrouped(RMSprop):
    """The same, but it forgets the groups that it is given."""

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """See `Optimizer`."""
        return super().build([weight for group in groups for weight in group["params"]], lr)


@dataclass
class Rprop(Optimizer):
    """PyTorch's Rprop, which has no weight decay."""

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """See `Optimizer`."""
        return torch.optim.Rprop(groups, lr=lr)
