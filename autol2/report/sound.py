"""Whether a run.json is one that a report can use: a run whose is not is listed as broken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..runs.identity import flat

STATUSES = ("running", "completed", "diverged", "failed", "interrupted")
FIGURES = (
    "final_test_accuracy",
    "best_test_accuracy",
    "mean_last_tenth",
    "best_epoch",
    "final_test_loss",
    "final_train_loss",
    "final_train_accuracy",
    "final_lambda",
)
"""What a completed run came to."""
SHAPE: dict[str, Any] = {
    "status": str,
    "command": str,
    "error": str,
    "steps_per_epoch": int,
    "config": {"lr": float},
    "data": {"digest": str, "train": int, "test": int, "classes": int, "passed_over": {}},
    "method": {"label": str, "baseline": bool},
    "identity": {
        "seed": int,
        "lr": float,
        "method": {"name": str},
        "batchnorm": {"enabled": bool},
        "alpha": {"percent": float},
        "fixed_lambda": {"value": float},
        "precision": {"name": str},
        "protocol": {"name": str},
        "control": {},
    },
    "result": dict.fromkeys(FIGURES, float),
    "diverged": {"step": int, "lambda": float},
    "progress": {"step": int, "steps": int},
    "attempts": [
        {
            "seconds": float,
            "images_per_second": float,
            "hardware": str,
            "threads": int,
            "torch": str,
            "host": str,
            "git": {"commit": str, "dirty": bool},
            "versions": {"python": str},
        }
    ],
}
"""What the report reads of a run.json, where it is there."""
ALWAYS = ("identity", "steps_per_epoch", "config.lr")
NEEDED = {
    "completed": (*ALWAYS, *(f"result.{name}" for name in FIGURES[:3])),
    "diverged": (*ALWAYS, "diverged.step", "diverged.lambda"),
}
"""What must be there in the run.json of a run with a result."""


def fault(state: Mapping[str, Any]) -> str:
    """What is wrong with a run.json; empty where nothing is."""
    if not state:
        return "run.json is missing or cannot be read"
    where = (
        _misshapen(dict(state), SHAPE, "").removeprefix(".")
        or _missing(state)
        or _out_of_range(state)
    )
    return where and f"run.json cannot be used: {where}"


def _misshapen(value: Any, shape: Any, path: str) -> str:
    """Where `value` is not of `shape`; what is None need not be there."""
    if value is None:
        return ""
    if isinstance(shape, dict) and isinstance(value, dict):
        parts = [(value.get(name), kind, f"{path}.{name}") for name, kind in shape.items()]
    elif isinstance(shape, list) and isinstance(value, list):
        parts = [("null" if one is None else one, shape[0], path) for one in value]
    else:
        ok = _is_number(value) if shape is float else type(value) is shape
        return "" if ok else f"{path} is {value!r:.40}"
    return next(filter(None, (_misshapen(*part) for part in parts)), "")


def _is_number(value: Any) -> bool:
    """Whether it is one, or a string for one that is not finite (see `files.to_json`)."""
    if isinstance(value, str):
        return value in ("nan", "inf", "-inf")
    return isinstance(value, int | float) and not isinstance(value, bool)


def _missing(state: Mapping[str, Any]) -> str:
    needed = ["status", *NEEDED.get(state.get("status", ""), ())]
    if state.get("identity") is not None:
        needed += ["identity.seed", "identity.method.name"]
        numbers = ("alpha.percent", "fixed_lambda.value")
        needed += [f"identity.{one}" for one in numbers if one.split(".")[0] in state["identity"]]
    there = {name for name, value in flat(state).items() if value is not None}
    there |= {name for name, value in state.items() if value}
    return next((f"it has no {name}" for name in needed if name not in there), "")


def _out_of_range(state: Mapping[str, Any]) -> str:
    if state["status"] not in STATUSES:
        return f"status is {state['status']!r}"
    if state.get("steps_per_epoch") is not None and state["steps_per_epoch"] < 1:
        return f"steps_per_epoch is {state['steps_per_epoch']}"
    if state["status"] == "completed":
        for name in FIGURES[:3]:
            if not math.isfinite(float(state["result"][name])):
                return f"result.{name} is {state['result'][name]}"
    return ""
