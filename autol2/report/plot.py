"""Drawing: panels of curves, each the runs of one arm, as PNG and SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from ..runs.files import write_atomically
from .published import MARKS, path_of
from .runs import Curves

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
"""Okabe and Ito's, which the colour-blind can tell apart."""
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (1, 1.6)))
PUBLISHED: dict[str, Any] = {"linestyle": (0, (4, 3)), "linewidth": 0.9}
"""Of the published runs' λ: dashes thinner than any of ours."""
CROSS: dict[str, Any] = {"marker": "x", "markersize": 5, "markeredgewidth": 1.2}
"""Of their test accuracy."""
LAMBDA_ZERO = 1e-6
"""Where λ = 0 is drawn on a logarithmic axis."""
SHORT = 10.0
"""Epochs that are shown at least where published runs are marked."""
WIDTH = 120
"""Letters beside each other in a legend."""
ROWS = 6
"""Of panels, at most, in a figure."""


@dataclass(frozen=True)
class Drawing:
    """A finished figure."""

    name: str
    title: str
    caption: str
    png: Path
    svg: Path


@dataclass(frozen=True)
class Curve:
    """What one line of a figure shows: the runs of an arm, a seed each."""

    label: str
    colour: str
    dashes: Any
    runs: list[Curves]
    marks: pd.DataFrame
    """Published runs of this arm, none where they do not apply."""


Row = tuple[str, list[Curve]]
"""A heading and what its panels show."""


def histories(name: str, title: str, rows: Sequence[Row], length: int, folder: Path) -> Drawing:
    """Draw test accuracy and λ of each row's curves.

    Args:
        name: the files' name.
        title: what is compared.
        rows: from top to bottom; those after the first `ROWS` are left out.
        length: steps of an epoch.
        folder: where to.
    """
    shown = rows[:ROWS]
    figure = _figure(len(shown))
    curves = [curve for _, curves in rows for curve in curves]
    marked = any(len(curve.marks) for curve in curves)
    ends = [run.epochs["epoch"][-1] for curve in curves for run in curve.runs if _evaluated(run)]
    reach = max([SHORT] * marked + ends, default=1.0)
    starts = [run.lambdas[0][0] for curve in curves for run in curve.runs if run.lambdas]
    for place, (heading, of_row) in enumerate(shown):
        left = figure.add_subplot(len(shown), 2, 2 * place + 1)
        right = figure.add_subplot(len(shown), 2, 2 * place + 2)
        for curve in of_row:
            _accuracy(left, curve, reach)
            _lambda(right, curve, length)
        _dress(left, heading, "test accuracy (%)")
        left.set_xlim(0, 1.03 * reach)
        if not any(_evaluated(run) for one in of_row for run in one.runs):
            left.set_ylim(0, 100)
        _dress(right, heading, "λ")
        right.set_xscale("log")
        right.set_yscale("log")
        right.set_xlim(min(starts, default=5) / length, max(1.0, reach) * 1.05)
        right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    caption = (
        f"{title}: test accuracy and λ against epoch. Line: mean over seeds (λ: median); band: "
        "lowest to highest seed; where a run ended early, of the others."
    )
    if marked:
        caption += " Crosses and thin dashes: the published runs."
        left.plot([], [], color="0.3", label="published run", **CROSS, **PUBLISHED)
    if any(run.diverged for curve in curves for run in curve.runs):
        caption += " ✖: a run diverged there."
    if any(value == 0 for curve in curves for run in curve.runs for _, value in run.lambdas):
        caption += f" λ = 0 is drawn at {LAMBDA_ZERO:g}."
    return _save(figure, name, title, caption + _left_out(rows), folder)


def norms(rows: Sequence[Row], layers: dict[str, str], folder: Path) -> Drawing:
    """Draw ‖w‖ and the effective learning rate lr/‖w‖² of layers.

    Args:
        rows: from top to bottom; those after the first `ROWS` are left out.
        layers: name in epochs.csv, and in words.
        folder: where to.
    """
    shown = [(heading, curves, layer) for heading, curves in rows[:ROWS] for layer in layers]
    figure = _figure(len(shown))
    for down, (heading, curves, layer) in enumerate(shown):
        for across, (column, what) in enumerate(
            [(f"norm_{layer}", "‖w‖"), (f"effective_lr_{layer}", "lr / ‖w‖²")]
        ):
            axes = figure.add_subplot(len(shown), 2, 2 * down + across + 1)
            for curve in curves:
                _course(axes, curve, column)
            _dress(axes, f"{heading}, {layers[layer]}", what)
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda _, __: ""))
    caption = (
        "Length of the convolutions' weights and their effective learning rate lr/‖w‖² after each "
        "epoch. Below batch-norm the length does not change what the network computes, only how "
        "fast it turns: an early shrinking acts as a higher learning rate."
    )
    title = "What the penalty does to the convolutions"
    return _save(figure, "explain", title, caption + _left_out(rows), folder)


def _left_out(rows: Sequence[Row]) -> str:
    return f" The first {ROWS} of {len(rows)} comparisons." if len(rows) > ROWS else ""


def _figure(rows: int) -> Figure:
    mpl.rcParams.update({"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "autol2"})
    return Figure(figsize=(9.5, 3.1 * rows), layout="constrained", dpi=150)


def _dress(axes: Axes, heading: str, what: str) -> None:
    axes.set_title(heading, fontsize=9)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(what)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _line(curve: Curve) -> dict[str, Any]:
    return {"color": curve.colour, "linestyle": curve.dashes, "linewidth": 1.6}


def _band(axes: Axes, curve: Curve, x: Any, values: Any, **how: Any) -> None:
    """The range of `values` [seeds, points]."""
    if len(values) > 1:
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
        axes.fill_between(x, low, high, color=curve.colour, alpha=0.18, linewidth=0, **how)


def _evaluated(run: Curves) -> bool:
    return bool(run.epochs.get("epoch"))


def _course(axes: Axes, curve: Curve, column: str) -> None:
    """A column of epochs.csv against epoch: the mean of the seeds and their range."""
    seeds = [
        pd.Series(run.epochs[column], index=np.round(run.epochs["epoch"], 6), dtype=float)
        for run in curve.runs
        if _evaluated(run) and column in run.epochs
    ]
    if not seeds:
        axes.plot([], [], label=curve.label, **_line(curve))  # still has its place in the legend
        return
    frame = pd.concat(seeds, axis=1).sort_index()
    marker = "o" if len(frame) == 1 else None
    mean = frame.mean(axis=1)
    axes.plot(frame.index, mean, label=curve.label, marker=marker, markersize=4, **_line(curve))
    _band(axes, curve, frame.index, frame.to_numpy().T)


def _accuracy(axes: Axes, curve: Curve, reach: float) -> None:
    _course(axes, curve, "test_accuracy")
    for run in curve.runs:
        if run.diverged and _evaluated(run):
            _cross_out(axes, curve, run.diverged, run.epochs["test_accuracy"][-1])
        elif run.diverged:  # before there was an accuracy: at the foot of the panel
            foot = axes.get_xaxis_transform()
            _cross_out(axes, curve, run.diverged, 0.03, transform=foot)
    for _, mark in curve.marks.iterrows():
        seen = {epoch: mark[column] for epoch, column in MARKS.items() if epoch <= reach}
        how = {**CROSS, "color": curve.colour, "linestyle": "none"}
        axes.plot(list(seen), list(seen.values()), zorder=3, **how)


def _cross_out(axes: Axes, curve: Curve, epoch: float, value: float, **how: Any) -> None:
    axes.plot([epoch], [value], "X", color=curve.colour, mec="black", mew=0.7, ms=8, **how)


def _lambda(axes: Axes, curve: Curve, length: int) -> None:
    paths = [
        [(step / length, value or LAMBDA_ZERO) for step, value in run.lambdas]
        for run in curve.runs
        if run.lambdas
    ]
    if paths:
        grid = np.unique([epoch for path in paths for epoch, _ in path])
        values = np.array([_at(path, grid) for path in paths])
        median = np.nanquantile(values, 0.5, axis=0, method="lower")
        axes.step(grid, median, where="post", **_line(curve))
        _band(axes, curve, grid, values, step="post")
    for run in curve.runs:
        if run.diverged and run.lambdas:
            step, value = run.lambdas[-1]
            _cross_out(axes, curve, step / length, value or LAMBDA_ZERO)
    for _, mark in curve.marks.iterrows():
        path = path_of(mark)
        axes.step(
            [epoch for epoch, _ in path],
            [value or LAMBDA_ZERO for _, value in path],
            where="post",
            color=curve.colour,
            **PUBLISHED,
        )


def _at(path: list[tuple[float, float]], grid: np.ndarray) -> np.ndarray:
    """λ of a path at the epochs of `grid`: each value holds until the next, NaN after the end."""
    epochs = [epoch for epoch, _ in path]
    places = np.searchsorted(epochs, grid, side="right") - 1
    values = np.array([value for _, value in path])[np.maximum(places, 0)]
    return np.where(grid <= epochs[-1], values, np.nan)


def _save(figure: Figure, name: str, title: str, caption: str, folder: Path) -> Drawing:
    lines: dict[str, Any] = {}
    for axes in figure.axes:
        lines.update(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    if lines:
        columns = max(1, min(len(lines), WIDTH // (max(map(len, lines)) + 8)))
        columns = math.ceil(len(lines) / math.ceil(len(lines) / columns))  # rows of one length
        figure.legend(
            list(lines.values()),
            list(lines),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
        )
    paths = {}
    for kind in ("png", "svg"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
        figure.set_layout_engine("none")  # it is laid out
        paths[kind] = folder / f"{name}.{kind}"
        write_atomically(paths[kind], buffer.getvalue())
    return Drawing(name, title, caption, paths["png"], paths["svg"])
