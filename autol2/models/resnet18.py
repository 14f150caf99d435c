"""ResNet-18 (He et al., 2016) with the usual stem for small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .model import Model, Shape

if TYPE_CHECKING:
    from torch import nn


@dataclass
class ResNet18(Model):
    """torchvision's ResNet-18, beginning with a 3×3 convolution and without the first pooling.

    The variant for large images is ``model=torchvision model.builder=resnet18``.
    """

    name: ClassVar[str] = "resnet18"

    def build(self, shape: Shape, classes: int, *, batchnorm: bool) -> nn.Module:
        """Build the network (see `Model.build`); without batch-norm, nothing replaces it."""
        from torch import nn
        from torchvision.models import ResNet, resnet18

        norm = nn.BatchNorm2d if batchnorm else nn.Identity
        network: ResNet = resnet18(weights=None, num_classes=classes, norm_layer=norm)
        network.conv1 = nn.Conv2d(shape[0], 64, 3, 1, 1, bias=False)
        network.maxpool = nn.Identity()
        whole: nn.Module = network
        return whole
