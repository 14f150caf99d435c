"""Names and numbers as a reader expects them in sentences, tables and figures."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..cli.overrides import CONF
from ..component import Component, locate

SYMBOLS = {"fixed_lambda.value": "λ", "alpha.percent": "α", "protocol.lambda_max": "largest λ"}
UNITS = {"alpha.percent": " %"}
CONTROLS = ("penalized", "parameters", "scale", "lr_factor", "pulse_height", "pulse_length")
"""The options ``control.…``, as they stand in an arm's name."""


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
    on, label = arm["batchnorm"], arm_name(str(arm["arm"]))
    return label if pd.isna(on) else f"{label} {'with' if on else 'without'} batch-norm"


def rival(arm: pd.Series) -> str:
    """The fixed λ that an arm is compared with, as in λ = 5e-4."""
    return arm_name(str(arm["rival"]))


def yardstick(summary: pd.DataFrame) -> str:
    """What the fixed λ that schedules are compared with is called, for headings."""
    chosen = set(summary["chosen_on"].dropna()) if "chosen_on" in summary else set()
    if len(chosen) > 1:
        return "fixed λ that each is compared with"
    return "fixed λ chosen by validation" if chosen == {"validation"} else "strongest fixed λ"


def listed(names: Sequence[str], most: int) -> str:
    """Names after each other, at most so many."""
    if len(names) > most:
        return ", ".join([*names[:most], f"and {len(names) - most} more"])
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def arm_name(label: str) -> str:
    """An arm of the tables in words: ``fixed λ 1e-05 scale=0.1`` is ``λ = 1e-5, weights × 0.1 at
    the start``."""
    name = re.sub(
        r"\bλ (\d+(?:\.\d+)?(?:e[+-]?\d+)?)", lambda found: f"λ = {number(float(found[1]))}", label
    )
    name = name.removeprefix("fixed ") if name.startswith("fixed λ =") else name
    controls = dict(re.findall(rf" ({'|'.join(CONTROLS)})=(\S+)", name))
    if not controls:
        return name
    name = re.sub(rf" ({'|'.join(CONTROLS)})=\S+", "", name)
    where = controls.get("parameters", "weights")
    said = {
        "scale": f"{where} × {controls.get('scale')} at the start",
        "lr_factor": f"lr × {controls.get('lr_factor')}"
        + (f" of {where}" if "parameters" in controls else ""),
        "pulse_length": f"λ = {controls.get('pulse_height', '0')} for "
        f"{plural(int(controls.get('pulse_length', 0)), 'step')}",
        "penalized": f"penalty on {controls.get('penalized')} only",
    }
    return ", ".join([name, *(words for option, words in said.items() if option in controls)])


@functools.cache
def components(group: str) -> dict[str, Any]:
    """The package's own classes of a config group, by their names."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((CONF / group).glob("*.yaml"))]
    targets = re.findall(r"^ *_target_: (\S+)", "\n".join(texts), re.MULTILINE)
    return {
        component.name: component
        for component in (locate(target, group, Component) for target in targets)
    }


def called(group: str, name: str) -> str:
    """What a component is called for a reader; one that is not the package's, by its name."""
    found = components(group).get(name)
    return found.label if found else name


def setting(option: str, value: Any) -> str:
    """An option and its value, as in ``λ = 1e-5``, ``α = 5 %`` or ``lr = 0.1``."""
    written = number(value) if isinstance(value, float) else str(value)
    if isinstance(value, bool):
        written = "on" if value else "off"
    return f"{SYMBOLS.get(option, option)} = {written}{UNITS.get(option, '')}"
