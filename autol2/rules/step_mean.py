"""Mean loss and error of an optimizer step with several batches or processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import SupportsFloat

import torch
import torch.distributed as dist
from torch import Tensor

Number = SupportsFloat
"""A number or a tensor of one element."""


class StepMean:
    """Averages loss and error over the batches of a step and over the processes that share it.

    Each batch is weighted by its count: batches of 1 and 99 tokens are averaged over 100 tokens. A
    batch with a count of 0 (all of its labels are ignored) has no weight, even if its loss is NaN::

        mean = StepMean()
        for batch in step:                         # gradient accumulation
            loss, error, tokens = …
            mean.add(loss, error, tokens)
        loss, error, tokens = mean.take(sync=True)  # the same on every process

    Args:
        group: the process group that shares a step; by default, all processes.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self._batches: list[tuple[Number, Number | None, Number]] = []

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, loss: Number, error: Number | None = None, count: Number = 1) -> None:
        """Add a batch without waiting for the device.

        Args:
            loss: mean loss of the batch.
            error: mean error of the batch; None if the task has no error.
            count: number of samples or tokens that these are means over.
        """
        batch = kept(loss), None if error is None else kept(error), kept(count)
        self._batches.append(batch)

    def clear(self) -> None:
        """Remove all batches."""
        self._batches.clear()

    def take(self, sync: bool = True) -> tuple[float, float | None, float]:
        """Return the mean loss, the mean error and the count since the last call.

        Args:
            sync: take the means over all processes, if there are several. Each process then has to
                call this, including those without a batch.

        Returns:
            The mean loss (NaN if the count is 0), the mean error (None if there was none) and the
            count.
        """
        batches, several = list(self._batches), sync and processes(self.group) > 1
        self.clear()
        if len(batches) == 1 and not several:  # return it as it was given, without rounding
            loss, error, count = (None if part is None else float(part) for part in batches[0])
            assert loss is not None
            if count:
                return loss, error, float(count)
            return math.nan, None, 0.0
        sums = self._sums(batches)
        if several:
            on = sums.to(_device(self.group, sums.device))
            dist.all_reduce(on, group=self.group)
            sums = on
        loss_sum, count, error_sum, errors = map(float, sums.tolist())
        return (
            loss_sum / count if count else math.nan,
            error_sum / errors if errors else None,
            count,
        )

    def _sums(self, batches: Sequence[tuple[Number, Number | None, Number]]) -> Tensor:
        """Return the sums of loss·count, count, error·count and the count of batches with an error.

        They are a float64 tensor of shape [4].
        """
        tensors = [part for batch in batches for part in batch if isinstance(part, Tensor)]
        device = tensors[0].device if tensors else torch.device("cpu")
        if device.type == "mps":  # MPS has no double precision
            device = torch.device("cpu")

        def column(values: Sequence[Number]) -> Tensor:
            plain = [
                value.reshape(()).to(device, torch.float64)
                if isinstance(value, Tensor)
                else torch.tensor(float(value), dtype=torch.float64, device=device)
                for value in values
            ]
            return (
                torch.stack(plain) if plain else torch.zeros(0, dtype=torch.float64, device=device)
            )

        def weighted(values: Tensor, counts: Tensor) -> Tensor:
            return torch.where(counts > 0, values * counts, torch.zeros_like(values)).sum()

        counts = column([count for _, _, count in batches])
        losses = column([loss for loss, _, _ in batches])
        with_error = [(error, count) for _, error, count in batches if error is not None]
        errors = column([error for error, _ in with_error])
        error_counts = column([count for _, count in with_error])
        # An error of NaN was not measured, unless the count is 0 anyway.
        error_counts = torch.where(errors.isnan(), torch.zeros_like(errors), error_counts)
        return torch.stack(
            [
                weighted(losses, counts),
                counts.sum(),
                weighted(errors, error_counts),
                error_counts.sum(),
            ]
        )


def kept(value: Number) -> Number:
    """Detach a tensor from its graph; convert NumPy's arrays and scalars to plain numbers."""
    if isinstance(value, Tensor):
        return value.detach()
    plain: Number = value.item() if hasattr(value, "item") else value
    return plain


def processes(group: dist.ProcessGroup | None = None) -> int:
    """Return the number of processes that train together."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)


def _device(group: dist.ProcessGroup | None, given: torch.device) -> torch.device:
    """Return a device on which the group's backend can reduce."""
    config = str(dist.get_backend_config(group))  # cpu:gloo,cuda:nccl
    kinds = [pair.partition(":")[0] for pair in config.split(",")]
    return given if given.type in kinds else torch.device(kinds[0])
