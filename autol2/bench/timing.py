"""Fair timing on a machine that does other things too.

Ways to do the same work take turns in one process, forwards and then backwards (ABBA), so that
whatever slows the machine for a while slows them all. Two ways are compared by the median of the
ratios within each pass; the ratio of a way to itself says how far to trust that.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Seconds = dict[str, list[float]]
"""Of each way, the seconds that it took in each pass."""


def wait(device: torch.device) -> None:
    """Wait until `device` has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long `work` takes."""
    wait(device)
    before = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - before


def alternate(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> Seconds:
    """Time `ways` on `device` in turns: `rounds` times forwards and backwards."""
    taken: Seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for names in (list(ways), list(ways)[::-1]):
            for name in names:
                taken[name].append(seconds(ways[name], device))
    return taken


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the quotients of what was timed in the same pass."""
    return statistics.median(pair / other for pair, other in zip(above, below, strict=True))
