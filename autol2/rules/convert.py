"""Convert the strength of weight decay between the conventions in use."""

from __future__ import annotations

import math
from typing import Literal

Convention = Literal["sum", "half", "weight_decay", "per_step"]

_IN_WEIGHT_DECAY = {"sum": 2.0, "half": 1.0, "weight_decay": 1.0}


def convert(value: float, source: Convention, target: Convention, lr: float = math.nan) -> float:
    """Convert a strength of weight decay to another convention.

    Args:
        value: the strength in the convention `source`.
        source: one of

            - ``sum``: λ of the penalty λ·Σθ² (the paper, this package);
            - ``half``: λ of the penalty ½·λ·‖θ‖² (Lewkowycz & Gur-Ari, 2020, and most textbooks);
            - ``weight_decay``: torch's argument, for coupled (SGD, Adam) and decoupled (AdamW)
              optimizers alike;
            - ``per_step``: the share of the weights that each step removes, if the decay is not
              multiplied by the learning rate (Loshchilov & Hutter, 2019, equation 12, with η = 1).
        target: one of the same conventions.
        lr: the learning rate; only needed from or to ``per_step``.

    Returns:
        The strength in the convention `target`. Equal strengths remove the same share of the
        weights at each step of plain SGD. An adaptive optimizer scales a coupled decay like the
        gradient, so no number makes it equal to a decoupled one.

    Raises:
        ValueError: a convention is unknown, or the learning rate is needed but missing.
    """
    known = (*_IN_WEIGHT_DECAY, "per_step")
    for convention in (source, target):
        if convention not in known:
            raise ValueError(f"{convention!r} is not one of {', '.join(known)}")
    if source == target:
        return float(value)
    if "per_step" in (source, target) and not (0 < lr < math.inf):
        raise ValueError("per_step needs the learning rate, a number above 0: lr=0.01")
    in_weight_decay = {**_IN_WEIGHT_DECAY, "per_step": 1 / float(lr) if lr else math.nan}
    return float(value) * in_weight_decay[source] / in_weight_decay[target]
