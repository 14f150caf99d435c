"""A step's forward and backward pass as a CUDA graph, launched at once without Python overhead.

A graph repeats what it recorded, on the same memory. Therefore, everything that differs between
steps is copied into tensors that persist: the indices of the images, their augmentation, and where
to write loss and hits. The last batch of an epoch, if smaller, has its own graph. The gradients
stay where the graph writes them; the optimizer's step is not part of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import first_line
from ..models import rng

Work = Callable[[Tensor, Tensor, Tensor], None]
"""A forward and backward pass on the images of an index, int64 [batch], augmented with random
numbers, float32 [batch, columns]; it writes loss and accuracy at a position, int64 [1]."""
Record = Callable[[Callable[[], None], Sequence[Tensor]], Callable[[], None]]
"""Turns work that changes some tensors into a function that repeats it."""

WARM_UP = 3
"""Number of warm-up iterations before recording, as in PyTorch's notes on CUDA graphs."""


def rehearse(work: Callable[[], None], changes: Sequence[Tensor]) -> None:
    """Do `work` a few times, and leave the tensors in `changes` unchanged."""
    before = [tensor.detach().clone() for tensor in changes]
    for _ in range(WARM_UP):
        work()
    with torch.no_grad():
        for tensor, value in zip(changes, before, strict=True):
            tensor.copy_(value)


def record_cuda_graph(work: Callable[[], None], changes: Sequence[Tensor]) -> Callable[[], None]:
    """Record `work`, which changes only the tensors in `changes`, and return its replay."""
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        rehearse(work, changes)
    here.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            work()
    except BaseException:
        _free_generator()
        raise
    finally:
        torch.cuda.set_stream(here)  # a failed capture may not have left its own stream
    return graph.replay


def _free_generator() -> None:
    """Give the device's generator a new state.

    If a capture cannot be ended, older versions of PyTorch leave the generator in the capture, and
    dropout fails (pytorch#171263).
    """
    index = torch.cuda.current_device()
    with contextlib.suppress(RuntimeError, AttributeError):
        fresh = torch.Generator(f"cuda:{index}")
        torch.cuda.default_generators[index].graphsafe_set_state(fresh)


class _Recording(NamedTuple):
    images: Tensor
    numbers: Tensor
    repeat: Callable[[], None]
    gradients: list[Tensor | None]


class RecordedGradients:
    """`Work` that is recorded at the first batch of each size and replayed from then on.

    A recording is used only if its first replay gives exactly the same results as the work itself.
    If it does not, or if recording fails, the work is executed without a graph from then on.

    Args:
        work: the work to record; it must not wait for the device.
        parameters: the parameters whose gradients it computes.
        changes: returns the tensors that it changes: buffers, losses and hits.
        warn: called at most once, with one line that says why there is no recording.
        record: the function that records.

    Attributes:
        refused: why there is no recording; empty while recording works.
    """

    def __init__(
        self,
        work: Work,
        parameters: Sequence[Tensor],
        changes: Callable[[], Sequence[Tensor]],
        warn: Callable[[str], None],
        record: Record = record_cuda_graph,
    ) -> None:
        self._work, self._parameters, self._changes = work, list(parameters), changes
        self._warn, self._record = warn, record
        self._recordings: dict[int, _Recording] = {}
        self._place = torch.zeros(1, dtype=torch.int64, device=self._parameters[0].device)
        self.refused = ""

    def __call__(self, index: Tensor, numbers: Tensor, place: Tensor) -> None:
        """Do the work; afterwards, the parameters' ``grad`` are those of this batch."""
        self._place.copy_(place)
        if not self.refused and len(index) not in self._recordings:
            try:
                self._recordings[len(index)] = self._new(index, numbers)
            except Exception as error:
                self._refuse(f"{type(error).__name__}: {first_line(error)}")
        if self.refused:
            self._forget_gradients()
            self._work(index, numbers, self._place)
            return
        recording = self._recordings[len(index)]
        recording.images.copy_(index)
        recording.numbers.copy_(numbers)
        recording.repeat()
        for parameter, gradient in zip(self._parameters, recording.gradients, strict=True):
            parameter.grad = gradient

    def _new(self, index: Tensor, numbers: Tensor) -> _Recording:
        """Record batches of the size of `index`, and check that the replay gives the same results.

        Raises:
            RuntimeError: the results differ, or the network cannot be recorded.
        """
        images, drawn, device = index.clone(), numbers.clone(), index.device
        changes = list(self._changes())
        before = [tensor.detach().clone() for tensor in changes]
        random = rng.state(device)

        def work() -> None:
            self._forget_gradients()  # so that the backward pass writes instead of accumulating
            self._work(images, drawn, self._place)

        def restore() -> None:
            with torch.no_grad():
                for tensor, value in zip(changes, before, strict=True):
                    tensor.copy_(value)
            rng.restore(random, device)

        try:
            work()
            if list(map(id, self._changes())) != list(map(id, changes)):
                raise RuntimeError("the network replaces its buffers by new tensors")
            if rng.moved_on_cpu(random, rng.state(device), device):
                raise RuntimeError("the network draws random numbers on the CPU")
            expected = [*self._gradients(), *(tensor.detach().clone() for tensor in changes)]
            restore()
            repeat = self._record(work, changes)
            gradients = [parameter.grad for parameter in self._parameters]
            recording = _Recording(images, drawn, repeat, gradients)
            restore()
            repeat()
            found = [*self._gradients(), *changes]
            if not all(map(_equal, expected, found)):
                raise RuntimeError("its first replay differs from the step itself")
        finally:  # also after a failure, so that the step is done as if nothing had been tried
            restore()
        return recording

    def _gradients(self) -> list[Tensor]:
        grads = (parameter.grad for parameter in self._parameters)
        return [torch.zeros(0) if grad is None else grad.detach().clone() for grad in grads]

    def _forget_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def _refuse(self, why: str) -> None:
        self.refused = why
        self._recordings.clear()
        self._warn(f"not using a CUDA graph; operations are launched one by one ({why})")


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal, where NaN equals only NaN."""
    if one.shape != other.shape:
        return False
    both_nan = (one != one) & (other != other)
    return bool(((one == other) | both_nan).all())
