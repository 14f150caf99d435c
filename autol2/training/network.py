"""Build, initialise and place the network of a run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import Config
from ..models import rng
from ..models.initialization import initialize, select

LAYERS = 8
"""The largest number of layers to show; with more layers, groups of them are shown."""


def layers(network: nn.Module) -> dict[str, list[Tensor]]:
    """Return the weights of convolutions, dense layers and the like, by the name of their layer.

    If there are more than `LAYERS`, they are grouped by the modules that contain them, as deep as
    the number of groups allows; if no module groups them, neighbours are combined.
    """
    found = {
        name.removesuffix(".weight"): weight
        for name, weight in network.named_parameters()
        if name.endswith("weight") and weight.dim() > 1
    }
    depth = max((name.count(".") + 1 for name in found), default=1)
    for levels in range(depth, 0, -1):
        groups: dict[str, list[Tensor]] = {}
        for name, weight in found.items():
            groups.setdefault(".".join(name.split(".")[:levels]), []).append(weight)
        if len(groups) <= LAYERS:
            return groups
    names, size = list(groups), -(-len(groups) // LAYERS)
    runs = [names[first : first + size] for first in range(0, len(names), size)]
    return {
        "-".join(dict.fromkeys((run[0], run[-1]))): [
            layer for name in run for layer in groups[name]
        ]
        for run in runs
    }


def build(
    config: Config, shape: tuple[int, int, int], classes: int, seed: int, device: torch.device
) -> nn.Module:
    """Build the network that `config` describes, on `device`, initialised by its protocol.

    Args:
        config: the run's configuration.
        shape: channels, height and width of the images.
        classes: number of classes.
        seed: seed of the weights, which are drawn on the CPU and are the same on every device.
        device: the device to train on.

    Raises:
        UserError: the network does not support such images, or ``batchnorm=on``.
    """
    with rng.seeded(seed):
        network = config.model.build(shape, classes, batchnorm=config.batchnorm.enabled)
    initialize(network, config.protocol.initialization, seed)
    if config.control.scale != 1:
        with torch.no_grad():
            for parameter in select(network, config.control.parameters):
                parameter.mul_(config.control.scale)
    if device.type == "cpu" and config.cpu_kernels:
        network = config.model.for_cpu(network)
    return network.to(memory_format=torch.channels_last).to(device)
