"""The network of a run: built, initialised and laid out for its device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import Config
from ..models import rng
from ..models.initialization import initialize, select

LAYERS = 8
"""That are shown of a network; of more, groups are."""


def layers(network: nn.Module) -> dict[str, list[Tensor]]:
    """The weights of convolutions, dense layers and the like, by the name of their layer.

    Of more than `LAYERS` they are grouped by the modules that they are in, as deep as that gives no
    more groups; where no module groups them, neighbours are put together.
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
