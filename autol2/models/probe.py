"""Check networks before a run begins."""

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
    """Check that `network` can be trained on such images, and return it unchanged.

    It is tried with black images. Parameters whose shape is determined by the first pass, such as
    those of torch.nn.LazyLinear, have their shape afterwards.

    Args:
        network: the object to check, on the CPU.
        origin: where it comes from, for messages.
        shape: channels, height and width of an image.
        classes: number of classes.

    Raises:
        UserError: it is not a network, does not accept such images, returns other scores or cannot
            be trained.
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
    """Check that the network can be trained on a batch of a single image.

    The last batch of an epoch may be one. Batch-norm of a single pixel, for example, raises an
    error.

    Args:
        network: the network.
        images: float32 [1, C, H, W], on the network's device.
        batch_size: the size of the other batches, for the message.
    """
    why = ""
    try:
        scores = tried(network, images, training=True)
    except Exception as error:  # raised by batch-norm, or by a network of the user's own
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
    """Return the scores of `images`; the network's parameters and buffers do not change."""
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
    """Return copies of the buffers that the network's state_dict omits (``persistent=False``)."""
    saved = network.state_dict().keys()
    return {name: buffer.clone() for name, buffer in network.named_buffers() if name not in saved}


def set_buffers(network: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Set buffers of the network, each on the device of the present one."""
    for name, buffer in buffers.items():
        owner, _, own = name.rpartition(".")
        module = network.get_submodule(owner)
        setattr(module, own, buffer.to(getattr(module, own).device))
