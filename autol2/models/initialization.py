"""The weights that a network starts from, and the choice of some of its parameters."""

from __future__ import annotations

import math

import torch
from torch import nn


def initialize(model: nn.Module, initialization: str, seed: int) -> None:
    """Draw the weights of `model` from a generator of its own, seeded with `seed`.

    ``published`` draws convolutions from N(0, 2/fan_in) and leaves everything else to PyTorch's
    default, as the code behind the paper's figures does. ``paper`` draws every layer's weights from
    N(0, 2/fan_in) and sets every bias to 0 (section 4: LeCun initialisation, σ_w = √2, σ_b = 0).
    ``original`` draws every layer's weights from N(0, 1/fan_in) and sets every bias to 0, as the
    released code of Auto L2 does. What is no convolution or dense layer stays as it was built.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in model.modules():
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                continue
            layer.reset_parameters()
            if initialization != "published" or isinstance(layer, nn.Conv2d):
                variance = (1 if initialization == "original" else 2) / layer.weight[0].numel()
                nn.init.normal_(layer.weight, std=math.sqrt(variance))
            if initialization != "published" and layer.bias is not None:
                nn.init.zeros_(layer.bias)


def select(model: nn.Module, which: str) -> set[nn.Parameter]:
    """Some of the parameters of `model`.

    Args:
        model: the network.
        which: all; weights (without biases and batch-norm's parameters); or convolutions (their
            weights).
    """
    dimensions = {"all": 1, "weights": 2, "convolutions": 4}[which]
    return {parameter for parameter in model.parameters() if parameter.dim() >= dimensions}
