"""Figures of curves during training: test accuracy, λ, and the norm of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from . import plot
from .colours import TEXT
from .plot import Curve, Drawing, Row
from .published import MARKS, path_of
from .runs import Curves
from .words import number

PUBLISHED: dict[str, Any] = {"linestyle": (0, (4, 3)), "linewidth": 0.9}
"""The line style of λ in the published runs, with thinner dashes than those of our runs."""
CROSS: dict[str, Any] = {"marker": "x", "markersize": 5, "markeredgewidth": 1.2}
"""The marker of the test accuracy of the published runs."""
LAMBDA_ZERO = 1e-6
"""The position of λ = 0 on a logarithmic axis."""
SHORT = 10.0
"""Minimum number of epochs on the axis if published runs are marked."""
HEIGHT = 2.25
"""The height in inches of a row of panels."""
END = 0.25
"""The share of training that the panel of its end shows."""
FEW = 4
"""Minimum number of evaluations in the panel of the end.

The panel is left out if there are at most twice as many evaluations in all.
"""
APART = 10.0
"""Points of accuracy below the best at which a curve is left out of the panel of the end."""
CROWDED = 5
"""Number of curves from which the panel of the end shows no bands, which would hide each other."""
POINTS = 100
"""Maximum number of points that are drawn of a curve in each panel."""


@plot.settings()
def histories(name: str, title: str, rows: Sequence[Row], length: int, folder: Path) -> Drawing:
    """Draw the test accuracy, its end enlarged, and λ for the curves of each row.

    Args:
        name: the name of the files.
        title: the title, which says what is compared.
        rows: the rows of panels, from top to bottom.
        length: the number of steps per epoch.
        folder: the folder to write to.
    """
    curves = [curve for _, curves in rows for curve in curves]
    everyone = [run for curve in curves for run in (*curve.runs, *curve.ended)]
    marked = any(len(curve.marks) for curve in curves)
    ends = [run.epochs["epoch"] for run in everyone if evaluated(run)]
    reach = max([SHORT] * marked + [epochs[-1] for epochs in ends], default=1.0)
    since = _end(ends, reach)
    starts = [run.lambdas[0][0] for run in everyone if run.lambdas]
    labels, counted = plot.seeds_said(curves)
    label_of = {id(curve): label for curve, label in zip(curves, labels, strict=True)}
    figure = plot.new_figure(HEIGHT * len(rows) + 0.4)
    grid = figure.subplots(len(rows), 2 if since is None else 3, squeeze=False)
    left_out = no_bands = False
    for panels, (heading, of_row) in zip(grid, rows, strict=True):
        plot.heading(panels[0], heading)
        for curve in of_row:
            _accuracy(panels[0], curve, reach, label_of[id(curve)])
            _lambda(panels[-1], curve, length)
        _dress(panels[0], "test accuracy (%)")
        panels[0].set_xlim(0, 1.03 * reach)
        if not panels[0].lines or not any(
            evaluated(run) for curve_ in of_row for run in curve_.runs
        ):
            panels[0].set_ylim(0, 100)
        if since is not None:
            for curve in of_row:
                _accuracy(panels[1], curve, reach, None, since, len(of_row) < CROWDED)
            _dress(panels[1], "test accuracy (%)")
            panels[1].set_title("end of training")
            panels[1].set_xlim(since, reach + (reach - since) * 0.04)
            left_out |= _close_up(panels[1], of_row, since, reach)
            no_bands |= len(of_row) >= CROWDED
        _dress(panels[-1], "λ")
        _logarithmic(panels[-1], min(starts, default=5) / length, max(1.0, reach) * 1.05)
    caption = (
        f"{title}: test accuracy{'' if since is None else ', its end enlarged,'} and λ against "
        f"epoch. {counted}"
    )
    if any(len(curve.runs) > 2 for curve in curves):
        caption += " Band: 95 % interval of that mean (t distribution)"
        caption += ", not drawn in the enlarged panel." if no_bands else "."
    if any(len(curve.runs) > 1 for curve in curves):
        caption += " λ: median of the seeds, with the range from the lowest to the highest."
    if left_out:
        caption += f" Curves more than {APART:g} points below the best leave the enlarged panel."
    if any(curve.ended for curve in curves):
        caption += " Thin lines: runs that ended before the others and are not part of a mean."
    if marked:
        caption += " Crosses and thin dashes: the published runs."
        grid[0][0].plot([], [], color="0.3", label="published run", **CROSS, **PUBLISHED)
    if any(run.diverged for run in everyone):
        caption += " ✖: a run diverged there."
    if any(value == 0 for run in everyone for _, value in run.lambdas):
        caption += f" λ = 0 is drawn at {number(LAMBDA_ZERO)}."
    return plot.save(figure, name, title, caption, _alt(title, rows, reach), folder)


@plot.settings()
def norms(
    name: str, rows: Sequence[tuple[str, list[Curve], str, str]], caption: str, folder: Path
) -> Drawing:
    """Draw ‖w‖ and the effective learning rate lr/‖w‖² of one layer in each row.

    Args:
        name: the name of the files.
        rows: the rows of panels, from top to bottom: the heading, the curves, and the name of the
            layer, as in epochs.csv and in words.
        caption: the text that explains how to read the figure.
        folder: the folder to write to.
    """
    figure = plot.new_figure(HEIGHT * len(rows) + 0.4)
    grid = figure.subplots(len(rows), 2, squeeze=False)
    curves = [curve for _, curves, _, _ in rows for curve in curves]
    labels, counted = plot.seeds_said(curves)
    label_of = {id(curve): label for curve, label in zip(curves, labels, strict=True)}
    for panels, (heading, of_row, layer, words) in zip(grid, rows, strict=True):
        plot.heading(panels[0], f"{heading}, {words}")
        for axes, column, what in (
            (panels[0], f"norm_{layer}", "length ‖w‖ of its weights"),
            (panels[1], f"effective_lr_{layer}", "effective learning rate lr/‖w‖²"),
        ):
            for curve in of_row:
                _course(axes, curve, column, label_of[id(curve)], band=False)
            _dress(axes, what)
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda _, __: ""))
    layers = ", ".join(dict.fromkeys(words for _, _, _, words in rows))
    headings = list(dict.fromkeys(heading for heading, _, _, _ in rows))
    title = f"What the penalty does to the weights: {layers}" + f", {headings[0]}" * (
        len(headings) == 1
    )
    ends = "; ".join(
        f"{heading}, {words}: " + _ends(of_row, f"norm_{layer}", "", "no length recorded")
        for heading, of_row, layer, words in rows
    )
    alt = f"Line charts of the length and the effective learning rate of {layers}. At the end: "
    return plot.save(figure, name, title, f"{caption} {counted}", f"{alt}{ends}.", folder)


def evaluated(run: Curves) -> bool:
    """Whether the run has been evaluated."""
    return bool(run.epochs.get("epoch"))


def over_seeds(curve: Curve, column: str) -> pd.DataFrame:
    """Return a column of epochs.csv [epochs, runs], for epochs that all averaged runs have."""
    seeds = [
        pd.Series(run.epochs[column], index=np.round(run.epochs["epoch"], 6), dtype=float)
        for run in curve.runs
        if evaluated(run) and column in run.epochs
    ]
    return pd.concat(seeds, axis=1).sort_index().dropna() if seeds else pd.DataFrame()


def _thinned(frame: pd.DataFrame) -> pd.DataFrame:
    """Thin a table to at most `POINTS` rows, including the last one."""
    every = max(1, -(-len(frame) // POINTS))
    return frame.iloc[(len(frame) - 1) % every :: every]


def _end(epochs: Sequence[Sequence[float]], reach: float) -> float | None:
    """Return the epoch at which the panel of the end begins; None if it should be left out."""
    longest = max((sorted(run_epochs) for run_epochs in epochs), key=len, default=[])
    if len(longest) <= 2 * FEW:
        return None
    return float(min((1 - END) * reach, longest[-FEW]))


def _dress(axes: Axes, what: str) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.set_ylabel(what)


def _logarithmic(axes: Axes, first: float, last: float) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(first, last)
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axis.set_minor_formatter(FuncFormatter(lambda _, __: ""))


def _course(
    axes: Axes,
    curve: Curve,
    column: str,
    label: str | None,
    since: float = 0.0,
    band: bool = True,
) -> None:
    """Draw a column of epochs.csv against the epoch: the mean of the seeds and its interval."""
    frame = over_seeds(curve, column)
    frame = _thinned(frame[frame.index >= since] if len(frame) else frame)
    if frame.empty:
        axes.plot([], [], label=label, **curve.line)  # The curve still appears in the legend.
    else:
        mean, low, high = plot.mean_and_band(frame.to_numpy().T)
        marker = "o" if len(frame) == 1 else None
        axes.plot(frame.index, mean, label=label, marker=marker, markersize=4, **curve.line)
        if band and not np.isnan(low).all():
            axes.fill_between(frame.index, low, high, color=curve.colour, alpha=0.18, linewidth=0)
    for run in curve.ended:
        if evaluated(run) and column in run.epochs and run.epochs["epoch"][-1] >= since:
            marker = "." if len(run.epochs["epoch"]) == 1 else None
            how = {**curve.line, "linewidth": 0.8, "marker": marker, "markersize": 3}
            axes.plot(run.epochs["epoch"], run.epochs[column], **how)


def _accuracy(
    axes: Axes, curve: Curve, reach: float, label: str | None, since: float = 0.0, band: bool = True
) -> None:
    _course(axes, curve, "test_accuracy", label, since, band)
    for run in (*curve.runs, *curve.ended):
        if run.diverged and evaluated(run):
            _cross_out(axes, curve, run.diverged, run.epochs["test_accuracy"][-1])
        elif run.diverged:  # Before the first evaluation: mark it at the bottom of the panel.
            foot = axes.get_xaxis_transform()
            _cross_out(axes, curve, run.diverged, 0.03, transform=foot)
    for _, mark in curve.marks.iterrows():
        seen = {epoch: mark[column] for epoch, column in MARKS.items() if epoch <= reach}
        how = {**CROSS, "color": curve.colour, "linestyle": "none"}
        axes.plot(list(seen), list(seen.values()), zorder=3, **how)


def _close_up(axes: Axes, curves: Sequence[Curve], since: float, reach: float) -> bool:
    """Limit the axis to the curves close to the best one.

    Args:
        axes: the panel of the end.
        curves: the curves of the panel.
        since: the first epoch of the panel.
        reach: the last epoch of the panel.

    Returns:
        Whether any curve is left out.
    """
    lows, highs, lasts, dips, marks = [], [], [], [], []
    banded = len(curves) < CROWDED
    for curve in curves:
        frame = over_seeds(curve, "test_accuracy")
        frame = frame[frame.index >= since] if len(frame) else frame
        if frame.empty:
            continue
        mean, low, high = plot.mean_and_band(frame.to_numpy().T)
        lows.append(float(np.nanmin([mean, low] if banded else mean)))
        highs.append(float(np.nanmax([mean, high] if banded else mean)))
        lasts.append(float(mean[-1]))
        dips.append(float(mean.min()))
        columns = [column for epoch, column in MARKS.items() if since <= epoch <= reach]
        marks += [float(mark[name]) for _, mark in curve.marks.iterrows() for name in columns]
    if not lasts:
        return False
    near = [last > max(lasts) - APART for last in lasts]
    marks = [value for value in marks if math.isfinite(value)]
    lowest = min([value for value, shown in zip(lows, near, strict=True) if shown] + marks)
    highest = max([value for value, shown in zip(highs, near, strict=True) if shown] + marks)
    dip = min(value for value, shown in zip(dips, near, strict=True) if shown)
    bottom = max(lowest, min(max(lasts) - APART, max(dip, max(lasts) - 2 * APART)))
    top = min(highest, max(lasts) + APART)
    margin = 0.06 * (top - bottom) or 0.5
    axes.set_ylim(bottom - margin, top + margin)
    return not all(near)


def _cross_out(axes: Axes, curve: Curve, epoch: float, value: float, **how: Any) -> None:
    axes.plot([epoch], [value], "X", color=curve.colour, mec=TEXT, mew=0.7, ms=8, **how)


def _lambda(axes: Axes, curve: Curve, length: int) -> None:
    paths = [_path(run, length) for run in curve.runs if run.lambdas]
    if paths:
        grid = np.unique([epoch for path in paths for epoch, _ in path])
        values = np.array([_at(path, grid) for path in paths])
        median = np.nanquantile(values, 0.5, axis=0, method="lower")
        axes.step(grid, median, where="post", **curve.line)
        if len(values) > 1:
            low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
            axes.fill_between(
                grid, low, high, step="post", color=curve.colour, alpha=0.18, linewidth=0
            )
    for run in curve.ended:
        if run.lambdas:
            epochs, lambdas = zip(*_path(run, length), strict=True)
            axes.step(epochs, lambdas, where="post", **{**curve.line, "linewidth": 0.8})
    for run in (*curve.runs, *curve.ended):
        if run.diverged and run.lambdas:
            _cross_out(axes, curve, *_path(run, length)[-1])
    for _, mark in curve.marks.iterrows():
        path = path_of(mark)
        axes.step(
            [epoch for epoch, _ in path],
            [value or LAMBDA_ZERO for _, value in path],
            where="post",
            color=curve.colour,
            **PUBLISHED,
        )


def _path(run: Curves, length: int) -> list[tuple[float, float]]:
    return [(step / length, value or LAMBDA_ZERO) for step, value in run.lambdas]


def _at(path: list[tuple[float, float]], grid: np.ndarray) -> np.ndarray:
    """Return λ at the epochs of `grid`; each value holds until the next, and NaN after the end."""
    epochs = [epoch for epoch, _ in path]
    places = np.searchsorted(epochs, grid, side="right") - 1
    values = np.array([value for _, value in path])[np.maximum(places, 0)]
    return np.where(grid <= epochs[-1], values, np.nan)


def _alt(title: str, rows: Sequence[Row], reach: float) -> str:
    parts = [
        f"{heading}: " + _ends(curves, "test_accuracy", " %", "no accuracy yet")
        for heading, curves in rows
    ]
    words = f"Line charts, {title}: test accuracy and λ against epoch, to epoch {reach:g}. "
    return words + "At the end: " + "; ".join(parts) + "."


def _ends(curves: Sequence[Curve], column: str, unit: str, nothing: str) -> str:
    """Describe the final value of each curve, in decreasing order."""
    ends = []
    for curve in curves:
        frame = over_seeds(curve, column)
        if len(frame):
            lambdas = [run.lambdas[-1][1] for run in curve.runs if run.lambdas]
            moves = any(len({value for _, value in run.lambdas}) > 1 for run in curve.runs)
            last = f" with λ at {number(float(np.median(lambdas)))}" if moves and unit else ""
            ends.append((float(frame.iloc[-1].mean()), f"{curve.label} ", f"{unit}{last}"))
    ordered = sorted(ends, key=lambda one: -one[0])
    return ", ".join(f"{label}{end:.4g}{after}" for end, label, after in ordered) or nothing
