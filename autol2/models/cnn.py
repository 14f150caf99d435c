"""The paper's network (section 4): two 3×3 convolutions, each with 2×2 max pooling, and two dense
layers.

What makes it fast leaves its mathematics alone. Images come as bytes and are normalised on the
device. Pooling stands before ReLU and the first bias, which it commutes with, so that they see a
quarter of the values. Since flooring pools throw away an edge row and column, the part of the
image that only those see is cut off first (sums are reordered: about 1e-6); with batch-norm in
training, whose statistics do see it, it stays. The first batch-norm is done by the convolution
before it, the second after the pool behind it (`fusion`), and the second convolution with fewer
products (`winograd`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d

from ..config import Config
from ..errors import UserError
from .kernels import winograd
from .kernels.batch_norm import fused_weights, max_pool_normalized

SMALLEST = 10
"""Pixels an image must at least measure: two convolutions and two pools leave one."""


class CNN(nn.Module):
    """Images to class scores.

    Args:
        shape: channels, height and width of an image.
        classes: number of classes.
        width: filters of each convolution (paper: 300).
        hidden: units of the first dense layer (paper: 500).
        batchnorm: normalise each convolution's output before its ReLU.
        mean, std: pixels in [0, 1] become ``(pixel - mean) / std``.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        width: int = 300,
        hidden: int = 500,
        batchnorm: bool = False,
        mean: float = 0.5,
        std: float = 0.5,
    ) -> None:
        super().__init__()
        channels, *sides = shape
        if min(sides) < SMALLEST:
            raise UserError(
                f"images of {sides[0]}×{sides[1]} are too small for this network: "
                f"at least {SMALLEST}×{SMALLEST} pixels"
            )
        pooled = [((side - 2) // 2 - 2) // 2 for side in sides]
        self.seen = [4 * side + 6 for side in pooled]
        """Height and width of the corner of the image that the dense layers depend on."""
        self.mean, self.std = mean, std
        self.conv1 = nn.Conv2d(channels, width, 3)
        self.norm1 = nn.BatchNorm2d(width) if batchnorm else nn.Identity()
        self.conv2 = winograd.Conv2d(width, width)
        self.norm2 = nn.BatchNorm2d(width) if batchnorm else nn.Identity()
        self.dense1 = nn.Linear(width * pooled[0] * pooled[1], hidden)
        self.dense2 = nn.Linear(hidden, classes)
        self.crops_training = not batchnorm

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, float32 [N, classes], of uint8 `images` [N, C, H, W]."""
        if self.crops_training or not self.training:
            images = images[..., : self.seen[0], : self.seen[1]]
        x = images.contiguous(memory_format=torch.channels_last).float()
        x = x.div_(255).sub_(self.mean).div_(self.std)
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
        scores: Tensor = self.dense2(x).float()
        return scores


def initialize(model: CNN, initialization: str, seed: int) -> None:
    """Draw the weights of `model` from a generator of its own, seeded with `seed`.

    ``published`` draws convolutions from N(0, 2/fan_in) and leaves everything else to PyTorch's
    default, as the code behind the paper's figures does. ``paper`` draws every layer's weights from
    N(0, 2/fan_in) and sets every bias to 0 (section 4: LeCun initialisation, σ_w = √2, σ_b = 0).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in model.modules():
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                continue
            layer.reset_parameters()
            if initialization == "paper" or isinstance(layer, nn.Conv2d):
                fan_in = layer.weight[0].numel()
                nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
            if initialization == "paper" and layer.bias is not None:
                nn.init.zeros_(layer.bias)


def select(model: CNN, which: str) -> set[nn.Parameter]:
    """Some of the parameters of `model`.

    Args:
        model: the network.
        which: all; weights (without biases and batch-norm's parameters); or convolutions (their
            weights).
    """
    dimensions = {"all": 1, "weights": 2, "convolutions": 4}[which]
    return {parameter for parameter in model.parameters() if parameter.dim() >= dimensions}


def build(config: Config, shape: tuple[int, int, int], classes: int, seed: int) -> CNN:
    """The network that `config` describes, on the CPU, initialised per its protocol."""
    model = CNN(
        shape,
        classes,
        width=config.model.width,
        hidden=config.model.hidden,
        batchnorm=config.batchnorm.enabled,
        mean=config.data.mean,
        std=config.data.std,
    )
    initialize(model, config.protocol.initialization, seed)
    if config.control.scale != 1:
        with torch.no_grad():
            for parameter in select(model, config.control.parameters):
                parameter.mul_(config.control.scale)
    return model.to(memory_format=torch.channels_last)
