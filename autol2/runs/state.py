"""Read and validate a run's run.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FINISHED = ("completed", "diverged")
"""Statuses of a finished run, which is never repeated by itself."""

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
"""The figures of a completed run."""
SECONDS = "seconds"
"""The shape of a Unix time or a number of seconds."""
LATEST = 1e11
"""The largest valid time; a larger one is not a date."""
LARGEST = 2**63
"""The largest valid integer; a larger one may not fit into a float."""
SHAPE: dict[str, Any] = {
    "status": str,
    "command": str,
    "error": str,
    "updated": SECONDS,
    "steps_per_epoch": int,
    "config": {"lr": float},
    "data": {
        **{"digest": str, "root": str, "train": int, "test": int, "classes": int},
        "passed_over": {},
    },
    "code": {},
    "shown": {},
    "method": {"label": str, "baseline": bool},
    "identity": {
        "seed": int,
        "lr": float,
        "epochs": int,
        "batch_size": int,
        "method": {"name": str},
        "batchnorm": {"enabled": bool},
        "alpha": {"percent": float},
        "fixed_lambda": {"value": float},
        "precision": {"name": str},
        "protocol": {"name": str, "initialization": str},
        "control": {},
    },
    "result": dict.fromkeys(
        (*FIGURES, "final_validation_accuracy", "mean_last_tenth_validation"), float
    ),
    "diverged": {"step": int, "lambda": float},
    "progress": {
        **{"step": int, "steps": int, "epoch": int, "epochs": int},
        **{"lambda": float, "test_accuracy": float, "seconds_left": SECONDS},
    },
    "attempts": [
        {
            "pid": int,
            "host": str,
            "started": str,
            "ended": str,
            "why": str,
            "seconds": SECONDS,
            "images_per_second": float,
            "hardware": str,
            "threads": int,
            "torch": str,
            "git": {"commit": str, "dirty": bool},
            "versions": {"python": str},
        }
    ],
}
"""The entries of run.json that are used, with their shapes. All of them are optional."""


def read_state(folder: Path) -> dict[str, Any]:
    """Return the contents of a run's run.json; empty if it is missing or unusable."""
    state = content(folder)
    return (
        {} if flaw(state) else {name: value for name, value in state.items() if value is not None}
    )


def content(folder: Path) -> Any:
    """Return the raw contents of a run's run.json, valid or not; None if it cannot be read."""
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def flaw(state: Any) -> str:
    """Return why the contents of a run.json are unusable; empty if they are usable."""
    if not isinstance(state, Mapping):
        return "it is no object"
    if wrong := misshapen(dict(state), SHAPE):
        return wrong
    if state.get("status") == "running" and state.get("updated") is None:
        return "it has no updated"
    if state.get("status") == "completed" and not (state.get("result") or state.get("attempts")):
        return "it has no result"
    return ""


def misshapen(value: Any, shape: Any, path: str = "") -> str:
    """Describe what in a JSON `value` does not match `shape`; empty if all of it matches.

    The result is a phrase like ``result.final_lambda is 'x'``. A shape is a type, `SECONDS`, a dict
    of shapes by name, or a list with the one shape of all elements. None matches any shape.
    """
    if value is None:
        return ""
    parts: list[tuple[Any, Any, str]] = []
    if isinstance(shape, dict) and isinstance(value, dict):
        parts = [(value.get(name), kind, f"{path}.{name}") for name, kind in shape.items()]
    elif isinstance(shape, list) and isinstance(value, list):
        parts = [("null" if part is None else part, shape[0], path) for part in value]
    elif not _is_of_kind(value, shape):
        return f"{path.removeprefix('.')} is {value!r:.40}"
    return next(filter(None, (misshapen(*part) for part in parts)), "")


def _is_of_kind(value: Any, kind: Any) -> bool:
    if kind is float and isinstance(value, str):
        return value.lower().lstrip("-") in ("nan", "inf", "infinity")  # see `files.to_json`
    if type(value) is int and abs(value) > LARGEST:
        return False
    if kind not in (float, SECONDS):
        return type(value) is kind
    return type(value) in (int, float) and (kind is float or 0 <= value <= LATEST)


def last_attempt(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the last attempt in run.json; empty before the first."""
    attempts = state.get("attempts") or [{}]
    last: dict[str, Any] = attempts[-1]
    return last


def holder(state: dict[str, Any]) -> str:
    """Describe for a message who works in the run's directory."""
    last = last_attempt(state)
    if not last:
        return "a process that is just starting"
    job = f" (SLURM job {last['slurm_job_id']})" if last.get("slurm_job_id") else ""
    return f"process {last.get('pid')} on {last.get('host')}{job} since {last.get('started')}"


def summary(state: Mapping[str, Any]) -> str:
    """Describe in one line how a finished run ended."""
    if state["status"] == "diverged":
        where = state.get("diverged") or {}
        return (
            f"diverged: the loss is not finite at step {where.get('step')} "
            f"(epoch {where.get('epoch')}), with λ = {_number(where.get('lambda')):g}"
        )
    return (
        f"completed: test accuracy {percent(state, 'final_test_accuracy')} "
        f"(best epoch {percent(state, 'best_test_accuracy')}, "
        f"mean of the last tenth {percent(state, 'mean_last_tenth')})"
    )


def percent(state: Mapping[str, Any], name: str) -> str:
    """Format one of a run's `FIGURES`, as in ``71.25 %``."""
    return f"{_number((state.get('result') or {}).get(name)):.2f} %"


def _number(value: Any) -> float:
    """Return a number from run.json as a float; NaN if it is missing."""
    return math.nan if value is None else float(value)
