"""The report's tables: a row a run, a row an arm, and what they come to."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .. import stats
from ..run import FINISHED, digest
from ..study import Record
from .published import published, shrinking_of
from .runs import Curves, knobs, path_text

FIGURE = "mean_last_10_epochs"
"""The figure that arms are compared by: less noisy than the last epoch's, and not a maximum over
test accuracies, which would peek."""
RULE = ("method.name", "alpha.percent", "fixed_lambda.value", "protocol.name")
"""What makes an arm, with `CONTROL` and a method's own constants; other knobs are the circumstances
in which arms are compared."""
CONTROL = {
    "control.penalized": "all",
    "control.parameters": "all",
    "control.scale": 1.0,
    "control.lr_factor": 1.0,
    "control.pulse_height": 0.0,
    "control.pulse_length": 0,
}
"""Knobs that make another arm, and what they are where there is no such change."""
NAMES = {
    "fixed": "fixed λ",
    "auto_l2": "Auto L2",
    "threshold": "threshold",
    "advance": "Advance L2",
    "combined": "combined",
    "cosine": "cosine",
    "decoupled": "decoupled",
    "cpr": "CPR",
}
FIGURES = (
    "final_test_accuracy",
    "best_test_accuracy",
    "mean_last_10_epochs",
    "final_test_loss",
    "final_train_loss",
    "final_train_accuracy",
    "final_lambda",
)


@dataclass
class Tables:
    """A study in tables."""

    runs: pd.DataFrame
    """A row a run; README says what the columns are."""
    summary: pd.DataFrame
    """A row an arm."""
    varying: list[str]
    """The knobs that differ between the study's runs, seed left out."""
    axes: list[str]
    """Those of them that the study compares: the method, and what differs within a method."""


def tables(read: list[tuple[Record, Curves]]) -> Tables:
    """The tables of a study's runs."""
    identities = [knobs(record.state.get("identity", {})) for record, _ in read]
    varying = _varying(identities)
    telling = _telling(identities, varying)
    rows = [
        _row(record, course, identity, varying, telling)
        for (record, course), identity in zip(read, identities, strict=True)
    ]
    runs = pd.DataFrame(rows)
    axes = [name for name in varying if name == "method.name" or name in telling]
    return Tables(runs, _summary(runs), varying, axes)


def _varying(identities: list[dict[str, Any]]) -> list[str]:
    names = sorted({name for identity in identities for name in identity} - {"seed"})
    readable = [identity for identity in identities if identity]
    return [
        name
        for name in names
        if len({json.dumps(one[name]) for one in readable if name in one}) > 1
    ]


def _telling(identities: list[dict[str, Any]], varying: list[str]) -> list[str]:
    """The knobs that tell two arms of one method apart."""
    methods = {identity.get("method.name") for identity in identities}
    of_method = [
        [identity for identity in identities if identity.get("method.name") == method]
        for method in methods
    ]
    differing = {name for some in of_method for name in _varying(some)}
    return [name for name in varying if name in differing]


def label(identity: dict[str, Any], telling: list[str]) -> str:
    """An arm's name for a reader: the method with its number, then the knobs of `telling`."""
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
    course: Curves,
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
    git = last.get("git") or {}
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
        **{name: result.get(name) for name in FIGURES},
        "epochs_done": max(course.epochs.get("epoch", [0.0]), default=0.0),
        "lambda_changes": path_text(course.lambdas),
        "shrinking_200": course.shrinking,
        "diverged_step": diverged.get("step"),
        "diverged_lambda": diverged.get("lambda"),
        "attempts": len(state.get("attempts", [])),
        "seconds": sum(one.get("seconds", 0.0) for one in attempts),
        "images_per_second": last.get("images_per_second"),
        "hardware": last.get("hardware"),
        "threads": last.get("threads"),
        "torch": last.get("torch"),
        "python": (last.get("versions") or {}).get("python"),
        "host": last.get("host"),
        "commit": git.get("commit"),
        "dirty": git.get("dirty"),
        "command": state.get("command"),
        "problem": course.problem or _last_line(state.get("error")),
    }


def _circumstances(around: dict[str, Any]) -> dict[str, Any]:
    """The knobs that every method has: its own constants do not set it apart from the baseline."""
    own = ("method.initial_lambda", "method.decay_factor", "method.cooldown", "method.final_lambda")
    gone = (*own, "method.raise_when_converged", "protocol.lambda_min", "protocol.lambda_max")
    return {
        name: value
        for name, value in around.items()
        if name not in gone and not name.startswith(("method.kappa", "control."))
    }


def _changed(identity: dict[str, Any]) -> bool:
    return any(identity.get(name, value) != value for name, value in CONTROL.items())


def _last_line(error: str | None) -> str:
    return error.strip().splitlines()[-1] if error else ""


def _summary(runs: pd.DataFrame) -> pd.DataFrame:
    readable = runs[runs["method"].notna()]
    arms = []
    for _, around in readable.groupby("context", sort=False):
        done = around[around["status"] == "completed"]
        fixed = _by_seed(done[done["baseline"]])
        for _, arm in around.groupby("arm_digest", sort=False):
            schedule = not arm["baseline"].iloc[0]
            completed = arm[arm["status"] == "completed"]
            arms.append((arm, _differences(completed, fixed) if schedule else [], len(fixed)))
    comparisons = sum(bool(differences) for _, differences, _ in arms)
    summary = pd.DataFrame([_arm_row(*arm, comparisons) for arm in arms])
    if not summary.empty:
        summary["p_holm"] = stats.holm(summary["p"].tolist())
        summary = summary.sort_values(["batchnorm", "arm"], ascending=[False, True])
    return summary.reset_index(drop=True)


def _by_seed(runs: pd.DataFrame) -> dict[str, dict[int, float]]:
    return {
        str(arm): {
            int(seed): float(value) for seed, value in zip(of["seed"], of[FIGURE], strict=True)
        }
        for arm, of in runs.groupby("arm_digest")
    }


def _arm_row(
    arm: pd.DataFrame, differences: list[float], baselines: int, comparisons: int
) -> dict[str, Any]:
    done = arm[arm["status"] == "completed"]
    first = arm.iloc[0]
    values = [float(value) for value in done[FIGURE]]
    mean = stats.interval(values) if values else stats.Interval(math.nan, math.nan, math.nan)
    row = {
        "arm": first["arm"],
        "method": first["method"],
        "baseline": bool(first["baseline"]),
        "baselines": baselines,
        "batchnorm": bool(first["batchnorm"]),
        "context": first["context"],
        "arm_digest": first["arm_digest"],
        "n": len(done),
        "diverged": int((arm["status"] == "diverged").sum()),
        "unfinished": int((~arm["status"].isin(FINISHED)).sum()),
        "mean": mean.mean,
        "low": mean.low,
        "high": mean.high,
        "final": done["final_test_accuracy"].mean(),
        "best": done["best_test_accuracy"].mean(),
        "shrinking_200": arm["shrinking_200"].mean(),
    }
    if differences:
        comparison = stats.compare(differences, comparisons)
        return row | {
            "pairs": comparison.pairs,
            "difference": comparison.difference.mean,
            "difference_low": comparison.difference.low,
            "difference_high": comparison.difference.high,
            "p": comparison.p,
            "smallest_p": comparison.smallest_p,
            "seeds_needed": comparison.seeds_needed,
        }
    return row | {
        "pairs": 0,
        "difference": math.nan,
        "difference_low": math.nan,
        "difference_high": math.nan,
        "p": math.nan,
        "smallest_p": math.nan,
        "seeds_needed": None,
    }


def _differences(done: pd.DataFrame, fixed: dict[str, dict[int, float]]) -> list[float]:
    """On each seed, the arm less the fixed λ that is best on the other seeds."""
    found = []
    for seed, value in zip(done["seed"], done[FIGURE], strict=True):
        if len(fixed) == 1:  # nothing to choose
            baseline = next(iter(fixed))
        else:
            baseline = stats.best_on_other_seeds(fixed, int(seed)) or ""
        if int(seed) in fixed.get(baseline, {}):
            found.append(float(value) - fixed[baseline][int(seed)])
    return found


def beside_published(runs: pd.DataFrame) -> pd.DataFrame:
    """Published and our figures of the paper's arms, in percent; empty where there are none."""
    rows = []
    done = runs[runs["status"] == "completed"]
    arms = ["method", "batchnorm", "alpha", "fixed_lambda"]
    for _, of in published().groupby(arms, dropna=False, sort=False):
        method, batchnorm, alpha, value = (of.iloc[0][name] for name in arms)
        ours = done[(done["method"] == method) & (done["batchnorm"] == (batchnorm == "on"))]
        name = label(
            {"method.name": method}
            | ({} if math.isnan(alpha) else {"alpha.percent": alpha})
            | ({} if math.isnan(value) else {"fixed_lambda.value": value}),
            [],
        )
        ours = ours[ours["arm"] == name]
        if ours.empty:
            continue
        rows.append(
            {
                "arm": name,
                "batchnorm": batchnorm == "on",
                "published_final": of["final_test_accuracy"].mean(),
                "ours_final": ours["final_test_accuracy"].mean(),
                "published_mean_last_10": of["mean_last_10_epochs"].mean(),
                "ours_mean_last_10": ours["mean_last_10_epochs"].mean(),
                "published_changes": " / ".join(of["lambda_changes"].dropna()),
                "ours_changes": " / ".join(change for change in ours["lambda_changes"] if change),
                "published_shrinking": " / ".join(
                    f"{shrinking_of(run):.3g}" for _, run in of.iterrows()
                ),
                "ours_shrinking": ours["shrinking_200"].mean(),
                "n": len(ours),
            }
        )
    return pd.DataFrame(rows)
