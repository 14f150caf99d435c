"""Initialise networks, and select groups of their parameters."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from ..errors import UserError


def initialize(model: nn.Module, initialization: str, seed: int) -> None:
    """Initialise the weights of `model` with a separate generator, seeded with `seed`.

    ``published`` draws convolutions from N(0, 2/fan_in) and uses PyTorch's default for everything
    else, like the code behind the paper's figures. ``paper`` draws every layer's weights from N(0,
    2/fan_in) and sets every bias to 0 (section 4: LeCun initialisation, σ_w = √2, σ_b = 0).
    ``original`` draws every layer's weights from N(0, 1/fan_in) and sets every bias to 0, like the
    released code of Auto L2. Only convolutions and dense layers are initialised.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in model.modules():
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                continue
            made_of_others = [name for name in ("weight", "bias") if is_parametrized(layer, name)]
            if not made_of_others:
                _draw(layer, initialization)
                continue
            # with weight_norm, for example, the drawn weight has to be split into its parts
            plain = copy.deepcopy(layer)
            for name in made_of_others:
                remove_parametrizations(plain, name)
            _draw(plain, initialization)
            for name, value in plain.named_parameters(recurse=False):
                _assign(layer, name, value)


def _draw(layer: nn.Conv2d | nn.Linear, initialization: str) -> None:
    layer.reset_parameters()
    if initialization != "published" or isinstance(layer, nn.Conv2d):
        variance = (1 if initialization == "original" else 2) / layer.weight[0].numel()
        nn.init.normal_(layer.weight, std=math.sqrt(variance))
    if initialization != "published" and layer.bias is not None:
        nn.init.zeros_(layer.bias)


@torch.no_grad()
def _assign(layer: nn.Module, name: str, value: nn.Parameter) -> None:
    if not is_parametrized(layer, name):
        getattr(layer, name).copy_(value)
        return
    try:
        setattr(layer, name, value.detach())
    except (NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"the {name} of a {type(layer).__name__} has a parametrization without right_inverse, "
            f"so it cannot be initialised again: give it one"
        ) from error


def select(model: nn.Module, which: str) -> set[nn.Parameter]:
    """Select some of the parameters of `model`.

    Args:
        model: the network.
        which: all, weights (without biases and batch-norm's parameters) or convolutions (their
            weights).
    """
    dimensions = {"all": 1, "weights": 2, "convolutions": 4}[which]
    return {parameter for parameter in model.parameters() if parameter.dim() >= dimensions}
