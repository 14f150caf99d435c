"""Builds the tables of the report, with one row per run, per arm, or per evaluation."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.images import in_words
from ..runs.identity import digest, flat
from ..runs.result import late
from ..runs.state import FIGURES
from ..storage.files import write_atomically
from ..sweeps.run_status import last_line
from ..sweeps.study import Record
from . import speed
from .arms import Question, in_order, summary
from .runs import Curves, path_text
from .words import called

RULE = ("method.name", "alpha.percent", "fixed_lambda.value", "protocol.name")
"""Options that define an arm, together with `CONTROL` and the constants of the method.

All other options define the context in which arms are compared.
"""
CONTROL = {
    "control.penalized": "all",
    "control.parameters": "all",
    "control.scale": 1.0,
    "control.lr_factor": 1.0,
    "control.pulse_height": 0.0,
    "control.pulse_length": 0,
}
"""Options of control experiments, which also define an arm, with their neutral values."""
PROBLEM = {
    *("data", "dataset", "task", "model", "network", "architecture", "backbone"),
    *("batchnorm", "precision", "epochs"),
}
"""Options and groups that define the problem: the data, the network, and the length of training.

The other options of a context can be tuned, for a schedule as well as for a fixed λ.
"""
ALIKE = "data (digest)"
"""The entry of a context for the digest of the data, because different data may have one name."""
COLLAPSED = 3.0
"""Number of standard errors above chance level within which a run counts as at chance level."""
LEFT_OUT = ("highs", "evaluated", "batchnorm.enabled", "problem_digest", "passed_over")
"""Columns of the table of runs that are not written to CSV files."""
RESERVED = {
    *("run_id", "arm", "arm_digest", "baseline", "context", "problem_digest", "problem", "command"),
    *("accuracy", "evaluations", "validation", "chance", "collapsed", "attempts", *FIGURES),
    *("highs", "evaluated", "epochs_done", "seconds_per_epoch", "epochs_to_best", "steps_to_best"),
    *("area_under_curve", "lambda_changes", "shrinking_200", "diverged_step", "diverged_lambda"),
    *("images_per_second", "dirty", "passed_over"),
}
"""Columns of the table of runs, whose names an option of a run must not have."""


@dataclass
class Tables:
    """The tables of a study."""

    runs: pd.DataFrame
    """One row per run; the README documents the columns."""
    summary: pd.DataFrame
    """One row per arm."""
    attempts: pd.DataFrame
    """One row per attempt at a run, with the hardware and the versions that it used."""
    varying: list[str]
    """The options that differ between the runs of the study, except for the seed."""
    common: dict[str, Any]
    """The options that are the same in all runs, with their values."""
    axes: list[str]
    """The `varying` options that the study compares: the method, and what varies within one."""
    epochs: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row per run and evaluated epoch."""
    fits: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The fits of the steps to the best test accuracy against λ; see `speed.fits`."""


def tables(
    read: list[tuple[Record, Curves]],
    question: Question = Question(),  # noqa: B008 (it is frozen)
) -> Tables:
    """Build the tables of a study.

    Args:
        read: the record and the history of each run.
        question: the target and the margin.
    """
    identities = [_plain(record.state.get("identity") or {}) for record, _ in read]
    varying = _varying(identities)
    telling = _telling(identities, varying)
    circumstances = [
        _circumstances(identity, _data(record))
        for (record, _), identity in zip(read, identities, strict=True)
    ]
    named: dict[Any, set[str | None]] = {}
    for (record, _), identity in zip(read, identities, strict=True):
        named.setdefault(identity.get("data.name"), set()).add(_data(record))
    rows = [
        _row(record, history, identity, around, varying, telling)
        | _several_data(record, named[identity.get("data.name")] - {None})
        for (record, history), identity, around in zip(read, identities, circumstances, strict=True)
    ]
    for row in rows:
        row["arm"] += row.pop("of_data")
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
        if name != "seed" and all(entry.get(name) == value for entry in readable)
    }
    known = {digest_of(around): around for around in circumstances}
    steady = [name for name, around in known.items() if speed.lr_stays(around)]
    return Tables(
        runs,
        summary(runs, question, known),
        attempts,
        varying,
        common,
        axes,
        _long(runs, {record.run_id: history for record, history in read}),
        speed.fits(runs[runs["context"].isin(steady)]),
    )


def _several_data(record: Record, digests: set[str | None]) -> dict[str, str]:
    """Return the suffix that an arm's name needs if different data have the same name."""
    mine = _data(record)
    return {"of_data": f" on data {mine}" if len(digests) > 1 and mine else ""}


def _long(runs: pd.DataFrame, histories: dict[str, Curves]) -> pd.DataFrame:
    """Concatenate the evaluations of all runs, in the order of the table of runs."""
    parts = []
    for _, run in runs.iterrows():
        history = histories[run["run_id"]]
        if not history.epochs.get("epoch"):
            continue
        part = pd.DataFrame(history.epochs)
        length = run["steps_per_epoch"]
        steps = np.nan if length is None or math.isnan(length) else length
        part.insert(1, "step", (part["epoch"] * steps).round())
        for place, name in enumerate(("run_id", "arm", "method", "batchnorm", "seed")):
            part.insert(place, name, run[name])
        parts.append(part)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _varying(identities: list[dict[str, Any]]) -> list[str]:
    """Return the options that have several values, or that only some runs of a method have.

    An identity does not contain an option that has its neutral value.
    """
    names = sorted({name for identity in identities for name in identity} - {"seed"})
    return [
        name
        for name in names
        if len({json.dumps(identity[name]) for identity in identities if name in identity}) > 1
        or any(
            0 < sum(name in identity for identity in of) < len(of) for of in _by_method(identities)
        )
    ]


def _by_method(identities: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    methods: dict[Any, list[dict[str, Any]]] = {}
    for identity in identities:
        if identity:
            methods.setdefault(identity.get("method.name"), []).append(identity)
    return list(methods.values())


def _telling(identities: list[dict[str, Any]], varying: list[str]) -> list[str]:
    """Return the options that distinguish arms of the same method."""
    differing = {name for some in _by_method(identities) for name in _varying(some)}
    return [name for name in varying if name in differing]


def method_of(state: dict[str, Any], identity: dict[str, Any]) -> tuple[str, bool]:
    """Return the label of a run's method, and whether it is a fixed λ to compare schedules with.

    Both are read from run.json, or derived from the options if an older run.json does not have
    them.
    """
    said, name = state.get("method") or {}, str(identity.get("method.name"))
    label = said.get("label") or called("method", name)
    changed = any(identity.get(option, value) != value for option, value in CONTROL.items())
    return label, said.get("baseline", name == "fixed") and not changed


def label(identity: dict[str, Any], telling: list[str], method: str | None = None) -> str:
    """Return the name of an arm: its method with its number, followed by the `telling` options.

    Args:
        identity: the options of a run of the arm.
        telling: the options to include in the name.
        method: the label of the method; None to look it up.
    """
    if not identity:
        return "?"
    name = identity["method.name"]
    words = [method or called("method", name)]
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
    around: dict[str, Any],
    varying: list[str],
    telling: list[str],
) -> dict[str, Any]:
    state = record.state
    attempts = state.get("attempts") or [{}]
    last = attempts[-1]
    result, diverged = state.get("result") or {}, state.get("diverged") or {}
    method, baseline = method_of(state, identity)
    seconds = sum(attempt.get("seconds") or 0.0 for attempt in attempts)
    options = {name: identity.get(name) for name in ("fixed_lambda.value", *varying)}
    problem = {
        name: value
        for name, value in around.items()
        if name == ALIKE or name.partition(".")[0] in PROBLEM
    }
    return {
        "run_id": record.run_id,
        "status": state.get("status", "broken"),
        "arm": label(identity, telling, method),
        "arm_digest": "arm-"
        + digest(
            {name: identity[name] for name in identity if name != "seed"}
            | {ALIKE: around.get(ALIKE)}
        ),
        "context": digest_of(around),
        "problem_digest": digest(problem),
        "method": identity.get("method.name"),
        "precision": identity.get("precision.name"),
        "baseline": baseline,
        "batchnorm": identity.get("batchnorm.enabled"),
        "seed": identity.get("seed"),
        **{name: value for name, value in options.items() if name != "method.name"},
        **_late(state, history, identity),
        **{name: _number(result.get(name)) for name in FIGURES},
        "epochs_done": max(history.epochs.get("epoch", [0.0]), default=0.0),
        **speed.of_run(history, state.get("steps_per_epoch"), seconds),
        "lambda_changes": path_text(history.lambdas),
        "shrinking_200": history.shrinking,
        "diverged_step": diverged.get("step"),
        "diverged_lambda": _number(diverged.get("lambda")),
        "attempts": len(state.get("attempts") or []),
        "seconds": seconds,
        "images_per_second": last.get("images_per_second"),
        **_made_with(last),
        "data": _data(record),
        "passed_over": _passed_over(state),
        "command": state.get("command"),
        "problem": last_line(state.get("error") or "") or history.problem,
    }


def _late(state: dict[str, Any], history: Curves, identity: dict[str, Any]) -> dict[str, Any]:
    """Return the accuracies by which arms are compared, and whether the run is at chance level.

    They are means over the last tenth of the evaluated epochs, at least one and at most ten. If the
    evaluations cannot be read, the mean in run.json is used, if it has one.
    """
    accuracies = history.epochs.get("test_accuracy") or []
    validation = history.epochs.get("validation_accuracy") or []
    count = late(len(accuracies))
    result, data = state.get("result") or {}, state.get("data") or {}
    if accuracies:
        value: float | None = float(np.mean(accuracies[-count:]))
    else:
        length = identity.get("epochs")
        count = late(length if isinstance(length, int) else 200)
        value = _number(result.get("mean_last_tenth"))
    if state.get("status") != "completed":
        value = None
    classes, images = data.get("classes"), data.get("test") or 1000
    chance = 100 / classes if classes else None
    collapsed = None
    if chance is not None and value is not None:
        error = 100 * math.sqrt(chance / 100 * (1 - chance / 100) / images)
        collapsed = value <= chance + COLLAPSED * error
    return {
        "accuracy": value,
        "evaluations": count if value is not None else None,
        "validation": float(np.mean(validation[-count:]))
        if validation and value is not None
        else None,
        "chance": chance,
        "collapsed": collapsed,
    }


def _passed_over(state: dict[str, Any]) -> str:
    """Describe the files in the image folders of a run that were ignored."""
    folders = (state.get("data") or {}).get("passed_over") or {}
    return in_words({where: kinds for where, kinds in folders.items() if _counts(kinds)})


def _counts(kinds: Any) -> bool:
    return isinstance(kinds, dict) and all(isinstance(kind, int) for kind in kinds.values())


def _data(record: Record) -> str | None:
    known = (record.state.get("data") or {}).get("digest")
    return f"data-{known[:10]}" if known else None


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


def _circumstances(identity: dict[str, Any], data: str | None) -> dict[str, Any]:
    """Return the options that arms must share to be compared: all except those that decide λ."""
    return {
        name: value
        for name, value in identity.items()
        if name == "method.optimizer" or not _decides(name)
    } | ({ALIKE: data} if data else {})


def _decides(name: str) -> bool:
    """Whether an option affects how λ is decided, or is the seed."""
    own = ("protocol.lambda_min", "protocol.lambda_max", "seed", *RULE)
    return name in own or name.startswith(("method.", "control.", "alpha.", "fixed_lambda."))


def digest_of(around: dict[str, Any]) -> str:
    """Return a short name for a context, which programs do not mistake for a number."""
    return f"context-{digest(around)}"


def _number(value: Any) -> float | None:
    """Convert a number from JSON, in which non-finite ones are strings (see `files.to_json`)."""
    return None if value is None else float(value)


def _plain(identity: dict[str, Any]) -> dict[str, Any]:
    """Flatten the options of a run, and convert lists to text so that they can be grouped by."""
    return {
        name: str(value) if isinstance(value, list) else value
        for name, value in flat(identity).items()
    }


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as a CSV file that Excel, R and pandas can read.

    The file is in UTF-8 with a byte-order mark, without which Excel shows λ as Î». Floats have ten
    digits, so that 0.0001 does not become 0.00010000000000000003. Integers and Booleans keep their
    format even if some values are missing.
    """
    frame = frame.drop(columns=[name for name in LEFT_OUT if name in frame])
    shown = frame.convert_dtypes()
    for name in shown:
        if pd.api.types.is_float_dtype(shown[name]):
            shown[name] = [_ten_digits(value) for value in shown[name]]
    write_atomically(path, shown.to_csv(index=False).encode("utf-8-sig"))


def _ten_digits(value: Any) -> str | None:
    return None if pd.isna(value) else f"{value:.10g}"
