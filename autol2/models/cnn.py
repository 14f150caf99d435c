"""The paper's network (section 4).

It has two 3×3 convolutions without padding, each followed by 2×2 max pooling and ReLU, optionally
batch-norm after each convolution, and two dense layers.

Pooling precedes ReLU, with which it commutes, so that ReLU processes a quarter of the values.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UserError, require
from .model import Model

if TYPE_CHECKING:
    from torch import nn

SMALLEST = 10
"""Height and width of the smallest image for which the dense layers have an input."""


@dataclass
class CNN(Model):
    """The paper's network (section 4): two 3×3 convolutions and two dense layers."""

    width: int = 300
    """Filters of each convolution."""
    hidden: int = 500
    """Units of the first dense layer."""

    name = "cnn"
    label = "CNN"
    usual = True

    def __post_init__(self) -> None:
        for name, most in (("width", 10**5), ("hidden", 10**6)):
            value = getattr(self, name)
            require(value >= 1, f"model.{name} must be at least 1, not {value}")
            require(value <= most, f"model.{name} must be at most {most}, not {value}")

    def build(self, shape: tuple[int, int, int], classes: int, *, batchnorm: bool) -> nn.Module:
        """Build the network (see `Model.build`)."""
        from torch import nn

        channels, *sides = shape
        if min(sides) < SMALLEST:
            raise UserError(
                f"images of {sides[0]}×{sides[1]} are too small for this network: "
                f"at least {SMALLEST}×{SMALLEST} pixels"
            )
        rows, columns = (((side - 2) // 2 - 2) // 2 for side in sides)
        layers: list[tuple[str, nn.Module | None]] = [
            ("conv1", nn.Conv2d(channels, self.width, 3)),
            ("norm1", nn.BatchNorm2d(self.width) if batchnorm else None),
            ("pool1", nn.MaxPool2d(2)),
            ("relu1", nn.ReLU(inplace=True)),
            ("conv2", nn.Conv2d(self.width, self.width, 3)),
            ("norm2", nn.BatchNorm2d(self.width) if batchnorm else None),
            ("pool2", nn.MaxPool2d(2)),
            ("relu2", nn.ReLU(inplace=True)),
            ("flatten", nn.Flatten()),
            ("dense1", nn.Linear(self.width * rows * columns, self.hidden)),
            ("relu3", nn.ReLU(inplace=True)),
            ("dense2", nn.Linear(self.hidden, classes)),
        ]
        return nn.Sequential(
            OrderedDict((name, layer) for name, layer in layers if layer is not None)
        )

    def for_cpu(self, network: nn.Module) -> nn.Module:
        """Return the same layers, fused (see `autol2.models.kernels.fused_cnn`)."""
        from .kernels.fused_cnn import FusedCNN

        return FusedCNN(network)
