"""autol2: find out whether an L2 schedule beats a fixed λ, and use schedules in your own loop.

`AutoL2` is the controller for your own training loop; the weight decay schedules have the same
interface. `record` turns such trainings into a study that ``python -m autol2.report`` reads, and
`replay` runs a `Rule` over recorded measurements. Each name is imported when it is first used, so
that importing `AutoL2` loads torch and nothing else.
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
    from .rules.convert import convert as convert
    from .rules.lambda_scheduler import LambdaScheduler as LambdaScheduler
    from .rules.rule import Rule as Rule
    from .rules.step_mean import StepMean as StepMean
    from .rules.weight_decay_schedules import CosineWeightDecay as CosineWeightDecay
    from .rules.weight_decay_schedules import FollowLR as FollowLR
    from .rules.weight_decay_schedules import LinearWeightDecay as LinearWeightDecay

_HOMES = {
    "AutoL2": "rules.auto_l2",
    "Controller": "rules.controller",
    "CosineWeightDecay": "rules.weight_decay_schedules",
    "Decision": "rules.controller",
    "FollowLR": "rules.weight_decay_schedules",
    "LambdaScheduler": "rules.lambda_scheduler",
    "LinearWeightDecay": "rules.weight_decay_schedules",
    "Rule": "rules.rule",
    "StepMean": "rules.step_mean",
    "convert": "rules.convert",
    "record": "report.recording",
    "replay": "replay",
}

__all__ = [
    "AutoL2",
    "Controller",
    "CosineWeightDecay",
    "Decision",
    "FollowLR",
    "LambdaScheduler",
    "LinearWeightDecay",
    "Rule",
    "StepMean",
    "convert",
    "record",
    "replay",
]


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


if not TYPE_CHECKING:  # a type checker that saw this function would accept any name

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        # Cached, because importing the module autol2.replay replaces the function of that name.
        globals()[name] = value
        return value
