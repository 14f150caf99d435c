"""The results of the arms of a study, and the comparison of each schedule with the fixed λs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from . import rivals, speed, stats
from .rivals import Comparison, Scores
from .speed import Run, known, mean_of, numbers
from .words import arm_name, components, plural

FIGURE = "accuracy"
"""The column by which arms are compared: the mean test accuracy of the last tenth of training.

It is less noisy than the accuracy of the last epoch. The maximum is not used, since it would be
selected on the test set.
"""
ENDED = ("completed", "diverged", "failed", "broken")
"""Statuses of runs that will not continue by themselves."""


@dataclass(frozen=True)
class Question:
    """What the user wants to know about a study, besides which arm is better."""

    target: float | None = None
    """Target test accuracy in percent, for measuring speed; None for that of `speed.target`."""
    margin: float | None = None
    """Equivalence margin in points; None if equivalence is not tested."""


@dataclass
class Arm:
    """The runs of an arm and their evaluation."""

    runs: list[Run]
    """The runs of the arm."""
    around: list[Run]
    """All runs in the same context, including those of the arm."""
    scores: Scores
    """The scores of the arm."""
    comparison: Comparison | None = None
    """The comparison with the fixed λs; None for a fixed λ, or if there is none to compare with."""
    row: dict[str, Any] = field(default_factory=dict)
    """The row of the arm in the summary."""

    @property
    def baseline(self) -> bool:
        """Whether the arm is a fixed λ."""
        return bool(self.runs[0]["baseline"])


def summary(
    runs: pd.DataFrame,
    question: Question = Question(),
    circumstances: Mapping[str, Mapping[str, Any]] | None = None,
) -> pd.DataFrame:
    """Build the table of arms, with one row per arm; autol2/report/README.md explains its columns.

    Args:
        runs: the table of runs.
        question: the target and the margin.
        circumstances: the options that each ``context`` of the runs stands for. They are used to
            explain why a schedule has no fixed λ to compare with.
    """
    readable = [run for run in runs.to_dict("records") if known(run["method"])]
    arms = []
    for around in _grouped(readable, "context"):
        here = [Arm(of, around, _scores(of)) for of in _grouped(around, "arm_digest")]
        fixed = [arm.scores for arm in here if arm.baseline and arm.scores.by_seed]
        pending = [arm.scores for arm in here if arm.baseline and not arm.scores.by_seed]
        target = speed.target(question.target, rivals.strongest(fixed))
        for arm in here:
            if not arm.baseline:
                arm.comparison = rivals.compare(arm.scores, fixed)
            arm.row = _described(arm.runs) | speed.described(arm.runs, around, target)
            arm.row |= NOT_COMPARED | {"rivals": len(fixed)}
            if not arm.baseline:
                arm.row["pending_rivals"] = _listed(pending)
                if not arm.comparison:
                    here_too = [rival for rival in fixed if arm.scores.less(rival)]
                    arm.row["diverged_rivals"] = _no_yardstick(here_too)
        _choose_settings(here)
        arms += here
    if not arms:
        return pd.DataFrame()
    _compare(arms, question)
    _on_common_seeds(arms)
    for arm in arms:
        _say_where_else(arm, arms, circumstances or {})
    table = pd.DataFrame([arm.row for arm in arms])
    table["place"] = table["arm"].map(in_order(table["arm"]))
    table = table.sort_values(["batchnorm", "place"], ascending=[False, True], kind="stable")
    return table.drop(columns="place").reset_index(drop=True)


def _on_common_seeds(arms: list[Arm]) -> None:
    """Add the mean of each arm on the seeds that all arms without a diverged run have in common."""
    sound = [arm for arm in arms if arm.row["n"] and not arm.row["diverged"]]
    sound = sound or [arm for arm in arms if arm.row["n"]]
    seeds = set.intersection(*(set(arm.scores.by_seed) for arm in sound)) if sound else set()
    for arm in arms:
        mine = [arm.scores.by_seed[seed] for seed in sorted(seeds)] if arm in sound else []
        arm.row |= {"common_seeds": len(seeds), "mean_on_common_seeds": mean_of(mine)}


def _grouped(runs: list[Run], column: str) -> list[list[Run]]:
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(run[column], []).append(run)
    return list(groups.values())


def _scores(arm: list[Run]) -> Scores:
    first = arm[0]
    done = [run for run in arm if run["status"] == "completed"]
    diverged = [run for run in arm if run["status"] == "diverged"]
    found = {int(run["seed"]): float(run[FIGURE]) for run in done if known(run[FIGURE])}
    for run in diverged:
        found[int(run["seed"])] = float(run["chance"]) if known(run["chance"]) else 0.0
    validation = {
        int(run["seed"]): float(run["validation"]) for run in done if known(run.get("validation"))
    }
    value = first.get("fixed_lambda.value")
    return Scores(
        first["arm_digest"],
        first["arm"],
        found,
        len(diverged),
        bool(done) and all(known(run["collapsed"]) and bool(run["collapsed"]) for run in done),
        float(value) if value is not None and known(value) else math.nan,
        validation,
    )


def _described(arm: list[Run]) -> dict[str, Any]:
    """Return the columns of an arm that depend only on its own runs."""
    done = [run for run in arm if run["status"] == "completed" and known(run[FIGURE])]
    diverged = sum(run["status"] == "diverged" for run in arm)
    unfinished = sum(run["status"] not in ENDED for run in arm)
    first = arm[0]
    values = numbers(done, FIGURE)
    mean, middle = stats.interval(values), stats.iqm(values)
    return {
        "arm": first["arm"],
        "method": first["method"],
        "baseline": bool(first["baseline"]),
        "batchnorm": first["batchnorm"],
        "context": first["context"],
        "arm_digest": first["arm_digest"],
        "n": len(done),
        "diverged": diverged,
        "collapsed": sum(known(run["collapsed"]) and bool(run["collapsed"]) for run in done),
        "unfinished": unfinished,
        "lost": len(arm) - len(done) - diverged - unfinished,
        "mean": mean.mean,
        "low": mean.low,
        "high": mean.high,
        "median": float(np.median(values)) if values else math.nan,
        "iqm": middle.mean,
        "iqm_low": middle.low,
        "iqm_high": middle.high,
        "evaluations": max(numbers(done, "evaluations"), default=math.nan),
        "validation": mean_of(numbers(done, "validation")),
        "final": mean_of(numbers(done, "final_test_accuracy")),
        "best": mean_of(numbers(done, "best_test_accuracy")),
        "shrinking_200": mean_of(numbers(arm, "shrinking_200")),
    }


NOT_COMPARED: dict[str, Any] = {
    "rival": None,
    "rival_lambda": math.nan,
    "rivals": 0,
    "rival_at_edge": None,
    "stronger_rival": "",
    "chosen_on": None,
    "diverged_rivals": "",
    "apart_rivals": "",
    "pending_rivals": "",
    "pairs": 0,
    **dict.fromkeys(("difference", "difference_low", "difference_high"), math.nan),
    **dict.fromkeys(("p", "p_adjusted"), math.nan),
    "p_rival": None,
    "p_pairs": 0,
    "comparisons": 0,
    "beats_all": False,
    "margin": math.nan,
    "equivalent": None,
    **dict.fromkeys(("probability_of_improvement", "poi_low", "poi_high"), math.nan),
    "seeds_needed": None,
    **speed.NOT_COMPARED,
    "settings": 1,
    "best_setting_on": None,
    "unmatched": "",
    "better_elsewhere": "",
}
"""The columns of the comparison, with their values for an arm that is not compared."""


def _compare(arms: list[Arm], question: Question) -> None:
    """Add the columns of the comparison to each arm's row, adjusted for multiple comparisons."""
    there = [(arm, one) for arm in arms if (one := arm.comparison) is not None]
    tested = sum(not math.isnan(score.p) for _, score in there)
    factors = stats.holm([score.p for _, score in there])
    for (arm, score), factor in zip(there, factors, strict=True):
        factor = len(there) if math.isnan(factor) else factor
        level = 1 - (1 - stats.LEVEL) / factor
        # The strongest of several rivals is partly lucky; only the upper limit must account for it.
        upper = 1 - (1 - stats.LEVEL) / (factor * score.compared)
        difference = stats.interval(score.differences, level, upper)
        adjusted = min(1.0, score.p * factor) if not math.isnan(score.p) else math.nan
        significant = adjusted <= 1 - stats.LEVEL + 1e-12
        rival = [run for run in arm.around if run["arm_digest"] == score.rival.arm]
        improvement = stats.probability_of_improvement(
            list(arm.scores.by_seed.values()), list(score.rival.by_seed.values())
        )
        arm.row |= {
            "rival": score.rival.label,
            "rival_lambda": score.rival.value,
            "rivals": score.rivals,
            "rival_at_edge": score.at_edge,
            "stronger_rival": "" if score.strongest is score.rival else score.strongest.label,
            "chosen_on": score.chosen_on,
            "diverged_rivals": _no_yardstick(score.set_aside),
            "apart_rivals": _listed(score.apart),
            "pairs": len(score.differences),
            "difference": difference.mean,
            "difference_low": difference.low,
            "difference_high": difference.high,
            "p": score.p,
            "p_adjusted": adjusted,
            "p_rival": score.decisive.label,
            "p_pairs": score.decisive_pairs,
            "comparisons": tested,
            "beats_all": score.better
            and significant
            and difference.low > 0
            and not (_incomplete(arm.row) or score.apart),
            "margin": math.nan if question.margin is None else question.margin,
            "equivalent": None
            if _incomplete(arm.row)
            else _equivalent(difference, question.margin),
            "probability_of_improvement": improvement.mean,
            "poi_low": improvement.low,
            "poi_high": improvement.high,
            "seeds_needed": _seeds_needed(score, tested, significant),
            **speed.compared(arm.runs, rival, factor, arm.row["target"]),
        }


def _incomplete(row: Mapping[str, Any]) -> bool:
    """Whether any run of an arm diverged, failed, or has not ended."""
    return bool(row["diverged"] or row["lost"] or row["unfinished"])


def _seeds_needed(one: Comparison, comparisons: int, significant: bool) -> int | None:
    """Return `stats.seeds_needed`, but more than there are if the difference is not significant."""
    tests = comparisons * (1 if one.better else one.compared)  # See `Comparison.p`.
    needed = stats.seeds_needed(one.differences, tests)
    if needed is None or significant:
        return needed
    return max(needed, len(one.differences) + 1)


def _no_yardstick(scores: Iterable[Scores]) -> str:
    """List fixed λs with the reason why each of them cannot serve as a reference."""
    said = []
    for score in scores:
        on = f"on {score.diverged} of {plural(len(score.by_seed), 'seed')}"
        what = f"diverged {on}" if score.diverged else "never rose above chance level"
        said.append(f"{arm_name(score.label)} {what}")
    return "; ".join(said)


def _listed(scores: Iterable[Scores]) -> str:
    return ", ".join(arm_name(score.label) for score in scores)


def _choose_settings(arms: list[Arm]) -> None:
    """For each method that ran with several settings, mark the strongest and how it was chosen."""
    methods: dict[str, list[Arm]] = {}
    for arm in arms:
        if not arm.baseline and arm.scores.by_seed:
            methods.setdefault(arm.row["method"], []).append(arm)
    for alike in methods.values():
        best = rivals.strongest([arm.scores for arm in alike])
        for arm in alike:
            arm.row["settings"] = len(alike)
            if arm.scores is best:
                arm.row["best_setting_on"] = "validation" if best.validation else "test"


def _equivalent(difference: stats.Interval, margin: float | None) -> bool | None:
    if margin is None or math.isnan(difference.low):
        return None
    return -margin <= difference.low and difference.high <= margin


def _say_where_else(
    arm: Arm, arms: list[Arm], circumstances: Mapping[str, Mapping[str, Any]]
) -> None:
    """Note which fixed λ in another context beats a schedule, or why none is comparable."""
    if arm.baseline:
        return
    elsewhere = [
        other
        for other in arms
        if other.baseline and other.row["context"] != arm.row["context"] and other.row["n"]
    ]
    if arm.comparison is None and not arm.row["rivals"]:
        arm.row["unmatched"] = _unmatched(arm, elsewhere, circumstances)
    better = []
    for other in elsewhere:
        if other.runs[0]["problem_digest"] != arm.runs[0]["problem_digest"]:
            continue
        ours, theirs = arm.scores.by_seed, other.scores.by_seed
        differences = other.scores.less(arm.scores)
        ahead = stats.interval(differences)
        on = f"on {plural(len(differences), 'seed')}"
        if not differences and ours and theirs:
            mean = mean_of(list(theirs.values())) - mean_of(list(ours.values()))
            ahead, on = stats.Interval(mean, math.nan, math.nan), "on other seeds"
        if ahead.mean > 0:
            ends = f" ({ahead.low:.2f} to {ahead.high:.2f})" * (not math.isnan(ahead.low))
            said = f"{arm_name(other.row['arm'])} is better by {ahead.mean:.2f} points{ends} {on}"
            better.append((ahead.mean, said))
    if better:
        arm.row["better_elsewhere"] = max(better)[1]


def _unmatched(arm: Arm, fixed: list[Arm], circumstances: Mapping[str, Mapping[str, Any]]) -> str:
    """Describe the options in which the most similar fixed λ differs; empty if there is none."""
    own = circumstances.get(arm.row["context"], {})
    found = []
    for other in fixed:
        theirs = circumstances.get(other.row["context"], {})
        names = sorted(own.keys() | theirs.keys())
        differing = [name for name in names if own.get(name) != theirs.get(name)]
        said = ", ".join(
            f"{name} = {_short(own.get(name))} here and {_short(theirs.get(name))} there"
            for name in differing
        )
        found.append((len(differing), f"{arm_name(other.row['arm'])} differs in {said}"))
    return min(found)[1] if found else ""


def _short(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def in_order(arms: Iterable[str]) -> dict[str, int]:
    """Return the position of each arm's name when sorted by method and then by its numbers."""
    known = components("method").values()
    methods = [
        method.label for method in sorted(known, key=lambda one: (one.place, one.label.lower()))
    ]

    def key(arm: str) -> tuple[int, list[float], str]:
        place = next((at for at, name in enumerate(methods) if arm.startswith(name)), len(methods))
        numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e[-+]?\d+)?", arm)
        return place, [float(number) for number in numbers], arm

    return {arm: place for place, arm in enumerate(sorted(set(arms), key=key))}
