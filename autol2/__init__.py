"""autol2: does an L2 schedule beat a fixed λ? Runs that can be trusted, and the schedules to use.

`AutoL2` is the controller for your own training loop, and `record` makes its runs a study that
``python -m autol2.report`` reads; `replay` runs a `Rule` over recorded measurements. Each is loaded
when it is first asked for, so that importing `AutoL2` loads torch and nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .replay import replay as replay
    from .report.recording import record as record
    from .rules.auto_l2 import AutoL2 as AutoL2
    from .rules.controller import Controller as Controller
    from .rules.controller import Decision as Decision
    from .rules.controller import Rule as Rule

_HOMES = {
    "AutoL2": "rules.auto_l2",
    "Controller": "rules.controller",
    "Decision": "rules.controller",
    "Rule": "rules.controller",
    "record": "report.recording",
    "replay": "replay",
}

__all__ = ["AutoL2", "Controller", "Decision", "Rule", "record", "replay"]


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    # Kept, since importing the module autol2.replay has put itself in the function's place.
    globals()[name] = value
    return value
