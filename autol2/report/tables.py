"""The report's tables: a row a run, a row an arm, and what they come to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..runs.identity import digest, flat
from ..sweeps.run_status import last_line
from ..sweeps.study import Record
from .arms import NAMES, in_order, summary
from .runs import Curves, path_text
from .sound import FIGURES

RULE = ("method.name", "alpha.percent", "fixed_lambda.value", "protocol.name")
"""What makes an arm, with `CONTROL` and a method's own constants; other options are the
circumstances in which arms are compared."""
CONTROL = {
    "control.penalized": "all",
    "control.parameters": "all",
    "control.scale": 1.0,
    "control.lr_factor": 1.0,
    "control.pulse_height": 0.0,
    "control.pulse_length": 0,
}
"""Options that make another arm, and what they are where there is no such change."""


@dataclass
class Tables:
    """A study in tables."""

    runs: pd.DataFrame
    """A row a run; README says what the columns are."""
    summary: pd.DataFrame
    """A row an arm."""
    attempts: pd.DataFrame
    """A row an attempt at a run: what it was made with."""
    varying: list[str]
    """The options that differ between the study's runs, seed left out."""
    common: dict[str, Any]
    """Those that all of its runs have, and their value."""
    axes: list[str]
    """Those of them that the study compares: the method, and what differs within a method."""


def tables(read: list[tuple[Record, Curves]]) -> Tables:
    """The tables of a study's runs."""
    identities = [flat(record.state.get("identity") or {}) for record, _ in read]
    varying = _varying(identities)
    telling = _telling(identities, varying)
    rows = [
        _row(record, history, identity, varying, telling)
        for (record, history), identity in zip(read, identities, strict=True)
    ]
    runs = pd.DataFrame(rows)
    places = runs["arm"].map(in_order(runs["arm"]))
    order = runs.assign(place=places).sort_values(
        ["batchnorm", "place", "seed"], ascending=[False, True, True], kind="stable"
    )
    runs = runs.loc[order.index].reset_index(drop=True)
    axes = [name for name in varying if name == "method.name" or name in telling]
    attempts = pd.DataFrame(
        {"run_id": record.run_id, **_made_with(attempt)}
        for record, _ in read
        for attempt in record.state.get("attempts") or [{}]
    )
    readable = [identity for identity in identities if identity]
    common = {
        name: value
        for name, value in (readable[0] if readable else {}).items()
        if name != "seed" and all(one.get(name) == value for one in readable)
    }
    return Tables(runs, summary(runs), attempts, varying, common, axes)


def _varying(identities: list[dict[str, Any]]) -> list[str]:
    names = sorted({name for identity in identities for name in identity} - {"seed"})
    readable = [identity for identity in identities if identity]
    return [
        name
        for name in names
        if len({json.dumps(one[name]) for one in readable if name in one}) > 1
    ]


def _telling(identities: list[dict[str, Any]], varying: list[str]) -> list[str]:
    """The options that tell two arms of one method apart."""
    methods = {identity.get("method.name") for identity in identities}
    of_method = [
        [identity for identity in identities if identity.get("method.name") == method]
        for method in methods
    ]
    differing = {name for some in of_method for name in _varying(some)}
    return [name for name in varying if name in differing]


def label(identity: dict[str, Any], telling: list[str]) -> str:
    """An arm's name for a reader: the method with its number, then the options of `telling`."""
    if not identity:
        return "?"
    method = identity["method.name"]
    words = [NAMES.get(method, method)]
    if "alpha.percent" in identity:
        words.append(f"{identity['alpha.percent']:g} %")
    if "fixed_lambda.value" in identity:
        words.append(f"{identity['fixed_lambda.value']:g}")
    for name in telling:
        if name in (*RULE, "batchnorm.enabled", "protocol.initialization"):
            continue
        if name in identity and identity[name] != CONTROL.get(name):
            words.append(f"{name.removeprefix('control.')}={_short(identity[name])}")
    if "protocol.name" in telling and "protocol.name" in identity:
        words.append(f"({identity['protocol.name']})")
    return " ".join(words)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _row(
    record: Record,
    history: Curves,
    identity: dict[str, Any],
    varying: list[str],
    telling: list[str],
) -> dict[str, Any]:
    state = record.state
    attempts = state.get("attempts") or [{}]
    last = attempts[-1]
    result, diverged = state.get("result") or {}, state.get("diverged") or {}
    arm = {name: value for name, value in identity.items() if name != "seed"}
    around = {name: value for name, value in arm.items() if name not in RULE}
    return {
        "run_id": record.run_id,
        "status": state.get("status", "broken"),
        "arm": label(identity, telling),
        "arm_digest": digest(arm),
        "context": digest(_circumstances(around)),
        "method": identity.get("method.name"),
        "precision": identity.get("precision.name"),
        "baseline": identity.get("method.name") == "fixed" and not _changed(identity),
        "batchnorm": identity.get("batchnorm.enabled"),
        "seed": identity.get("seed"),
        **{name: identity.get(name) for name in varying if name != "method.name"},
        **{name: _number(result.get(name)) for name in FIGURES},
        "epochs_done": max(history.epochs.get("epoch", [0.0]), default=0.0),
        "lambda_changes": path_text(history.lambdas),
        "shrinking_200": history.shrinking,
        "diverged_step": diverged.get("step"),
        "diverged_lambda": _number(diverged.get("lambda")),
        "attempts": len(state.get("attempts") or []),
        "seconds": sum(one.get("seconds") or 0.0 for one in attempts),
        "images_per_second": last.get("images_per_second"),
        **_made_with(last),
        "data": ((state.get("data") or {}).get("digest") or "")[:10] or None,
        "command": state.get("command"),
        "problem": last_line(state.get("error") or "") or history.problem,
    }


def _made_with(attempt: dict[str, Any]) -> dict[str, Any]:
    git = attempt.get("git") or {}
    return {
        "hardware": attempt.get("hardware"),
        "threads": attempt.get("threads"),
        "torch": attempt.get("torch"),
        "python": (attempt.get("versions") or {}).get("python"),
        "host": attempt.get("host"),
        "commit": git.get("commit"),
        "dirty": git.get("dirty"),
    }


def _circumstances(around: dict[str, Any]) -> dict[str, Any]:
    """The options of every method: its own constants do not set it apart from the baseline."""
    own = ("method.initial_lambda", "method.decay_factor", "method.cooldown", "method.final_lambda")
    gone = (*own, "method.raise_when_converged", "protocol.lambda_min", "protocol.lambda_max")
    return {
        name: value
        for name, value in around.items()
        if name not in gone and not name.startswith(("method.kappa", "control."))
    }


def _changed(identity: dict[str, Any]) -> bool:
    return any(identity.get(name, value) != value for name, value in CONTROL.items())


def _number(value: Any) -> float | None:
    """A number from JSON, where those that are not finite are strings (see `files.to_json`)."""
    return None if value is None else float(value)
