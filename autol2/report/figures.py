"""Which figures a study has: the paper's four, one an axis that varies, and one that explains.

Those of the first two kinds are as in the paper: a row without and one with batch-norm, of two
panels, test accuracy against epoch and λ against epoch, the latter on logarithmic axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from . import plot
from .arms import NAMES
from .plot import COLOURS, DASHES, Curve, Drawing, Row
from .runs import Curves

Say = Callable[[str], object]


@dataclass(frozen=True)
class Line:
    """A curve of one of the paper's figures."""

    method: str
    number: float | None = None
    """λ of fixed, α of threshold and combined."""
    attempt: int = 1
    """Which of the paper's attempts; of ours, which seed that has this arm (0: all)."""
    own: bool = False
    """What the figure is about: without one such curve it is not drawn."""

    @property
    def arm(self) -> str:
        """The arm's name, as in the tables."""
        name = NAMES[self.method]
        if self.number is None:
            return name
        return f"{name} {self.number:g}" + " %" * (self.method in ("threshold", "combined"))


FIXED, AUTO_L2 = Line("fixed", 5e-4), Line("auto_l2")
PAPER = {
    "figure1": (
        "Percentage threshold",
        [FIXED, AUTO_L2, Line("threshold", 5, own=True), Line("threshold", 10, own=True)],
    ),
    "figure2": (
        "Raising λ",
        [FIXED, AUTO_L2, Line("combined", 5, own=True), Line("advance", own=True)],
    ),
    "figure3": (
        "Values of λ",
        [Line("fixed", 1e-5, own=True), FIXED, Line("fixed", 1e-4, own=True), AUTO_L2],
    ),
    "figure4": (
        "Second attempt",
        [FIXED, AUTO_L2, Line("advance"), Line("advance", attempt=2, own=True)],
    ),
}
STYLES = {
    "fixed λ 0.0005": 0,
    "Auto L2": 1,
    "threshold 5 %": 2,
    "threshold 10 %": 3,
    "combined 5 %": 4,
    "fixed λ 1e-05": 13,
    "Advance L2": 22,
    "fixed λ 0.0001": 7,
    "Advance L2, second run": 19,
    "fixed λ 0": 10,
}
"""The place of each of the paper's curves among colours and dashes, the same in every figure, and
such that no two of one figure share either."""
TITLES = {
    "method.name": "Methods",
    "alpha.percent": "Threshold α",
    "fixed_lambda.value": "Values of λ",
    "lr": "Learning rate",
}
"""Of the figures of an axis; others are called by their option."""
CONVOLUTIONS = {"conv1": "first convolution", "conv2": "second convolution"}
ARMS = 10
"""That a row of the explaining figure shows at most."""


def all_figures(
    runs: pd.DataFrame,
    histories: dict[str, Curves],
    axes: Sequence[str],
    length: int,
    published: pd.DataFrame,
    folder: Path,
    say: Say,
) -> list[Drawing]:
    """Every figure that the study has the runs for.

    Args:
        runs: the table of runs.
        histories: each run's history, by run id.
        axes: the options that the study compares.
        length: steps of an epoch.
        published: the published runs, empty where they are no match for this study's data.
        folder: where to.
        say: told the name of each figure before it is drawn.
    """
    seen = runs[[bool(histories[run_id].lambdas) for run_id in runs["run_id"]]]
    if seen.empty:
        return []
    drawings, covered = [], set()
    for name, (title, lines) in PAPER.items():
        arms = set(seen["arm"])
        there = [line for line in lines if line.arm in arms]
        rows = _paper_rows(seen, histories, lines, published)
        if len(there) < 2 or not _about(rows, lines):
            continue
        say(name)
        drawings.append(plot.histories(name, title, rows, length, folder))
        covered |= {line.arm for line in there}
    if not set(seen["arm"]) <= covered:
        for axis in axes:
            rows = _axis_rows(seen, histories, axis, axes)
            if rows:
                say(axis)
                name = axis.removesuffix(".name").replace(".", "_")
                title = TITLES.get(axis, axis)
                drawings.append(plot.histories(name, title, rows, length, folder))
    say("explain")
    return [*drawings, plot.norms(_arm_rows(seen, histories), CONVOLUTIONS, folder)]


def _about(rows: Sequence[Row], lines: Sequence[Line]) -> bool:
    own = {_label(line) for line in lines if line.own}
    return any(curve.label in own for _, curves in rows for curve in curves)


def _label(line: Line) -> str:
    return line.arm + ", second run" * (line.attempt == 2)


def _by_batchnorm(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    headings = ((False, "CNN"), (True, "CNN with batch-norm"))
    parts = [(heading, runs[runs["batchnorm"] == on]) for on, heading in headings]
    return [(heading, part) for heading, part in parts if len(part)]


def _of(runs: pd.DataFrame, histories: dict[str, Curves]) -> list[Curves]:
    return [histories[run_id] for run_id in runs["run_id"]]


def _style(place: int) -> tuple[str, Any]:
    return COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]


def _styles(arms: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """Of each arm, the paper's first: the one it always has, or the next that is free."""
    places = {arm: STYLES[arm] for arm in arms if arm in STYLES}
    free = (place for place in count() if place not in places.values())
    for arm in arms:
        if arm not in places:
            places[arm] = next(free)
    return {arm: _style(place) for arm, place in sorted(places.items(), key=lambda one: one[1])}


def _paper_rows(
    runs: pd.DataFrame,
    histories: dict[str, Curves],
    lines: Sequence[Line],
    published: pd.DataFrame,
) -> list[Row]:
    rows = []
    attempts = any(line.attempt == 2 for line in lines)
    for heading, part in _by_batchnorm(runs):
        curves = []
        for line in lines:
            of = part[part["arm"] == line.arm].sort_values("seed")
            if attempts and line.method == "advance":
                of = of.iloc[line.attempt - 1 : line.attempt]
            if len(of):
                marks = _marks(published, line, "on" if part["batchnorm"].iloc[0] else "off")
                curves.append(
                    Curve(_label(line), *_style(STYLES[_label(line)]), _of(of, histories), marks)
                )
        if curves:
            rows.append((heading, curves))
    return rows


def _marks(published: pd.DataFrame, line: Line, batchnorm: str) -> pd.DataFrame:
    marks = published[
        (published["method"] == line.method)
        & (published["batchnorm"] == batchnorm)
        & (published["attempt"] == line.attempt)
    ]
    if line.number is None:
        return marks
    column = "fixed_lambda" if line.method == "fixed" else "alpha"
    return marks[np.isclose(marks[column], line.number)]


def _axis_rows(
    runs: pd.DataFrame, histories: dict[str, Curves], axis: str, axes: Sequence[str]
) -> list[Row]:
    """A row for each setting of all other options under which `axis` takes several values."""
    if axis == "batchnorm.enabled":
        return []
    if axis == "method.name":
        column, others = "arm", ["context"]
    else:
        column = axis
        others = ["arm_family", *[one for one in axes if one not in (axis, "method.name")]]
        runs = runs.assign(arm_family=runs["method"])
    shown = [one for one in axes if one in runs and one not in (axis, "batchnorm.enabled")]
    rows = []
    for _, part in runs[runs[column].notna()].groupby(others, dropna=False, sort=True):
        values = sorted(part[column].unique().tolist(), key=lambda one: (str(type(one)), one))
        if len(values) < 2:
            continue
        styles = _styles(values) if column == "arm" else _colours(values)
        curves = [
            Curve(
                _without(value, part, shown) if column == "arm" else f"{axis} = {_short(value)}",
                *style,
                _of(part[part[column] == value], histories),
                pd.DataFrame(),
            )
            for value, style in styles.items()
        ]
        rows.append((_heading(part, shown, column), curves))
    return rows


def _colours(values: Sequence[Any]) -> dict[Any, tuple[str, Any]]:
    """Of an ordered axis from dark to light, else as far apart as can be."""
    if len(values) <= 3 or not all(isinstance(value, int | float) for value in values):
        return {value: _style(place) for place, value in enumerate(values)}
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.88, len(values)))
    return {
        value: (mpl.colors.to_hex(shades[place]), DASHES[place % len(DASHES)])
        for place, value in enumerate(values)
    }


def _without(arm: str, part: pd.DataFrame, shown: Sequence[str]) -> str:
    """The arm's name without what the heading says."""
    for name in shown:
        if part[name].nunique(dropna=False) == 1:
            arm = arm.replace(f" {name}={_short(part[name].iloc[0])}", "")
    return arm


def _heading(part: pd.DataFrame, shown: Sequence[str], column: str) -> str:
    words = [] if column == "arm" else [NAMES.get(part["method"].iloc[0], "")]
    words.append("CNN with batch-norm" if part["batchnorm"].iloc[0] else "CNN")
    for name in shown:
        if part[name].nunique(dropna=False) == 1 and part[name].notna().all():
            words.append(f"{name} = {_short(part[name].iloc[0])}")
    return ", ".join(words)


def _arm_rows(runs: pd.DataFrame, histories: dict[str, Curves]) -> list[Row]:
    """Every arm, or the `ARMS` that came to the highest accuracy."""
    rows = []
    for heading, part in _by_batchnorm(runs):
        means = part.groupby("arm")["mean_last_10_epochs"].mean().sort_values(ascending=False)
        styles = _styles(sorted(means.index[:ARMS]))
        curves = [
            Curve(arm, *style, _of(part[part["arm"] == arm], histories), pd.DataFrame())
            for arm, style in styles.items()
        ]
        rows.append((heading + f", the best {ARMS} arms" * (len(means) > ARMS), curves))
    return rows


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
