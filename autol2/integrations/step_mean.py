"""Loss and error of an optimizer step that is made of several batches, on several processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class StepMean:
    """The mean over the batches of a step (gradient accumulation) and over all processes."""

    def __init__(self) -> None:
        self._batches: list[Tensor] = []

    def add(self, loss: Tensor | float, error: Tensor | float) -> None:
        """Take in a batch, without waiting for the device."""
        pair = [torch.as_tensor(value).detach().float() for value in (loss, error)]
        self._batches.append(torch.stack([value.to(pair[0].device) for value in pair]))

    def take(self) -> tuple[Tensor, Tensor]:
        """Mean loss and error since the last call, the same on every process."""
        mean = torch.stack(self._batches).mean(0)
        self._batches.clear()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        return mean[0], mean[1]
