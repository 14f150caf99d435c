"""Curves that give λ as a function of the step."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, first: float, last: float) -> float:
    """Follow half a cosine from `first` at step 0 to `last` at step `steps`, then stay.

    DINO's weight decay follows this curve from 0.04 to 0.4 (Caron et al., 2021, "Emerging
    properties in self-supervised vision transformers", ICCV, section 3.2).
    """
    done = min(step, steps) / steps
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


def linear(step: int, steps: int, first: float, last: float) -> float:
    """Follow a straight line from `first` at step 0 to `last` at step `steps`, then stay."""
    done = min(step, steps) / steps
    return first + (last - first) * done
