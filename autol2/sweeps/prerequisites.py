"""What a sweep on a cluster needs: data and networks, checked before anything is queued.

A cluster's nodes often have no way to the network, while the machine that one submits from does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ..component import as_plain
from ..config import Config


def prepare(wanted: Iterable[Config], say: Callable[[str], None]) -> None:
    """Check the networks of runs, and fetch or check their data; what only nodes see is left.

    Args:
        wanted: the configuration of each run.
        say: is told what is done.

    Raises:
        UserError: they cannot be had.
    """
    configs = list(wanted)
    for model in {repr(as_plain(config.model)): config.model for config in configs}.values():
        model.prepare()
    different = {repr(as_plain(config.data)): config.data for config in configs}
    for _, source in sorted(different.items()):
        place = source.place
        if place is not None and len(place.parts) > 2 and not Path(*place.parts[:2]).exists():
            say(f"{place} is not on this machine: the nodes will check whether the data are there")
            continue
        if found := source.prepare():
            say(found)
