"""What a network has to be, found out before a run begins."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors import UserError, first_line, require
from . import rng
from .model import Shape


def probed(network: object, origin: str, shape: Shape, classes: int) -> nn.Module:
    """`network`, which is left as it was by two black images.

    Parameters whose shape such a pass settles (torch.nn.LazyLinear's, for one) have it then.

    Args:
        network: what should be a network, on the CPU.
        origin: what made it, for messages.
        shape: channels, height and width of an image.
        classes: number of classes.

    Raises:
        UserError: it is no network, takes no such images, returns no such scores or cannot be
            trained.
    """
    if not isinstance(network, nn.Module):
        raise UserError(f"{origin} returned {type(network).__name__}, not a torch.nn.Module")
    images = f"images [N, {', '.join(map(str, shape))}]"
    for training, count in ((False, 2), (True, 2), (False, 1)):
        try:
            scores = tried(network, torch.zeros(count, *shape), training=training)
        except Exception as error:
            raise UserError(f"{origin} does not take {images}: {first_line(error)}") from error
        if not isinstance(scores, Tensor) or scores.shape != (count, classes):
            what = f"{list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise UserError(
                f"{origin} returns {what} for {count} {images}, not scores [{count}, {classes}]"
            )
    require(
        scores.requires_grad,
        f"{origin} cannot be trained: its scores do not depend on any parameter with a gradient",
    )
    return network


def require_single_images(network: nn.Module, images: Tensor, batch_size: int) -> None:
    """Refuse with a `UserError` what cannot be trained on the one image that a batch is left with.

    As batch-norm of a single pixel cannot.

    Args:
        network: the network.
        images: float32 [1, C, H, W], on its device.
        batch_size: of the other batches, for the message.
    """
    why = ""
    try:
        scores = tried(network, images, training=True)
    except Exception as error:  # batch-norm's, or what a network of the user's own raises
        why = first_line(error)
    else:
        if scores.dim() != 2 or len(scores) != 1:
            why = f"its scores are {list(scores.shape)}"
    require(
        not why,
        f"the last batch of an epoch is a single image, and this network cannot be trained on one: "
        f"use a batch_size other than {batch_size} ({why})",
    )


def tried(network: nn.Module, images: Tensor, *, training: bool) -> Tensor:
    """What `network` makes of `images`; its parameters and buffers are as before afterwards."""
    with rng.seeded(0):
        if any(map(is_lazy, network.parameters())):
            network.eval()(images)
        before, buffers = copy.deepcopy(network.state_dict()), unsaved_buffers(network)
        try:
            scores: Tensor = network.train(training)(images)
        finally:
            network.load_state_dict(before)
            set_buffers(network, buffers)
    return scores


def unsaved_buffers(network: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers that the network's own state leaves out (``persistent=False``)."""
    saved = network.state_dict().keys()
    return {name: buffer.clone() for name, buffer in network.named_buffers() if name not in saved}


def set_buffers(network: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Let the network have such buffers, on the device that its own are on."""
    for name, buffer in buffers.items():
        owner, _, own = name.rpartition(".")
        module = network.get_submodule(owner)
        setattr(module, own, buffer.to(getattr(module, own).device))
