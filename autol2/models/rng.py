"""The random numbers that a network may draw: PyTorch's, Python's and NumPy's."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def begin(seed: int) -> None:
    """Seed all of the generators."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeded within the ``with`` block, and afterwards as before; for what is done on the CPU."""
    before = state(torch.device("cpu"))
    begin(seed)
    try:
        yield
    finally:
        restore(before, torch.device("cpu"))


def state(device: torch.device) -> dict[str, Any]:
    """Where the generators stand, as tensors, numbers and text."""
    kind, keys, *others = np.random.get_state()
    version, numbers, last = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": [version, list(numbers), last],
        "numpy": [str(kind), np.asarray(keys).tolist(), *others],
    }


def moved_on_cpu(before: dict[str, Any], after: dict[str, Any], device: torch.device) -> bool:
    """Whether anything was drawn in between that work on `device` does not draw there."""
    of_others = any(before[name] != after[name] for name in ("python", "numpy"))
    return of_others or (device.type == "cuda" and not torch.equal(before["torch"], after["torch"]))


def restore(known: dict[str, Any], device: torch.device) -> None:
    """Let the generators go on from `known`, a `state`."""
    torch.set_rng_state(known["torch"])
    if known["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(known["cuda"], device)
    version, numbers, last = known["python"]
    random.setstate((version, tuple(numbers), last))
    kind, keys, *others = known["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *others))
