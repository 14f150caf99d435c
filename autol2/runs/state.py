"""What a run's run.json says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FINISHED = ("completed", "diverged")
"""The statuses of a run that is never done again."""


def read_state(folder: Path) -> dict[str, Any]:
    """What a run's run.json says; empty where there is none or it cannot be used."""
    try:
        state = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if _usable(state) else {}


PARTS = ("result", "progress", "config", "identity", "data", "method", "diverged", "code")
"""What of a run.json are objects."""


def _is_figure(value: Any) -> bool:
    """Whether it is a number, or null, or one that is not finite, as JSON has it: a string."""
    if isinstance(value, str):
        return value.lstrip("-").lower() in ("nan", "inf", "infinity")
    return value is None or isinstance(value, int | float)


def _usable(state: Any) -> bool:
    """Whether it is the content of a run.json, as far as every command relies on it."""
    if not isinstance(state, dict) or not isinstance(state.get("status", ""), str):
        return False
    attempts = state.get("attempts", [])
    figures = state.get("result") or {}
    return (
        isinstance(attempts, list)
        and all(isinstance(one, dict) for one in attempts)
        and all(isinstance(one.get("pid") or 0, int) for one in attempts)
        and isinstance(state.get("updated", 0.0), int | float)
        and all(isinstance(state.get(one) or {}, dict) for one in PARTS)
        and all(_is_figure(one) for one in figures.values())
        and (state.get("status") != "completed" or bool(state.get("result") or attempts))
    )


def last_attempt(state: dict[str, Any]) -> dict[str, Any]:
    """What run.json says of the run's last attempt; empty before the first."""
    attempts = state.get("attempts") or [{}]
    last: dict[str, Any] = attempts[-1]
    return last


def holder(state: dict[str, Any]) -> str:
    """Who works in the run's directory, as a message names it."""
    last = last_attempt(state)
    if not last:
        return "a process that is just starting"
    job = f" (SLURM job {last['slurm_job_id']})" if last.get("slurm_job_id") else ""
    return f"process {last.get('pid')} on {last.get('host')}{job} since {last.get('started')}"


def summary(state: dict[str, Any]) -> str:
    """How a finished run ended, in a line."""
    if state["status"] == "diverged":
        where = state["diverged"]
        return (
            f"diverged: the loss is not finite at step {where['step']} "
            f"(epoch {where['epoch']}), with λ = {where['lambda']:g}"
        )
    figures = state["result"]
    return (
        f"completed: test accuracy {figures['final_test_accuracy']:.2f} % "
        f"(best epoch {figures['best_test_accuracy']:.2f} %, "
        f"mean of the last tenth {figures['mean_last_tenth']:.2f} %)"
    )
