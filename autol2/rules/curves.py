"""λ as a function of the step alone."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, first: float, last: float) -> float:
    """Half a cosine from `first` at step 0 to `last` at `steps` and after it.

    DINO moves its weight decay so, from 0.04 to 0.4 (Caron et al., 2021, "Emerging properties in
    self-supervised vision transformers", ICCV, section 3.2).
    """
    done = min(step, steps) / steps
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


def linear(step: int, steps: int, first: float, last: float) -> float:
    """A straight line from `first` at step 0 to `last` at `steps` and after it."""
    done = min(step, steps) / steps
    return first + (last - first) * done
