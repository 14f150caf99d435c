"""Validation of run.json files; a run whose file is not valid is listed as broken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..runs.identity import flat
from ..runs.state import FIGURES, flaw

STATUSES = ("running", "completed", "diverged", "failed", "interrupted")
ALWAYS = ("identity", "steps_per_epoch", "config.lr")
NEEDED = {
    "completed": (*ALWAYS, *(f"result.{name}" for name in FIGURES[:3])),
    "diverged": (*ALWAYS, "diverged.step", "diverged.lambda"),
}
"""The entries that run.json must have, for each status of a run with a result."""


def fault(state: Mapping[str, Any]) -> str:
    """Describe what is wrong with the content of a run.json; empty if it is valid."""
    if not state:
        return "run.json is missing or cannot be read"
    where = flaw(state) or _missing(state) or _out_of_range(state)
    return where and f"run.json cannot be used: {where}"


def _missing(state: Mapping[str, Any]) -> str:
    needed = ["status", *NEEDED.get(state.get("status", ""), ())]
    if state.get("identity") is not None:
        needed += ["identity.seed", "identity.method.name"]
        numbers = ("alpha.percent", "fixed_lambda.value")
        needed += [
            f"identity.{name}" for name in numbers if name.split(".")[0] in state["identity"]
        ]
    there = {name for name, value in flat(state).items() if value is not None}
    there |= {name for name, value in state.items() if value}
    return next((f"it has no {name}" for name in needed if name not in there), "")


def _out_of_range(state: Mapping[str, Any]) -> str:
    if state["status"] not in STATUSES:
        return f"status is {state['status']!r}"
    if state.get("steps_per_epoch") is not None and state["steps_per_epoch"] < 1:
        return f"steps_per_epoch is {state['steps_per_epoch']}"
    for name, value in (state.get("data") or {}).items():
        if name in ("classes", "train", "test") and value is not None and value < 1:
            return f"data.{name} is {value}"
    if state["status"] == "completed":
        for name in FIGURES[:3]:
            if not math.isfinite(float(state["result"][name])):
                return f"result.{name} is {state['result'][name]}"
    return ""
