"""How numbers and options are written for a reader."""

from __future__ import annotations

import math
from typing import Any

SYMBOLS = {"fixed_lambda.value": "λ", "alpha.percent": "α", "protocol.lambda_max": "largest λ"}
UNITS = {"alpha.percent": " %"}


def number(value: float) -> str:
    """A number as people write it: 0.01, 5e-4, 1e-5, 20000."""
    if not math.isfinite(value) or value == 0 or 1e-3 < abs(value) < 1e6:
        return f"{value:.4g}" if abs(value) < 1000 or not math.isfinite(value) else f"{value:.0f}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def setting(option: str, value: Any) -> str:
    """An option and its value, as in ``λ = 1e-5``, ``α = 5 %`` or ``lr = 0.1``."""
    written = number(value) if isinstance(value, float) else str(value)
    if isinstance(value, bool):
        written = "on" if value else "off"
    return f"{SYMBOLS.get(option, option)} = {written}{UNITS.get(option, '')}"
