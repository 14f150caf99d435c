"""Figures for a grid of constant λs, as drawn by Auto L2's authors (Lewkowycz & Gur-Ari, 2020).

One shows the best accuracy against λ at each training length (their figures 1a and 1b), with a
forecast of the best λ if there are suitable cheap runs. The other shows the time to the best
accuracy against lr·λ (their figure 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from . import plot
from .colours import CURVES, DASHES, SOFT
from .forecast import FEWEST, Peak, fit, forecasts
from .plot import Drawing
from .words import number, plural

PANELS = 4
"""Maximum number of panels in a figure, one for each set of other options."""
NEAR = 0.15
"""Maximum difference between the logarithms of two products of λ and length that count as equal.

Lengths proportional to 1/λ are rounded to whole epochs, so their products with λ vary slightly.
"""


def all_figures(found: Sequence[Peak], folder: Path) -> list[Drawing]:
    """Draw those of these figures for which a study has the necessary runs."""
    return [*grid(found, folder), *times(found, folder)]


@plot.settings()
def grid(found: Sequence[Peak], folder: Path) -> list[Drawing]:
    """Draw the best test accuracy against λ, with a line for each training length."""
    contexts = {
        name: lengths
        for name in dict.fromkeys(item.context for item in found)
        if (lengths := training_lengths([item for item in found if item.context == name]))
    }
    shown = dict(list(contexts.items())[:PANELS])
    if not shown:
        return []
    figure, panels = _panels(len(shown))
    said = []
    for axes, (context, lengths) in zip(panels, shown.items(), strict=True):
        runs = [item for item in found if item.context == context]
        plot.heading(axes, f"lr {runs[0].lr:g}" + ", scheduled" * (not runs[0].constant_lr))
        for place, (words, some) in enumerate(lengths.items()):
            means = _means(some, lambda one: one.lambda_, lambda one: one.best)
            colour = CURVES[place % len(CURVES)]
            dashes = DASHES[place % len(DASHES)]
            axes.plot(means.index, means, "o", ls=dashes, color=colour, markersize=4, label=words)
            best = float(means.index.to_numpy(float)[int(means.argmax())])
            said.append(f"after {words} λ = {number(best)} is best, {means.max():.2f} %")
        for place, forecast in enumerate(forecasts(runs)):
            axes.axvspan(forecast.low, forecast.high, color=SOFT, alpha=0.12, linewidth=0)
            label = "forecast" if place == 0 else None
            axes.axvline(forecast.lambda_, color=SOFT, linestyle=(0, (1, 1.6)), label=label)
            said.append(f"forecast for {forecast.epochs:g} epochs λ = {number(forecast.lambda_)}")
        _logarithmic(axes, "λ", sorted({run.lambda_ for run in runs if run.lambda_ > 0}))
        axes.set_ylabel("best test accuracy (%)")
    title = "Accuracy against λ"
    caption = (
        "The best test accuracy during training at each constant λ above 0, mean of the seeds. The "
        "authors of Auto L2 plot this maximum; it is not an estimate of the accuracy to expect. "
        "Dotted, if cheap runs allow it: the best λ as forecast by t* = c/λ, with its 95 % "
        "interval."
    )
    alt = f"Best test accuracy against λ, logarithmic axis. {_sentence(said)}"
    return [plot.save(figure, "lambda_grid", title, caption, alt, folder)]


@plot.settings()
def times(found: Sequence[Peak], folder: Path) -> list[Drawing]:
    """Draw the time to the best accuracy against lr·λ, if runs differ in their learning rate."""
    families: dict[str, list[Peak]] = {}
    for item in found:
        if item.constant_lr and item.lambda_ > 0:
            families.setdefault(item.family, []).append(item)
    shown = [runs for runs in families.values() if len({run.lr for run in runs}) > 1][:PANELS]
    if not shown:
        return []
    figure, panels = _panels(len(shown))
    said = []
    for axes, runs in zip(panels, shown, strict=True):
        for place, lr in enumerate(sorted({run.lr for run in runs})):
            some = [run for run in runs if run.lr == lr]
            for early in (True, False):
                part = [run for run in some if run.tells == early]
                axes.plot(
                    [run.lr * run.lambda_ for run in part],
                    [run.time / run.length for run in part],
                    "o^sDv"[place % 5],
                    color=CURVES[place % len(CURVES)],
                    markerfacecolor=CURVES[place % len(CURVES)] if early else "none",
                    markersize=4.5,
                    label=f"lr {lr:g}" if early or all(not run.tells for run in some) else None,
                )
        telling = [run for run in runs if run.tells]
        products = sorted({run.lr * run.lambda_ for run in runs})
        if telling:
            # If time is measured as lr·t, the learning rate makes no difference.
            known = fit([run.at_unit_lr() for run in telling])
            c = known.c / runs[0].length
            ends = np.array([products[0], products[-1]])
            axes.plot(ends, c / ends, color=SOFT, linestyle=(0, (5, 2)))
            words = f"t* = {number(float(f'{c:.2g}'))}/(lr·λ) epochs"
            axes.set_title(words, loc="right", color=SOFT)
            slope = "" if math.isnan(known.slope) else f", free slope {known.slope:.2f}"
            said.append(f"fit {words}, from {plural(known.runs, 'run')}{slope}")
        _logarithmic(axes, "lr·λ", products)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylabel("epochs to the best accuracy")
    title = "Time to the best accuracy against lr·λ"
    caption = (
        "Epochs to the best test accuracy (within half a point, averaged over a tenth of the time "
        "around) at each constant learning rate and λ above 0. Hollow: runs that were at their "
        "best in the second half of training, which are not part of the fit (dashed)."
    )
    alt = f"{title}, logarithmic axes. {_sentence(said)}"
    return [plot.save(figure, "time_to_best", title, caption, alt, folder)]


def training_lengths(runs: Sequence[Peak]) -> Mapping[str, list[Peak]]:
    """Group runs by training length, which is either fixed or proportional to 1/λ.

    Returns:
        The runs of each group with at least `FEWEST` values of λ, by a description of the length.
    """
    found: dict[str, list[Peak]] = {}
    runs = [run for run in runs if run.lambda_ > 0]
    for steps in sorted({run.steps for run in runs}):
        same = [run for run in runs if run.steps == steps]
        if len({run.lambda_ for run in same}) >= FEWEST:
            found[f"{steps / same[0].length:g} epochs"] = same
    left = [run for run in runs if all(run not in same for same in found.values())]
    products = sorted({run.lambda_ * run.steps / run.length for run in left})
    while products:
        first = products[0]
        near = [run for run in runs if _near(run.lambda_ * run.steps / run.length, first)]
        if len({run.lambda_ for run in near}) >= FEWEST:
            middle = float(np.median([run.lambda_ * run.steps / run.length for run in near]))
            found[f"{number(float(f'{middle:.2g}'))}/λ epochs"] = near
        products = [product for product in products if not _near(product, first)]
    return found


def _near(one: float, other: float) -> bool:
    return abs(math.log(one / other)) <= NEAR


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Create a figure with `count` panels, two per row; a single panel has the full width."""
    across = min(2, count)
    down = -(-count // across)
    figure = plot.new_figure(2.9 * down + 0.4)
    axes = figure.subplots(down, across, squeeze=False).ravel().tolist()
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def _means(
    runs: Sequence[Peak], x: Callable[[Peak], float], y: Callable[[Peak], float]
) -> pd.Series:
    frame = pd.DataFrame({"x": [x(run) for run in runs], "y": [y(run) for run in runs]})
    return frame.groupby("x")["y"].mean()


def _logarithmic(axes: Axes, label: str, values: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.margins(0.08)
    axes.set_xticks(values, [number(value) for value in values], rotation=45 * (len(values) > 5))
    axes.xaxis.set_minor_locator(NullLocator())


def _sentence(said: Sequence[str]) -> str:
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
