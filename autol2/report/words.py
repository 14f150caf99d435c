"""Names and numbers as a reader expects them in a sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd


def number(value: float) -> str:
    """A λ as people write it: 5e-4, 0.025, 0."""
    if value == 0 or 0.01 <= abs(value) < 1e4:
        return f"{value:.10g}"
    mantissa, _, exponent = f"{value:.9e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign, never -0."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def seeds(count: float) -> str:
    """As in 3 seeds."""
    return plural(int(count), "seed")


def plural(count: float, noun: str) -> str:
    """As in 1 seed, 1.3 epochs."""
    text = f"{count}" if isinstance(count, int) else f"{count:.1f}"
    return f"{text} {noun}{'' if text in ('1', '1.0') else 's'}"


def name(arm: pd.Series) -> str:
    """An arm of the summary, with its batch-norm where the run said whether it had one."""
    on = arm["batchnorm"]
    if pd.isna(on):
        return str(arm["arm"])
    return f"{arm['arm']} {'with' if on else 'without'} batch-norm"


def rival(arm: pd.Series) -> str:
    """The fixed λ that an arm is compared with, as in λ = 5e-4."""
    label, value = str(arm["rival"]), arm["rival_lambda"]
    if pd.isna(value):
        return label
    return re.sub(
        rf"^(fixed )?(.*)λ {re.escape(f'{value:g}')}", rf"\2λ = {number(float(value))}", label
    )


def listed(names: Sequence[str], most: int) -> str:
    """Names after each other, at most so many."""
    few = names if len(names) <= most else [*names[:most], f"and {len(names) - most} more"]
    return ", ".join(few)
