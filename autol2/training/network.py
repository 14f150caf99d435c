"""The network of a run: built, initialised and laid out for its device."""

from __future__ import annotations

import torch
from torch import nn

from ..config import Config
from ..models.initialization import initialize, select


def build(
    config: Config, shape: tuple[int, int, int], classes: int, seed: int, device: torch.device
) -> nn.Module:
    """The network that `config` describes, on `device`, initialised per its protocol.

    Args:
        config: the run.
        shape: channels, height and width of the images.
        classes: number of classes.
        seed: decides the weights, which are drawn on the CPU and are the same on every device.
        device: where it is to train.

    Raises:
        UserError: the network cannot be had for such images, or with ``batchnorm=on``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = config.model.build(shape, classes, batchnorm=config.batchnorm.enabled)
    initialize(network, config.protocol.initialization, seed)
    if config.control.scale != 1:
        with torch.no_grad():
            for parameter in select(network, config.control.parameters):
                parameter.mul_(config.control.scale)
    if device.type == "cpu" and config.cpu_kernels:
        network = config.model.for_cpu(network)
    return network.to(memory_format=torch.channels_last).to(device)
