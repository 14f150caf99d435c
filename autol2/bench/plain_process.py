"""Runs the plain loop in a separate process.

Memory allocators are configured per process, and `autol2.models.kernels.allocator` cannot be
undone: memory that it has kept is used again. The authors' loop therefore runs in another process
with the default allocator of the C library. That process waits while our loop is timed.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn

from ..config import Config
from ..data.dataset import Dataset
from .reference import PlainLoop


class PlainProcess:
    """A `PlainLoop` in a separate process, with the same arguments and methods."""

    def __init__(
        self, config: Config, model: nn.Module, data: Dataset, device: torch.device
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        arguments = (other, torch.get_num_threads(), config, model, data, device)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        other.close()

    def __enter__(self) -> PlainProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()
        self._process.join()

    def steps(self, count: int) -> None:
        """Take `count` optimizer steps."""
        self._ask("steps", count)

    def evaluate(self) -> None:
        """Compute the loss and accuracy on the test images."""
        self._ask("evaluate")

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the parameters and buffers of the network by name, on the CPU."""
        return {name: torch.from_numpy(value) for name, value in self._ask("weights").items()}

    def _ask(self, *words: object) -> Any:
        self._connection.send(words)
        return self._connection.recv()


def _serve(connection: Connection, threads: int, *arguments: Any) -> None:
    torch.set_num_threads(threads)
    loop = PlainLoop(*arguments)
    while True:
        try:
            method, *values = connection.recv()
        except EOFError:
            return
        connection.send(getattr(loop, method)(*values))
