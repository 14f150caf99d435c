"""The config option for the wide residual network (`autol2.models.wide_resnet`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..component import option
from ..errors import require
from .model import Model, Shape

if TYPE_CHECKING:
    from torch import nn


@dataclass
class WRN(Model):
    """A wide residual network, WRN-depth-width; both papers use 28-10."""

    name: ClassVar[str] = "wrn"

    depth: int = option(28)
    """Number of convolutions (without the shortcuts') plus the dense layer: 6·n + 4."""
    width: int = option(10)
    """Factor on the filters of a plain residual network (16, 32 and 64 in the three groups)."""
    shortcut_kernel: int = option(1, neutral=1)
    """1; or 3 as in the released code of Auto L2, where a shortcut that changes the shape is a 3×3
    convolution of the block's input as it is, before batch-norm and ReLU."""
    dropout: float = option(0.0, neutral=0.0)
    """Share of the activations inside a block that are dropped in training."""

    def __post_init__(self) -> None:
        require(
            self.depth >= 10 and self.depth % 6 == 4,
            f"model.depth of a wide residual network is 6·n + 4 (10, 16, 22, 28, 40, …), not "
            f"{self.depth}",
        )
        require(self.width >= 1, f"model.width must be at least 1, not {self.width}")
        for name, most in (("depth", 10**4), ("width", 10**3)):
            value = getattr(self, name)
            require(value <= most, f"model.{name} must be at most {most}, not {value}")
        require(
            self.shortcut_kernel in (1, 3),
            f"model.shortcut_kernel must be 1 or 3, not {self.shortcut_kernel}",
        )
        require(
            0 <= self.dropout < 1,
            f"model.dropout must lie in [0, 1), not {self.dropout:g}: try 0.3",
        )

    def build(self, shape: Shape, classes: int, *, batchnorm: bool) -> nn.Module:
        """Build the network (see `Model.build`)."""
        from .wide_resnet import WideResNet

        return WideResNet(
            shape[0],
            classes,
            depth=self.depth,
            width=self.width,
            batchnorm=batchnorm,
            shortcut_kernel=self.shortcut_kernel,
            dropout=self.dropout,
        )
