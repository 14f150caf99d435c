"""The strength of weight decay in the conventions that people write it in."""

from __future__ import annotations

import math
from typing import Literal

Convention = Literal["sum", "half", "weight_decay", "per_step"]

_IN_WEIGHT_DECAY = {"sum": 2.0, "half": 1.0, "weight_decay": 1.0}


def convert(value: float, source: Convention, target: Convention, lr: float = math.nan) -> float:
    """The same strength of decay in another convention.

    Args:
        value: the strength in the convention `source`.
        source: one of

            - ``sum``: λ of the penalty λ·Σθ² (the paper, this package);
            - ``half``: λ of the penalty ½·λ·‖θ‖² (Lewkowycz & Gur-Ari, 2020, and most textbooks);
            - ``weight_decay``: torch's argument, of coupled (SGD, Adam) and of decoupled
              (AdamW) optimizers alike;
            - ``per_step``: the share that each step takes off the weights, where decay is not
              multiplied by the learning rate (Loshchilov & Hutter, 2019, equation 12, with η = 1).
        target: likewise.
        lr: the learning rate; needed only from or to ``per_step``.

    Returns:
        The strength in the convention `target`. Equal strengths take the same share off the weights
        at each step of plain SGD. An adaptive optimizer scales a coupled decay as it does the
        gradient; no number makes it equal to a decoupled one.

    Raises:
        ValueError: an unknown convention, or no learning rate where one is needed.
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
