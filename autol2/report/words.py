"""Formats names and numbers for sentences, tables and figures."""

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
"""The options ``control.…``, as they appear in the names of arms."""


def number(value: float) -> str:
    """Format a number such as λ in the usual way, as in 5e-4, 0.025 and 0."""
    if value == 0 or 0.01 <= abs(value) < 1e4:
        return f"{value:.10g}"
    mantissa, _, exponent = f"{value:.9e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def signed(value: float, digits: int = 2) -> str:
    """Format a difference with its sign, but never as -0."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def seeds(count: float) -> str:
    """Format a number of seeds, as in "3 seeds"."""
    return plural(int(count), "seed")


def plural(count: float, noun: str) -> str:
    """Format a count with its noun, as in "1 seed" and "1.3 epochs"."""
    text = f"{count}" if isinstance(count, int) else f"{count:.1f}"
    return f"{text} {noun}{'' if text in ('1', '1.0') else 's'}"


def name(arm: pd.Series) -> str:
    """Return the name of an arm of the summary, with or without batch-norm if that is recorded."""
    on, label = arm["batchnorm"], arm_name(str(arm["arm"]))
    return label if pd.isna(on) else f"{label} {'with' if on else 'without'} batch-norm"


def rival(arm: pd.Series) -> str:
    """Return the name of the fixed λ that an arm is compared with, as in λ = 5e-4."""
    return arm_name(str(arm["rival"]))


def yardstick(summary: pd.DataFrame) -> str:
    """Return the term for the fixed λ that schedules are compared with, for headings."""
    chosen = set(summary["chosen_on"].dropna()) if "chosen_on" in summary else set()
    if len(chosen) > 1:
        return "fixed λ that each is compared with"
    return "fixed λ chosen by validation" if chosen == {"validation"} else "strongest fixed λ"


def listed(names: Sequence[str], most: int) -> str:
    """Join names to a list in words, with at most `most` names."""
    if len(names) > most:
        return ", ".join([*names[:most], f"and {len(names) - most} more"])
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def arm_name(label: str) -> str:
    """Convert the name of an arm in the tables to words.

    For example, ``fixed λ 1e-05 scale=0.1`` becomes ``λ = 1e-5, weights × 0.1 at the start``.
    """
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
    """Return the package's own component classes of a config group, by name."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((CONF / group).glob("*.yaml"))]
    targets = re.findall(r"^ *_target_: (\S+)", "\n".join(texts), re.MULTILINE)
    return {
        component.name: component
        for component in (locate(target, group, Component) for target in targets)
    }


def called(group: str, name: str) -> str:
    """Return the label of a component, or its name if it is not part of the package."""
    found = components(group).get(name)
    return found.label if found else name


def setting(option: str, value: Any) -> str:
    """Format an option and its value, as in ``λ = 1e-5``, ``α = 5 %`` and ``lr = 0.1``."""
    written = number(value) if isinstance(value, float) else str(value)
    if isinstance(value, bool):
        written = "on" if value else "off"
    return f"{SYMBOLS.get(option, option)} = {written}{UNITS.get(option, '')}"
