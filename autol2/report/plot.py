"""What all figures have in common: settings, types of curves, and saving to files."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from ..storage.files import write_atomically
from .colours import GRID, SOFT, TEXT
from .runs import Curves

WIDTH = 8.6
"""The width of figures in inches.

When scaled to the width of a printed page (7.3 inches), text of 9 points is still 7.6 points high.
"""
LETTERS = 104
"""Maximum number of characters in a row of the legend."""
LEGEND_ROWS, LEGEND_ROW = 2, 0.2
"""Number of legend rows that fit in a figure, and the height in inches of each additional row."""
SETTINGS: dict[str, Any] = {
    "font.size": 9,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica"],
    "text.parse_math": False,  # Names may contain dollar signs.
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": SOFT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "autol2",
}
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Drawing:
    """A finished figure."""

    name: str
    """The name of the files."""
    title: str
    caption: str
    """The text that explains how to read the figure."""
    alt: str
    """The text that describes the figure for readers who cannot see it."""
    png: Path
    svg: Path


@dataclass(frozen=True)
class Curve:
    """The content of one line of a figure: the runs of an arm, one for each seed."""

    label: str
    colour: str
    dashes: Any
    runs: list[Curves]
    """The runs that are averaged."""
    marks: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The published runs of this arm; empty if they are not shown."""
    ended: list[Curves] = field(default_factory=list)
    """The runs that ended before the others and are not averaged."""

    @property
    def line(self) -> dict[str, Any]:
        """The style of the line, as keyword arguments of matplotlib."""
        return {"color": self.colour, "linestyle": self.dashes, "linewidth": 1.6}


Row = tuple[str, list[Curve]]
"""The heading of a row of panels, and the curves that they show."""


@contextmanager
def settings() -> Iterator[None]:
    """Use matplotlib's defaults and `SETTINGS`, regardless of the user's configuration."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(cast("Any", SETTINGS))
        yield


def new_figure(height: float) -> Figure:
    """Create an empty figure of `WIDTH` × `height` inches."""
    return Figure(figsize=(WIDTH, height), layout="constrained", dpi=150)


def mean_and_band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean of `values` [seeds, points] and the ends of its 95 % t interval.

    The ends are NaN if there are fewer than three seeds.
    """
    mean, count = values.mean(axis=0), len(values)
    if count < 3:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * values.std(axis=0, ddof=1)
    return mean, mean - half / math.sqrt(count), mean + half / math.sqrt(count)


def save(
    figure: Figure, name: str, title: str, caption: str, alt: str, folder: Path, legend: bool = True
) -> Drawing:
    """Write a figure as PNG and SVG, with one legend below all panels.

    The files are reproducible: they contain neither dates nor random identifiers.
    """
    if legend:
        _legend(figure)
    paths = {}
    for kind in ("png", "svg"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
        figure.set_layout_engine("none")  # The layout is final after the first format.
        paths[kind] = folder / f"{name}.{kind}"
        content = buffer.getvalue()
        write_atomically(paths[kind], _shorter(content) if kind == "svg" else content)
    return Drawing(name, title, caption, alt, paths["png"], paths["svg"])


def _legend(figure: Figure) -> None:
    lines: dict[str, Any] = {}
    for axes in figure.axes:
        lines.update(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    if not lines:
        return
    columns = max(1, min(len(lines), LETTERS // (max(map(len, lines)) + 8)))
    rows = math.ceil(len(lines) / columns)
    columns = math.ceil(len(lines) / rows)  # Make the rows equally long.
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * max(0, rows - LEGEND_ROWS))
    figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=columns)


def _shorter(svg: bytes) -> bytes:
    """Shorten an SVG by cutting coordinates to a tenth of a point, which is a sixth of a pixel."""
    return re.sub(
        rb'(?<= [dxy]=)"[^"]+"',
        lambda attribute: re.sub(rb"(?<=\d)(\.\d)\d+", rb"\1", attribute[0]),
        svg,
    )


def heading(axes: Axes, text: str) -> None:
    """Write the heading of a row of panels above its first panel."""
    axes.set_title(text, loc="left", fontweight="bold")


def seeds_said(curves: Sequence[Curve]) -> tuple[list[str], str]:
    """Return the label of each curve, and a sentence that says how many runs a curve averages.

    If the numbers differ, each label includes its own number, so that a single run is not mistaken
    for a mean.
    """
    counts = [len(curve.runs) for curve in curves]
    if len(set(counts)) == 1:
        one = counts[0] == 1
        return [curve.label for curve in curves], (
            "Each line is a single run." if one else f"Line: mean of {counts[0]} seeds."
        )
    labels = [
        f"{curve.label} ({f'mean of {count}' if count > 1 else 'one run' if count else 'no run'})"
        for curve, count in zip(curves, counts, strict=True)
    ]
    return labels, "Line: mean of as many seeds as the legend says."
