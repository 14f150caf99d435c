"""The data of a sweep on a cluster: fetched before anything is queued.

A cluster's nodes often have no way to the network, while the machine that one submits from does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ..component import as_plain
from ..data.source import DataSource


def prepare(wanted: Iterable[DataSource], say: Callable[[str], None]) -> None:
    """Fetch or check the data that runs need; what only nodes can see is left.

    Args:
        wanted: the data of each run.
        say: is told what is done.

    Raises:
        UserError: they cannot be had.
    """
    different = {repr(as_plain(source)): source for source in wanted}
    for _, source in sorted(different.items()):
        place = source.place
        if place is not None and len(place.parts) > 2 and not Path(*place.parts[:2]).exists():
            say(f"{place} is not on this machine: the nodes will check whether the data are there")
            continue
        if found := source.prepare():
            say(found)
