"""A training step as a CUDA graph: launched as one, without the GPU waiting for Python.

A graph repeats what it recorded, on the same memory. So what differs from step to step is copied
into tensors that stay: which images, where to note loss and accuracy, and λ. The last batch of an
epoch, which is smaller, has a graph of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .sgd import SGD

Step = Callable[[Tensor, Tensor], None]
"""Trains on the images of an index, int64 [batch]; notes the figures at a place, int64 [1]."""
Record = Callable[[Callable[[], None], Sequence[Tensor]], Callable[[], None]]
"""Turns work that changes some tensors into what repeats it."""

WARM_UP = 3
"""Times that the work is done before it is recorded, as PyTorch's notes on CUDA graphs ask for."""


def rehearse(work: Callable[[], None], changes: Sequence[Tensor]) -> None:
    """Do `work` a few times, and leave the tensors in `changes` as they were."""
    before = [tensor.detach().clone() for tensor in changes]
    for _ in range(WARM_UP):
        work()
    with torch.no_grad():
        for tensor, value in zip(changes, before, strict=True):
            tensor.copy_(value)


def record_cuda_graph(work: Callable[[], None], changes: Sequence[Tensor]) -> Callable[[], None]:
    """Record `work`, which changes the tensors in `changes` and nothing else."""
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        rehearse(work, changes)
    here.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


class RecordedStep:
    """A `Step` that is recorded when a batch size first comes, and repeated from then on.

    Args:
        step: the step; it must not wait for the device.
        optimizer: what updates the weights in it.
        changes: the tensors that it changes: parameters, buffers, figures.
        record: how to record.
    """

    def __init__(
        self,
        step: Step,
        optimizer: SGD,
        changes: Sequence[Tensor],
        record: Record = record_cuda_graph,
    ) -> None:
        self._step, self._optimizer, self._changes = step, optimizer, list(changes)
        self._record = record
        self._recorded: dict[int, tuple[Tensor, Callable[[], None]]] = {}
        self._place = torch.zeros(1, dtype=torch.int64, device=self._changes[0].device)
        optimizer.decay_by_tensor()

    def __call__(self, index: Tensor, place: Tensor) -> None:
        """Do the step."""
        self._place.copy_(place)
        self._optimizer.update_decay_tensors()
        if len(index) not in self._recorded:
            own = index.clone()
            repeat = self._record(lambda: self._step(own, self._place), self._changes)
            self._recorded[len(index)] = own, repeat
        own, repeat = self._recorded[len(index)]
        own.copy_(index)
        repeat()
