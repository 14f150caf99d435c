"""Fully connected networks, which Auto L2's authors also train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..component import option
from ..errors import require
from .model import Model, Shape

if TYPE_CHECKING:
    from torch import nn


@dataclass
class MLP(Model):
    """A multilayer perceptron: dense layers with ReLU between them."""

    switches_batchnorm: ClassVar[bool] = False
    label: ClassVar[str] = "MLP"

    widths: list[int] = option(lambda: [512, 512])
    """Units of each hidden layer; an empty list for a linear classifier."""

    def __post_init__(self) -> None:
        require(
            all(width >= 1 for width in self.widths),
            f"model.widths must be whole numbers of at least 1, not {self.widths}: try "
            f"model.widths=[512,512]",
        )
        require(
            all(width <= 10**6 for width in self.widths),
            f"model.widths must be at most {10**6} each, not {self.widths}",
        )

    def build(self, shape: Shape, classes: int, *, batchnorm: bool) -> nn.Module:
        """Build the network (see `Model.build`)."""
        from torch import nn

        self.require_batchnorm_off(batchnorm)
        layers: list[nn.Module] = [nn.Flatten()]
        units = shape[0] * shape[1] * shape[2]
        for width in self.widths:
            layers += [nn.Linear(units, width), nn.ReLU()]
            units = width
        return nn.Sequential(*layers, nn.Linear(units, classes))
