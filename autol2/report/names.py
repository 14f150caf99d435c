"""How arms and options are called in tables and figures."""

from __future__ import annotations

import re
from typing import Any

from .words import number

SYMBOLS = {"fixed_lambda.value": "λ", "alpha.percent": "α", "protocol.lambda_max": "largest λ"}
UNITS = {"alpha.percent": " %"}


def arm_name(label: str) -> str:
    """An arm of the tables, with λ as people write it: ``fixed λ 1e-05`` is ``λ = 1e-5``."""
    name = re.sub(r"\bλ (\d[\d.e+-]*)", lambda found: f"λ = {number(float(found[1]))}", label)
    return name.removeprefix("fixed ") if name.startswith("fixed λ =") else name


def setting(option: str, value: Any) -> str:
    """An option and its value, as in ``λ = 1e-5``, ``α = 5 %`` or ``lr = 0.1``."""
    written = number(value) if isinstance(value, float) else str(value)
    if isinstance(value, bool):
        written = "on" if value else "off"
    return f"{SYMBOLS.get(option, option)} = {written}{UNITS.get(option, '')}"
