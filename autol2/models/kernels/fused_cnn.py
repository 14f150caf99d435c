"""The paper's network with fused layers, for a CPU.

Pooling also precedes the first bias, with which it commutes. Since pooling drops an incomplete last
row and column, the part of the image that only these depend on is cropped first (this reorders
sums, which changes results by about 1e-6). With batch-norm in training, the statistics depend on
that part, so it is kept. The first batch-norm is fused with the convolution before it, the second
with the pooling after it (`batch_norm`), and the second convolution needs fewer products
(`winograd`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d

from . import winograd
from .batch_norm import fused_weights, max_pool_normalized


def seen(sides: Sequence[int]) -> list[int]:
    """Return height and width of the corner of an image that the dense layers depend on."""
    return [4 * (((side - 2) // 2 - 2) // 2) + 6 for side in sides]


class FusedCNN(nn.Module):
    """Computes the same as the network of `autol2.models.cnn.CNN`, faster.

    It has the same parameters.

    Args:
        network: the network whose layers it uses.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        layers = dict(network.named_children())
        conv1, conv2, dense1 = layers["conv1"], layers["conv2"], layers["dense1"]
        assert isinstance(conv1, nn.Conv2d)
        assert isinstance(conv2, nn.Conv2d)
        assert isinstance(dense1, nn.Linear)
        self.conv1 = conv1
        self.norm1 = layers.get("norm1", nn.Identity())
        self.conv2 = winograd.Conv2d(conv2.in_channels, conv2.out_channels)
        self.conv2.weight, self.conv2.bias = conv2.weight, conv2.bias
        self.norm2 = layers.get("norm2", nn.Identity())
        self.dense1, self.dense2 = dense1, layers["dense2"]
        self.crops_training = "norm1" not in layers

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores [N, classes] of normalised `images` [N, C, H, W]."""
        if self.crops_training or not self.training:
            height, width = seen(images.shape[2:])
            images = images[..., :height, :width]
        x = images.contiguous(memory_format=torch.channels_last)
        if isinstance(self.norm1, nn.BatchNorm2d):
            weight, bias = fused_weights(self.conv1, self.norm1, x)
        else:
            assert self.conv1.bias is not None
            weight, bias = self.conv1.weight, self.conv1.bias
        x = max_pool2d(conv2d(x, weight), 2)
        x = torch.relu_(x.add_(bias[:, None, None]))
        x = self.conv2(x)
        if isinstance(self.norm2, nn.BatchNorm2d):
            x = torch.relu_(max_pool_normalized(self.norm2, x))
        else:
            x = torch.relu_(max_pool2d(x, 2))
        x = torch.relu_(self.dense1(x.flatten(1)))
        scores: Tensor = self.dense2(x)
        return scores
