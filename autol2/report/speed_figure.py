"""Figures of the speed of training: epochs to an accuracy, and steps to the best one against λ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

from . import forest, plot
from .colours import CURVES, SOFT, TEXT
from .forest import AROUND, MANY, ROW, SEED, SEED_LINE
from .names import number
from .panels import evaluated
from .plot import Drawing
from .runs import Curves
from .tables import Tables


@plot.settings()
def to_target(
    made: Tables, histories: Mapping[str, Curves], colours: Mapping[str, str], folder: Path
) -> list[Drawing]:
    """Draw how many epochs each seed of each arm takes to reach its target accuracy."""
    arms = made.summary
    if arms.empty or "target" not in arms:
        return []
    arms = arms[(arms["n"] > 0) & arms["target"].notna()].head(MANY)
    parts = forest.groups(arms)
    if not parts:
        return []
    heights = [ROW * len(part) + AROUND for _, part in parts]
    figure = plot.new_figure(sum(heights) + 0.5)
    panels = figure.subplots(
        len(parts), 2, squeeze=False, width_ratios=[1.5, 1], height_ratios=heights
    )
    said, never = [], False
    for (heading, part), (left, right) in zip(parts, panels, strict=True):
        targets = sorted(part["target"].unique())
        to = " or ".join(f"{target:.2f}" for target in targets)
        plot.heading(left, f"{heading}: to {to} %")
        forest.rows(left, [arm["arm"] for _, arm in part.iterrows()])
        forest.rows(right, [""] * len(part))
        right.axvline(0, color=TEXT, linewidth=0.8)
        words = []
        for y, (_, arm) in enumerate(part.iterrows()):
            colour = colours[arm["arm"]]
            runs = made.runs[
                (made.runs["arm_digest"] == arm["arm_digest"])
                & (made.runs["status"] == "completed")
            ]
            times = [
                _reached(histories[run_id], arm["target"])
                for run_id in runs["run_id"]
                if evaluated(histories[run_id])
            ]
            reached = [time for time, there in times if there]
            not_reached = [time for time, there in times if not there]
            never = never or bool(not_reached)
            left.plot(reached, np.full(len(reached), y + 0.2), color=colour, **SEED)
            late = np.full(len(not_reached), y + 0.2)
            left.plot(not_reached, late, color=colour, **_hollow())
            estimate = arm.get("epochs_to_target", np.nan)
            if not np.isnan(estimate):
                forest.estimate(left, y - 0.1, estimate, np.nan, np.nan, colour)
            ends = [
                arm.get(f"epochs_to_target_difference{end}", np.nan) for end in ("", "_low", "_high")
            ]
            if not np.isnan(ends[0]):
                forest.estimate(right, y, *ends, colour)
            words.append(_in_words(arm, estimate, len(reached), len(times)))
        left.set_xlabel("epochs to the target")
        left.set_xlim(left=0)
        right.set_xlabel("less those of the strongest\nfixed λ (left of 0: faster)")
        said.append(f"{heading}, to {to} %: " + ", ".join(words))
    for row in panels:
        _symmetric(row[1], max(abs(end) for _, axes in panels for end in axes.get_xlim()))
    keys = [SEED_LINE, forest.key("s", 1.8, "over seeds, with its 95 % interval")]
    if never:
        keys.append(
            Line2D([], [], color=SOFT, label="a seed that did not reach it", **_hollow())
        )
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))
    caption = (
        "Epochs until the test accuracy first reaches the target, and on the same seeds less "
        "those of the strongest fixed λ."
    )
    alt = "Dot plot of the epochs until a target accuracy is reached. " + "; ".join(said) + "."
    title = "Speed of training"
    return [plot.save(figure, "speed", title, caption, alt, folder, legend=False)]


@dataclass(frozen=True)
class Fit:
    """Steps to the best accuracy at a fixed λ, t* = `constant`/λ (Lewkowycz and Gur-Ari, 2020)."""

    constant: float
    slope: float
    """Of log t* against log λ where it is free: -1 where the fit is right."""
    points: int
    """Runs that it rests on: those whose best accuracy came before the end of training."""


def fit(lambdas: np.ndarray, steps: np.ndarray, early: np.ndarray) -> Fit | None:
    """Fit t* = c/λ on logarithmic axes: c is the geometric mean of λ·t*.

    Args:
        lambdas: λ of each run, above 0.
        steps: of each run, to its best test accuracy.
        early: whether that came before training ended, so that it is the best indeed.

    Returns:
        None below two values of λ.
    """
    if len(set(lambdas[early].tolist())) < 2:
        return None
    product = np.log(lambdas[early] * steps[early])
    slope = np.polyfit(np.log(lambdas[early]), np.log(steps[early]), 1)[0]
    return Fit(float(np.exp(product.mean())), float(slope), int(early.sum()))


@plot.settings()
def to_best(
    made: Tables, histories: Mapping[str, Curves], colours: Mapping[str, str], folder: Path
) -> list[Drawing]:
    """Draw steps to the best test accuracy against λ, of every run of a fixed λ."""
    runs = made.runs
    fixed = runs[runs["baseline"].astype(bool) & (runs["status"] == "completed")]
    if "fixed_lambda.value" not in fixed:
        return []
    fixed = fixed[fixed["fixed_lambda.value"] > 0]
    fixed = fixed[[len(histories[run_id].epochs.get("epoch", [])) > 2 for run_id in fixed["run_id"]]]
    parts = [
        (heading, part)
        for heading, part in forest.groups(fixed)
        if part["fixed_lambda.value"].nunique() > 1
    ]
    if not parts:
        return []
    figure = plot.new_figure(3.1)
    panels = figure.subplots(1, 2, squeeze=False)[0]
    said = []
    for (heading, part), axes in zip(parts, panels, strict=False):
        plot.heading(axes, heading)
        said.append(f"{heading}: {_to_best(axes, part, histories)}")
    for axes in panels[len(parts) :]:
        axes.set_axis_off()
    caption = (
        "Steps to the best test accuracy at each fixed λ (one of 0 has no place here). Dots: runs; "
        "hollow ones were still getting better when training ended, and are not part of the fit "
        "t* = c/λ (dashed), a straight line of slope -1 here, which holds where a free fit has about "
        "that slope too. The best of test accuracies tells a time here, not a result."
    )
    alt = "Steps to the best test accuracy against λ, logarithmic axes. " + "; ".join(said) + "."
    title = "Steps to the best accuracy against λ"
    return [plot.save(figure, "best_step", title, caption, alt, folder, legend=False)]


def _to_best(axes: Axes, runs: pd.DataFrame, histories: Mapping[str, Curves]) -> str:
    """Draw the runs of one panel and their fit; what they show."""
    lambdas, steps, early = [], [], []
    for run_id, lambda_ in zip(runs["run_id"], runs["fixed_lambda.value"], strict=True):
        epochs = histories[run_id].epochs
        best = int(np.argmax(epochs["test_accuracy"]))
        length = histories[run_id].lambdas[-1][0] / epochs["epoch"][-1]
        lambdas.append(float(lambda_))
        steps.append(epochs["epoch"][best] * length)
        early.append(epochs["epoch"][best] <= 0.95 * epochs["epoch"][-1])
    x, y, before = np.array(lambdas), np.array(steps), np.array(early)
    axes.plot(x[before], y[before], "o", color=CURVES[0], markersize=4, alpha=0.75)
    axes.plot(x[~before], y[~before], "o", color=CURVES[0], markersize=4, markerfacecolor="none")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("λ")
    axes.set_ylabel("steps to the best accuracy")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if axis is axes.yaxis else (1,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axis.set_minor_formatter(FuncFormatter(lambda _, __: ""))
    found = fit(x, y, before)
    medians = ", ".join(
        f"{np.median(y[x == value]):.0f} at λ = {number(value)}" for value in sorted(set(lambdas))
    )
    if found is None:
        return f"{medians}; too few to fit"
    ends = np.array([x[before].min(), x[before].max()])
    axes.plot(ends, found.constant / ends, color=CURVES[1], linestyle=(0, (5, 2)))
    words = f"t* = {number(float(f'{found.constant:.2g}'))}/λ"
    free = f"slope {found.slope:+.2f} where free"
    place = {"ha": "right", "va": "top", "transform": axes.transAxes}
    axes.text(0.98, 0.98, f"{words}\n{free}", color=CURVES[1], **place)
    return f"{medians}; fit {words} over {found.points} runs, {free}"


def _reached(history: Curves, target: float) -> tuple[float, bool]:
    """The epoch at which a run first reached an accuracy, or its last one; and which of both."""
    epochs = history.epochs
    there = np.array(epochs["test_accuracy"]) >= target
    return epochs["epoch"][int(there.argmax()) if there.any() else -1], bool(there.any())


def _hollow() -> dict[str, Any]:
    return {**SEED, "marker": ">", "markersize": 5, "markerfacecolor": "none"}


def _symmetric(axes: Axes, widest: float) -> None:
    axes.set_xlim(-widest, widest)


def _in_words(arm: pd.Series, estimate: float, reached: int, seeds: int) -> str:
    if np.isnan(estimate):
        return f"{arm['arm']} reached it on {reached} of {seeds} seeds"
    text = f"{arm['arm']} after {estimate:.1f} epochs"
    return text + f" on {reached} of {seeds} seeds" * (reached < seeds)
