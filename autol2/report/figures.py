"""The report's figures: the paper's four, one an axis that varies, and one that explains.

Each figure of the first two kinds is as in the paper: two rows (without and with batch-norm) of two
panels, test accuracy against epoch and λ against epoch, the latter on logarithmic axes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..files import write_atomically
from .runs import Curves
from .tables import NAMES

Say = Callable[[str], object]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
"""Okabe and Ito's, which the colour-blind can tell apart."""
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (1, 1)))
K, EPOCH = 5, 391
"""Steps between measurements, and of an epoch, in the published runs."""
FIRST = K / EPOCH
"""Where the paper's λ panels begin."""
LAMBDA_ZERO = 1e-6
"""Where λ = 0 is drawn on a logarithmic axis."""
PAPER = {
    "figure1": (
        "Percentage threshold",
        [("fixed", 5e-4), ("auto_l2", None), ("threshold", 5), ("threshold", 10)],
    ),
    "figure2": (
        "Raising λ",
        [("fixed", 5e-4), ("auto_l2", None), ("combined", 5), ("advance", None)],
    ),
    "figure3": (
        "Values of λ",
        [("fixed", 1e-5), ("fixed", 5e-4), ("fixed", 1e-4), ("auto_l2", None)],
    ),
    "figure4": (
        "Second attempt",
        [("fixed", 5e-4), ("auto_l2", None), ("advance", None)],
    ),
}


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
    style: int
    runs: list[Curves]
    marks: pd.DataFrame
    """Published runs of this arm, none where they do not apply."""


def curve_name(method: str, number: float | None) -> str:
    """The name of one of the paper's curves."""
    name = NAMES[method]
    if number is None:
        return name
    return f"{name} {number:g}" + (" %" if method in ("threshold", "combined") else "")


def draw(
    name: str,
    title: str,
    rows: Sequence[tuple[str, Sequence[Curve]]],
    length: int,
    folder: Path,
) -> Drawing:
    """Draw test accuracy and λ of each row's curves; PNG and SVG in `folder`.

    Args:
        name: the files' name.
        title: what is compared.
        rows: a heading and its curves, from top to bottom.
        length: steps of an epoch.
        folder: where to.
    """
    figure = _figure(len(rows))
    for place, (heading, curves) in enumerate(rows):
        left, right = (
            figure.add_subplot(len(rows), 2, 2 * place + 1),
            figure.add_subplot(len(rows), 2, 2 * place + 2),
        )
        for curve in curves:
            _accuracy(left, curve)
            _lambda(right, curve, length)
        _dress(left, heading, "test accuracy (%)")
        _dress(right, heading, "λ")
        right.set_xscale("log")
        starts = [run.lambdas[0][0] for curve in curves for run in curve.runs if run.lambdas]
        right.set_xlim(left=min(starts, default=K) / length)
        right.set_yscale("log")
    marked = any(len(curve.marks) for _, curves in rows for curve in curves)
    caption = f"{title}: test accuracy and λ; line: mean (λ: median) over seeds, band: their range."
    if marked:
        caption += " Crosses and thin dashes: the published runs."
    return _save(figure, name, title, caption, folder)


def explain(rows: Sequence[tuple[str, Sequence[Curve]]], folder: Path) -> Drawing:
    """Draw ‖w‖ and the effective learning rate lr/‖w‖² of the convolutions, per arm."""
    figure = _figure(len(rows) * 2)
    panels = [("conv1", "first convolution"), ("conv2", "second convolution")]
    for place, (heading, curves) in enumerate(rows):
        for down, (layer, layer_name) in enumerate(panels):
            for across, (column, what) in enumerate(
                [(f"norm_{layer}", "‖w‖"), (f"effective_lr_{layer}", "lr / ‖w‖²")]
            ):
                axes = figure.add_subplot(len(rows) * 2, 2, 4 * place + 2 * down + across + 1)
                for curve in curves:
                    _course(axes, curve, column)
                _dress(axes, f"{heading}, {layer_name}", what)
                axes.set_yscale("log")
    title = "What the penalty does to the convolutions"
    caption = (
        "Length of the convolutions' weights and their effective learning rate lr/‖w‖² after each "
        "epoch. Below batch-norm the length does not change what the network computes, only how "
        "fast it turns: an early shrinking acts as a higher learning rate."
    )
    return _save(figure, "explain", title, caption, folder)


def _figure(rows: int) -> Figure:
    mpl.rcParams.update({"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "autol2"})
    return Figure(figsize=(9.5, 3.1 * rows), layout="constrained", dpi=150)


def _dress(axes: Axes, heading: str, what: str) -> None:
    axes.set_title(heading, fontsize=9)
    axes.set_xlabel("epoch")
    axes.set_ylabel(what)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _line(curve: Curve) -> dict[str, Any]:
    return {
        "color": COLOURS[curve.style % len(COLOURS)],
        "linestyle": DASHES[curve.style % len(DASHES)],
        "linewidth": 1.6,
    }


def _course(axes: Axes, curve: Curve, column: str) -> None:
    """A column of epochs.csv against epoch: the mean of the seeds and their range."""
    courses = [
        pd.Series(run.epochs[column], index=np.round(run.epochs["epoch"], 6), dtype=float)
        for run in curve.runs
        if column in run.epochs
    ]
    if not courses:
        return
    frame = pd.concat(courses, axis=1).sort_index()
    marker = "o" if len(frame) == 1 else None
    style = _line(curve)
    axes.plot(
        frame.index, frame.mean(axis=1), label=curve.label, marker=marker, markersize=4, **style
    )
    if len(courses) > 1:
        low, high = frame.min(axis=1), frame.max(axis=1)
        axes.fill_between(frame.index, low, high, color=style["color"], alpha=0.18, linewidth=0)


def _accuracy(axes: Axes, curve: Curve) -> None:
    _course(axes, curve, "test_accuracy")
    colour = _line(curve)["color"]
    done = [run.epochs["epoch"][-1] for run in curve.runs if run.epochs.get("epoch")]
    reach = max([10.0, *done])  # later marks would only squeeze a short study
    for _, run in curve.marks.iterrows():
        marks = {epoch: run[f"epoch_{epoch}"] for epoch in (1, 10, 50, 100)}
        marks[200] = run["final_test_accuracy"]
        seen = {epoch: value for epoch, value in marks.items() if epoch <= reach}
        axes.plot(list(seen), list(seen.values()), "x", color=colour, markersize=5, mew=1.2)


def _lambda(axes: Axes, curve: Curve, length: int) -> None:
    style = _line(curve)
    paths = [
        [(step / length, value) for step, value in run.lambdas] for run in curve.runs if run.lambdas
    ]
    if paths:
        ends = [path[-1][0] for path in paths]
        grid = np.unique([epoch for path in paths for epoch, _ in path])
        values = np.array([_at(path, grid) for path in paths])
        values[:, :] = np.where(values > 0, values, LAMBDA_ZERO)
        seen = grid <= max(ends)
        axes.step(
            grid[seen],
            np.quantile(values, 0.5, axis=0, method="lower")[seen],
            where="post",
            **style,
        )
        if len(paths) > 1:
            axes.fill_between(
                grid,
                values.min(axis=0),
                values.max(axis=0),
                step="post",
                color=style["color"],
                alpha=0.18,
                linewidth=0,
            )
    for _, run in curve.marks.iterrows():
        path = published_path(run)
        axes.step(
            [epoch for epoch, _ in path],
            [value or LAMBDA_ZERO for _, value in path],
            where="post",
            color=style["color"],
            linestyle=(0, (1.5, 2.5)),
            linewidth=1.0,
        )


def _at(path: list[tuple[float, float]], grid: np.ndarray) -> np.ndarray:
    """λ of a path at the epochs of `grid`: each value holds until the next."""
    places = np.searchsorted([epoch for epoch, _ in path], grid, side="right") - 1
    return np.array([value for _, value in path])[np.maximum(places, 0)]


def published_path(run: pd.Series) -> list[tuple[float, float]]:
    """(epoch, λ from there on) of a row of the published table."""
    if run["method"] == "fixed":
        return [(FIRST, run["fixed_lambda"]), (200.0, run["fixed_lambda"])]
    path = [(FIRST, 0.1)]
    for change in str(run["lambda_changes"]).split():
        step, value = change.split(":")
        path.append((int(step) / EPOCH, float(value)))
    return [*path, (200.0, path[-1][1])]


def _save(figure: Figure, name: str, title: str, caption: str, folder: Path) -> Drawing:
    lines: dict[str, Any] = {}
    for axes in figure.axes:
        lines.update(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    if lines:
        figure.legend(
            list(lines.values()), list(lines), loc="outside lower center", ncols=4, frameon=False
        )
    paths = {}
    for kind in ("png", "svg"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
        paths[kind] = folder / f"{name}.{kind}"
        write_atomically(paths[kind], buffer.getvalue())
    return Drawing(name, title, caption, paths["png"], paths["svg"])


def all_figures(
    runs: pd.DataFrame,
    courses: dict[str, Curves],
    varying: Iterable[str],
    length: int,
    published: pd.DataFrame,
    folder: Path,
    say: Say,
) -> list[Drawing]:
    """Every figure that the study has the runs for.

    Args:
        runs: the table of runs.
        courses: each run's course, by run id.
        varying: the knobs that differ between runs.
        length: steps of an epoch.
        published: the published runs, empty where they are no match for this study's data.
        folder: where to.
        say: told the name of each figure before it is drawn.
    """
    drawings = []
    seen = runs[runs["status"] != "broken"]
    for name, (title, wanted) in PAPER.items():
        rows = _paper_rows(seen, courses, wanted, published)
        if max((len(curves) for _, curves in rows), default=0) >= 2:
            say(name)
            drawings.append(draw(name, title, rows, length, folder))
    others = [axis for axis in varying if axis != "batchnorm.enabled"]
    if not drawings:
        for axis in others or ["method.name"]:
            say(axis)
            rows = _axis_rows(seen, courses, axis)
            drawings.append(draw(axis.replace(".", "_"), axis, rows, length, folder))
    say("explain")
    drawings.append(explain(_axis_rows(seen, courses, "arm"), folder))
    return drawings


def _of(runs: pd.DataFrame, courses: dict[str, Curves]) -> list[Curves]:
    return [courses[run_id] for run_id in runs["run_id"] if courses[run_id].epochs]


def _rows(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    headings = ((False, "CNN"), (True, "CNN with batch-norm"))
    parts = [(heading, runs[runs["batchnorm"] == on]) for on, heading in headings]
    return [(heading, part) for heading, part in parts if len(part)]


def _paper_rows(
    runs: pd.DataFrame,
    courses: dict[str, Curves],
    wanted: list[tuple[str, float | None]],
    published: pd.DataFrame,
) -> list[tuple[str, list[Curve]]]:
    rows = []
    for heading, part in _rows(runs):
        curves = []
        for style, (method, number) in enumerate(wanted):
            name = curve_name(method, number)
            of = _of(part[part["arm"] == name], courses)
            if of:
                marks = published[
                    (published["method"] == method)
                    & (published["batchnorm"] == ("on" if "batch" in heading else "off"))
                ]
                if number is not None:
                    column = "fixed_lambda" if method == "fixed" else "alpha"
                    marks = marks[np.isclose(marks[column], number)]
                curves.append(Curve(name, style, of, marks))
        if curves:
            rows.append((heading, curves))
    return rows


def _axis_rows(
    runs: pd.DataFrame, courses: dict[str, Curves], axis: str
) -> list[tuple[str, list[Curve]]]:
    column = {"method.name": "method"}.get(axis, axis)
    rows = []
    for heading, part in _rows(runs):
        curves = []
        values = [value for value in part[column].drop_duplicates() if not _missing(value)]
        for style, value in enumerate(sorted(values, key=lambda value: (str(type(value)), value))):
            of = _of(part[part[column] == value], courses)
            if of:
                short = f"{value:g}" if isinstance(value, float) else str(value)
                text = short if column in ("arm", "method") else f"{axis}={short}"
                curves.append(Curve(text, style, of, pd.DataFrame()))
        if curves:
            rows.append((heading, curves))
    return rows


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
