"""A step's forward and backward pass as a CUDA graph: launched as one, without waiting for Python.

A graph repeats what it recorded, on the same memory. So what differs from step to step is copied
into tensors that stay: which images, how they are augmented, and where to note loss and accuracy.
The last batch of an epoch, which is smaller, has a graph of its own. The gradients stay where the
graph writes them; the optimizer's step is done outside of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Work = Callable[[Tensor, Tensor, Tensor], None]
"""Forward and backward pass on the images of an index, int64 [batch], changed as an augmentation's
random numbers say, float32 [batch, columns]; notes the figures at a place, int64 [1]."""
Record = Callable[[Callable[[], None], Sequence[Tensor]], Callable[[], None]]
"""Turns work that changes some tensors into what repeats it."""

WARM_UP = 3
"""Times that the work is done before it is recorded, as PyTorch's notes on CUDA graphs ask for."""


def rehearse(work: Callable[[], None], changes: Sequence[Tensor]) -> None:
    """Do `work` a few times, and leave the tensors in `changes` and the generators as they were."""
    before = [tensor.detach().clone() for tensor in changes]
    devices = {tensor.device for tensor in changes if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
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


class _Recording(NamedTuple):
    images: Tensor
    numbers: Tensor
    repeat: Callable[[], None]
    gradients: list[Tensor | None]


class RecordedGradients:
    """`Work` that is recorded when a batch size first comes, and repeated from then on.

    Args:
        work: the work; it must not wait for the device.
        parameters: whose gradients it computes.
        changes: the tensors that it changes: buffers, figures.
        record: how to record.
    """

    def __init__(
        self,
        work: Work,
        parameters: Sequence[Tensor],
        changes: Sequence[Tensor],
        record: Record = record_cuda_graph,
    ) -> None:
        self._work, self._parameters, self._changes = work, list(parameters), list(changes)
        self._record = record
        self._recordings: dict[int, _Recording] = {}
        self._place = torch.zeros(1, dtype=torch.int64, device=self._parameters[0].device)

    def __call__(self, index: Tensor, numbers: Tensor, place: Tensor) -> None:
        """Do the work; the parameters' ``grad`` are then those of this batch."""
        self._place.copy_(place)
        if len(index) not in self._recordings:
            self._recordings[len(index)] = self._new(index, numbers)
        recording = self._recordings[len(index)]
        recording.images.copy_(index)
        recording.numbers.copy_(numbers)
        recording.repeat()
        for parameter, gradient in zip(self._parameters, recording.gradients, strict=True):
            parameter.grad = gradient

    def _new(self, index: Tensor, numbers: Tensor) -> _Recording:
        images, drawn = index.clone(), numbers.clone()

        def work() -> None:
            for parameter in self._parameters:
                parameter.grad = None  # so that the backward pass writes, and does not add
            self._work(images, drawn, self._place)

        repeat = self._record(work, self._changes)
        gradients = [parameter.grad for parameter in self._parameters]
        return _Recording(images, drawn, repeat, gradients)
