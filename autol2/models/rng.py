"""The random number generators that a network may use: PyTorch's, Python's and NumPy's."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def begin(seed: int) -> None:
    """Seed all generators."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators within the ``with`` block and restore them afterwards; CPU only."""
    before = state(torch.device("cpu"))
    begin(seed)
    try:
        yield
    finally:
        restore(before, torch.device("cpu"))


def state(device: torch.device) -> dict[str, Any]:
    """Return the states of the generators as tensors, numbers and text."""
    kind, keys, *others = np.random.get_state()
    version, numbers, last = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": [version, list(numbers), last],
        "numpy": [str(kind), np.asarray(keys).tolist(), *others],
    }


def moved_on_cpu(before: dict[str, Any], after: dict[str, Any], device: torch.device) -> bool:
    """Return whether random numbers were drawn from a generator that `device` does not use."""
    of_others = any(before[name] != after[name] for name in ("python", "numpy"))
    return of_others or (device.type == "cuda" and not torch.equal(before["torch"], after["torch"]))


def restore(known: dict[str, Any], device: torch.device) -> None:
    """Restore the generators to `known`, the result of `state`."""
    torch.set_rng_state(known["torch"])
    if known["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(known["cuda"], device)
    version, numbers, last = known["python"]
    random.setstate((version, tuple(numbers), last))
    kind, keys, *others = known["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *others))
