"""Figures of training speed: epochs to a target accuracy, and steps to the best one against λ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from . import forest, plot, speed
from .colours import CURVES, SOFT, TEXT
from .forest import AROUND, LOW_ROW, SEED, SEED_LINE, Part
from .plot import Drawing
from .tables import Tables
from .words import arm_name, number, plural, yardstick

NOT_REACHED: dict[str, Any] = {**SEED, "marker": ">", "markersize": 5, "markerfacecolor": "none"}
MEAN = forest.key("s", 1.8, "mean over seeds, of the difference with an interval")
PANELS = 4
"""Maximum number of panels in the figure of steps to the best accuracy, one for each context."""


@plot.settings()
def to_target(made: Tables, colours: Mapping[str, str], folder: Path) -> list[Drawing]:
    """Draw how many epochs each seed of each arm takes to reach its target accuracy."""
    arms = made.summary
    if arms.empty:
        return []
    arms = arms[(arms["n"] > 0) & (arms["reached_target"] > 0)]
    return [_to_target(part, made.runs, colours, folder) for part in forest.parts_of("speed", arms)]


def _to_target(part: Part, runs: pd.DataFrame, colours: Mapping[str, str], folder: Path) -> Drawing:
    shown = part.arms
    figure, left, right = _two_panels(shown)
    to = " or ".join(f"{target:.2f} %" for target in sorted(shown["target"].unique()))
    words, late = [], False
    for y, (_, arm) in enumerate(shown.iterrows()):
        colour = colours[arm["arm"]]
        times = speed.reached(runs[runs["arm_digest"] == arm["arm_digest"]], arm["target"])
        for reached, how in ((True, SEED), (False, NOT_REACHED)):
            epochs = times["epochs"][times["reached"] == reached]
            left.plot(epochs, np.full(len(epochs), y + 0.25), color=colour, **how)
        late |= not times["reached"].all()
        mean = float(arm["epochs_to_target"])
        forest.estimate(left, y - 0.1, mean, np.nan, np.nan, colour)
        only = f" ({arm['reached_target']} of {arm['n']} seeds reached it)"
        few = arm["reached_target"] < arm["n"]
        words.append(f"{arm_name(arm['arm'])} {plural(mean, 'epoch')}{only * few}")
    left.set_xlabel(f"epochs to {to}")
    left.set_xlim(0, 1.05 * left.get_xlim()[1])
    _differences(right, shown, "epochs_to_target_difference", colours)
    right.set_xlabel(f"difference from the\n{yardstick(shown)}\n(left of 0: faster)")
    keys = [SEED_LINE, MEAN]
    if late:
        keys.append(Line2D([], [], color=SOFT, label="not reached by the end", **NOT_REACHED))
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))
    caption = (
        f"Left: epochs until the test accuracy first reaches {to}. Right: difference from the "
        f"{yardstick(shown)} on the same seeds, with an interval adjusted like that of the "
        "accuracies."
    )
    if late:
        caption += (
            " A run that never reaches it counts with all of its epochs, so means are too low and "
            "differences are biased towards zero."
        )
    alt = f"Dot plot of the epochs until {to} of test accuracy {part.heading}: {', '.join(words)}."
    title = part.titled("Speed of training")
    return plot.save(figure, part.name, title, caption, alt, folder, legend=False)


@plot.settings()
def area(made: Tables, colours: Mapping[str, str], folder: Path) -> list[Drawing]:
    """Draw the mean test accuracy over training, which is the normalized area under the curve."""
    arms = made.summary
    if arms.empty:
        return []
    arms = arms[arms["area_under_curve"].notna()]
    return [_area(part, made.runs, colours, folder) for part in forest.parts_of("area", arms)]


def _area(part: Part, runs: pd.DataFrame, colours: Mapping[str, str], folder: Path) -> Drawing:
    shown = part.arms
    figure, left, right = _two_panels(shown)
    words = []
    for y, (_, arm) in enumerate(shown.iterrows()):
        colour, mean = colours[arm["arm"]], float(arm["area_under_curve"])
        of = runs[(runs["arm_digest"] == arm["arm_digest"]) & (runs["status"] == "completed")]
        areas = of["area_under_curve"].dropna()
        left.plot(areas, np.full(len(areas), y + 0.25), color=colour, **SEED)
        forest.estimate(left, y - 0.1, mean, np.nan, np.nan, colour)
        words.append(f"{arm_name(arm['arm'])} {mean:.2f} %")
    left.set_xlabel("mean test accuracy over training (%)")
    _differences(right, shown, "area_difference", colours)
    right.set_xlabel(f"difference from the\n{yardstick(shown)}\n(right of 0: higher)")
    keys = [SEED_LINE, MEAN]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))
    caption = (
        "Left: the area under the curve of test accuracy, divided by its length: an arm that "
        "learns sooner has a larger value, whatever the target. Right: difference from the "
        f"{yardstick(shown)} on the same seeds, in points, with an interval adjusted like that of "
        "the accuracies."
    )
    alt = f"Dot plot of the mean test accuracy over training {part.heading}: {', '.join(words)}."
    title = part.titled("Accuracy over training")
    return plot.save(figure, part.name, title, caption, alt, folder, legend=False)


def _two_panels(arms: pd.DataFrame) -> tuple[Figure, Axes, Axes]:
    """Create a figure with one row per arm: its seeds on the left, its difference on the right."""
    figure = plot.new_figure(LOW_ROW * len(arms) + AROUND + 0.4)
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    forest.rows(left, [arm_name(arm) for arm in arms["arm"]])
    forest.rows(right, [""] * len(arms))
    right.axvline(0, color=TEXT, linewidth=0.8)
    return figure, left, right


def _differences(axes: Axes, arms: pd.DataFrame, column: str, colours: Mapping[str, str]) -> None:
    """Draw the value and interval of `column` for each arm, on an axis centred at 0."""
    known = [1.0]
    for y, (_, arm) in enumerate(arms.iterrows()):
        mean, low, high = (float(arm[f"{column}{end}"]) for end in ("", "_low", "_high"))
        if not pd.isna(mean):
            forest.estimate(axes, y, mean, low, high, colours[arm["arm"]])
            known += [abs(end) for end in (mean, low, high) if not pd.isna(end)]
    axes.set_xlim(-1.06 * max(known), 1.06 * max(known))


@plot.settings()
def to_best(made: Tables, colours: Mapping[str, str], folder: Path) -> list[Drawing]:
    """Draw the steps to the best test accuracy against λ, for every run with a fixed λ."""
    fits = pd.concat([fits for _, fits in forest.groups(made.fits)] or [made.fits]).head(PANELS)
    if fits.empty:
        return []
    across = min(2, len(fits))
    down = -(-len(fits) // across)
    figure = plot.new_figure(2.9 * down)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    said = []
    for (_, fit), axes in zip(fits.iterrows(), panels, strict=False):
        runs = made.runs
        runs = runs[runs["baseline"].astype(bool) & (runs["status"] == "completed")]
        runs = runs[(runs["context"] == fit["context"]) & (runs["fixed_lambda.value"] > 0)]
        heading = _circumstances(runs)
        plot.heading(axes, heading)
        said.append(f"{heading}: {_to_best(axes, runs, fit)}")
    for axes in panels[len(fits) :]:
        axes.set_axis_off()
    caption = (
        "Steps to the best test accuracy at each fixed λ above 0; here the maximum test accuracy "
        "is used only to find a time, not as a result. Dots: runs; hollow ones were still "
        "improving when training ended and are not part of the fit t* = c/λ (dashed; Lewkowycz "
        "and Gur-Ari, 2020). The law holds if a free fit gives a slope of about -1; if its "
        "interval does not contain -1, no line is drawn. Leaving hollow dots out flattens the "
        "slope. python -m autol2.forecast uses averaged accuracies, so its c is smaller."
    )
    alt = "Steps to the best test accuracy against λ, logarithmic axes. " + "; ".join(said) + "."
    title = "Steps to the best accuracy against λ"
    return [plot.save(figure, "best_step", title, caption, alt, folder, legend=False)]


def _circumstances(runs: pd.DataFrame) -> str:
    """Describe what the runs of a panel have in common besides their λ."""
    ((heading, _),) = forest.groups(runs)
    rest = arm_name(str(runs["arm"].iloc[0])).partition(" = ")[2].partition(" ")[2]
    return ", ".join(part for part in (heading, rest) if part)


def _to_best(axes: Axes, runs: pd.DataFrame, fit: pd.Series) -> str:
    """Draw the runs of one panel and their fit, and return a description."""
    early = runs["epochs_to_best"] < runs["epochs_done"]
    for part, face in ((runs[early], CURVES[0]), (runs[~early], "none")):
        axes.plot(
            part["fixed_lambda.value"],
            part["steps_to_best"],
            "o",
            color=CURVES[0],
            markersize=4,
            markerfacecolor=face,
            alpha=0.8,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("λ")
    axes.set_ylabel("steps to the best accuracy")
    axes.margins(0.12)
    medians = runs.groupby("fixed_lambda.value")["steps_to_best"].median()
    axes.set_xticks(medians.index, [number(float(str(value))) for value in medians.index])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    shown = ", ".join(
        f"{steps:.0f} at λ = {number(float(str(value)))}" for value, steps in medians.items()
    )
    if np.isnan(fit["constant"]):
        return f"{shown}; too few runs ended after their best for a fit"
    constant = float(f"{fit['constant']:.2g}")
    words = f"t* = {number(constant)}/λ"
    if speed.holds(fit):
        values = runs["fixed_lambda.value"][early]
        ends = np.array([values.min(), values.max()])
        axes.plot(ends, fit["constant"] / ends, color=CURVES[1], linestyle=(0, (5, 2)))
    else:
        words = "t* = c/λ does not hold here"
    free = f"free slope {fit['slope']:.2f}"
    if not np.isnan(fit["slope_low"]):
        free += f" ({fit['slope_low']:.2f} to {fit['slope_high']:.2f})"
    axes.text(
        0.99,
        0.99,
        f"{words}\n{free}",
        ha="right",
        va="top",
        transform=axes.transAxes,
        color=CURVES[1],
    )
    return f"{shown}; fit {words}, {free}"
