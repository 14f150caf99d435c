"""Check the data and networks of a cluster's sweep before anything is queued.

A cluster's nodes often cannot reach the internet, while the login node can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ..component import as_plain
from ..config import Config


def prepare(wanted: Iterable[Config], say: Callable[[str], None]) -> None:
    """Check the networks of runs, and download or check their data.

    Data that only the nodes can see are not checked.

    Args:
        wanted: the configuration of each run.
        say: called with a line about what was found.

    Raises:
        UserError: the data or the networks are not available.
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
