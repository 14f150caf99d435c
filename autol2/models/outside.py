"""What a network from outside of the package has to be, found out before a run begins."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..errors import UserError
from .model import Shape


def probed(network: object, origin: str, shape: Shape, classes: int) -> nn.Module:
    """`network`, after a forward pass of two black images through a copy of it.

    Args:
        network: what should be a network, on the CPU.
        origin: what made it, for messages.
        shape: channels, height and width of an image.
        classes: number of classes.

    Raises:
        UserError: it is no network, takes no such images or returns no such scores.
    """
    if not isinstance(network, nn.Module):
        raise UserError(f"{origin} returned {type(network).__name__}, not a torch.nn.Module")
    images = f"images [N, {', '.join(map(str, shape))}]"
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            scores = copy.deepcopy(network).train()(torch.zeros(2, *shape))
        except Exception as error:
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"{origin} does not take {images}: {text}") from error
    if not isinstance(scores, Tensor) or scores.shape != (2, classes):
        what = f"{list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise UserError(f"{origin} makes {what} of 2 {images}, not scores [2, {classes}]")
    return network
