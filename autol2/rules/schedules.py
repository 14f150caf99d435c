"""λ as a function of the step alone: the schedules that look at no measurement."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..config import Config


def schedule(config: Config, steps: int) -> Callable[[int], float] | None:
    """λ of a step, given its number from 0; None where the method decides otherwise.

    cosine
        From `method.initial_lambda` at the first step to `method.final_lambda` at the last, along
        half a cosine, as DINO moves its weight decay from 0.04 to 0.4 (Caron et al., 2021,
        "Emerging properties in self-supervised vision transformers", ICCV, section 3.2 and the
        authors' ``cosine_scheduler``).
    fixed, decoupled
        `fixed_lambda`, after `control.pulse_height` for the first `control.pulse_length` steps.
    """
    method, control = config.method, config.control
    if method.name == "cosine":
        first, last = method.initial_lambda, method.final_lambda
        return lambda step: last + (first - last) * (1 + math.cos(math.pi * step / steps)) / 2
    if method.name in ("fixed", "decoupled"):
        value = config.fixed_lambda.value
        return lambda step: control.pulse_height if step < control.pulse_length else value
    return None
