"""The data of a sweep on a cluster: fetched before anything is queued.

A cluster's nodes often have no way to the network, while the machine that one submits from does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ..config import DataConfig


def prepare(wanted: Iterable[DataConfig], say: Callable[[str], None]) -> None:
    """Fetch the CIFAR-10 that runs need and that is missing; what only nodes can see is left.

    Args:
        wanted: the data of each run.
        say: is told what is done.

    Raises:
        UserError: it cannot be fetched here.
    """
    cifar = {(one.root, one.url) for one in wanted if one.source == "cifar10" and one.root}
    for root, url in sorted(cifar, key=str):
        folder = Path(root or "").expanduser().absolute()
        if (folder / "cifar-10-batches-py").exists():
            continue
        if len(folder.parts) > 2 and not Path(*folder.parts[:2]).exists():
            say(f"{folder} is not on this machine: whether CIFAR-10 is there, the nodes will see")
            continue
        say(f"CIFAR-10 is not in {folder}: fetching it now, before anything is queued")
        from ..data import cifar10

        cifar10.load(root, url)
