"""autol2: does an L2 schedule beat a fixed λ? Runs that can be trusted, and the schedules to use.

`AutoL2` is the controller for your own training loop, loaded when it is first asked for;
``autol2.replay.replay`` shows what a rule decides on recorded measurements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .penalty import AutoL2 as AutoL2

__all__ = ["AutoL2"]


def __getattr__(name: str) -> object:
    if name != "AutoL2":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .penalty import AutoL2

    return AutoL2
