"""Fair timing of alternatives on a machine that is also used for other work.

The alternatives take turns in one process, in forward and then in reverse order (ABBA), so that a
temporary slowdown of the machine affects all of them. Two alternatives are compared by the median
of their ratios within each pass. The ratio of an alternative to itself shows how large the noise
is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Seconds = dict[str, list[float]]
"""The seconds that each alternative took in each pass."""


def wait(device: torch.device) -> None:
    """Wait until `device` has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the number of seconds that `work` takes on `device`."""
    wait(device)
    before = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - before


def alternate(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> Seconds:
    """Time alternatives in turns.

    Args:
        ways: the alternatives by name.
        rounds: the number of rounds, each with one pass in forward and one in reverse order.
        device: the device that they run on.
    """
    taken: Seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for names in (list(ways), list(ways)[::-1]):
            for name in names:
                taken[name].append(seconds(ways[name], device))
    return taken


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios of two alternatives' times in the same pass."""
    return statistics.median(pair / other for pair, other in zip(above, below, strict=True))
