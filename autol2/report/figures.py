"""Selects and draws the figures of a study: its comparisons, its training speed, and its curves.

Curves are drawn as in the paper. If a study uses the paper's data, the four figures of the paper
are drawn again. Otherwise, there is one figure for each axis that the study compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import forest, panels, speed_figure
from .arms import FIGURE, in_order
from .colours import CURVES, DASHES, ramp
from .plot import Curve, Drawing, Row
from .runs import Curves
from .tables import Tables, label
from .words import arm_name, called, components, setting

Say = Callable[[str], object]
Style = tuple[str, Any]
"""The colour and the dash pattern of a curve."""


@dataclass(frozen=True)
class Line:
    """A curve of one of the paper's figures."""

    method: str
    number: float | None = None
    """λ for the method fixed, and α for threshold and combined."""
    attempt: int = 1
    """The number of the paper's attempt, and of the seed among our runs of this arm."""
    own: bool = False
    """Whether the figure is about this curve; it is drawn only if one such curve exists."""

    @property
    def arm(self) -> str:
        """The name of the arm, as in the tables."""
        identity: dict[str, Any] = {"method.name": self.method}
        if self.number is not None:
            option = "fixed_lambda.value" if self.method == "fixed" else "alpha.percent"
            identity[option] = self.number
        return label(identity, [])

    @property
    def label(self) -> str:
        """The label of the curve."""
        return arm_name(self.arm) + ", second attempt" * (self.attempt == 2)


FIXED, AUTO_L2 = Line("fixed", 5e-4), Line("auto_l2")
PAPER = {
    "figure1": (
        "The paper's Figure 1: the percentage threshold",
        [FIXED, AUTO_L2, Line("threshold", 5, own=True), Line("threshold", 10, own=True)],
    ),
    "figure2": (
        "The paper's Figure 2: raising λ",
        [FIXED, AUTO_L2, Line("combined", 5, own=True), Line("advance", own=True)],
    ),
    "figure3": (
        "The paper's Figure 3: values of a fixed λ, and Auto L2",
        [Line("fixed", 1e-5, own=True), FIXED, Line("fixed", 1e-4, own=True), AUTO_L2],
    ),
    "figure4": (
        "The paper's Figure 4: a second attempt at Advance L2",
        [FIXED, AUTO_L2, Line("advance"), Line("advance", attempt=2, own=True)],
    ),
}
TITLES = {
    "method.name": "Methods",
    "alpha.percent": "Threshold α",
    "fixed_lambda.value": "Values of λ",
    "lr": "Learning rate",
}
"""The titles of the figures of an axis; other axes have the option's name as the title."""
LAYERS = {
    **{"conv1": "first convolution", "conv2": "second convolution"},
    **{"dense1": "first dense layer", "dense2": "second dense layer"},
}
"""The layers of the paper's network, in words."""
EXPLAIN = "Length of the weights and their effective learning rate lr/‖w‖² after each epoch."
BELOW_BATCHNORM = (
    " Below batch-norm, the length of the weights does not change what the network computes, only "
    "how fast it changes: shrinking the weights early acts like a higher learning rate."
)
ARMS = 10
"""Maximum number of arms in a row of panels."""
ROWS = 2
"""Number of rows of panels in one drawing; more would not fit on half a printed page."""
OTHERS = {"differences", "accuracies", "speed", "area", "best_step", "explain", *PAPER}
"""Names of figures that are not named after an option."""
DRAWINGS = 6
"""Maximum number of drawings for one comparison."""


def all_figures(
    made: Tables,
    histories: dict[str, Curves],
    length: int,
    published: pd.DataFrame,
    folder: Path,
    say: Say,
) -> list[Drawing]:
    """Draw every figure for which the study has the necessary runs.

    Args:
        made: the tables of the study.
        histories: the history of each run, by run ID.
        length: the number of steps per epoch.
        published: the published runs; empty if they used other data than the study.
        folder: the folder to write the figures to.
        say: called with the name of each figure before it is drawn.
    """
    runs = made.runs
    drawings = []
    styles = _colours_of(runs["arm"])
    for name, draw in (
        ("differences", forest.differences),
        ("accuracies", forest.accuracies),
        ("speed", speed_figure.to_target),
        ("area", speed_figure.area),
        ("best_step", speed_figure.to_best),
    ):
        say(name)
        drawings += draw(made, styles, folder)
    known = (histories[run_id] for run_id in runs["run_id"])
    seen = runs[[bool(line.lambdas or line.epochs.get("epoch")) for line in known]]
    if seen.empty:
        return drawings
    covered: set[str] = set()
    for name, (title, lines) in PAPER.items() if len(published) else ():
        arms = set(seen["arm"])
        there = [line for line in lines if line.arm in arms]
        rows = _paper_rows(seen, histories, lines, published, made.common)
        if len(there) < 2 or not _about(rows, lines):
            continue
        say(name)
        drawings += _drawn(name, title, rows, length, folder)
        covered |= {line.arm for line in there}
    # If the paper's figures have been drawn, others are only for what these do not show.
    for axis in sorted(made.axes, key=lambda axis: (axis == "method.name") == bool(covered)):
        rows = _axis_rows(seen, histories, axis, made, covered)
        if rows:
            say(axis)
            name = re.sub(r"[^A-Za-z0-9]+", "_", axis.removesuffix(".name")).strip("_") or "option"
            taken = {drawing.name for drawing in drawings} | OTHERS
            while name in taken:
                name += "_option"
            drawings += _drawn(name, TITLES.get(axis, axis), rows, length, folder)
            if covered:
                covered |= set(seen["arm"][seen[axis].notna()]) if axis in seen else set()
    say("explain")
    return [*drawings, *_explain(seen, histories, made.common, folder)]


def _drawn(name: str, title: str, rows: Sequence[Row], length: int, folder: Path) -> list[Drawing]:
    parts = [rows[first : first + ROWS] for first in range(0, len(rows), ROWS)]
    drawings = []
    for place, part in enumerate(parts[:DRAWINGS], 1):
        of = f" ({place} of {len(parts)})" if len(parts) > 1 else ""
        more = f"_{place}" if place > 1 else ""
        drawings.append(panels.histories(name + more, title + of, part, length, folder))
    return drawings


def _about(rows: Sequence[Row], lines: Sequence[Line]) -> bool:
    own = {line.label for line in lines if line.own}
    return any(curve.label.startswith(tuple(own)) for _, curves in rows for curve in curves)


def _by_batchnorm(runs: pd.DataFrame, common: dict[str, Any]) -> list[tuple[str, pd.DataFrame]]:
    return [(_network(part, common), part) for _, part in forest.groups(runs)]


def _network(part: pd.DataFrame, common: dict[str, Any]) -> str:
    """Describe the network of the runs in `part`, as far as it is known."""
    known = part["model.name"].iloc[0] if "model.name" in part else common.get("model.name")
    if known is None and part["command"].notna().any():  # There was no choice of networks yet.
        known = next(model.name for model in components("model").values() if model.usual)
    name = called("model", str(known)) if known else ""
    return " ".join(filter(None, (name, "with batch-norm" * _with_batchnorm(part))))


def _with_batchnorm(part: pd.DataFrame) -> bool:
    """Whether the runs in `part` used batch-norm; False if that is not recorded."""
    return bool(part["batchnorm"].iloc[0] == True)  # noqa: E712


def _colours_of(arms: pd.Series) -> dict[str, str]:
    """Assign a colour to every arm of a study, for all of its figures; colours may repeat."""
    order = in_order(arms)
    return {arm: CURVES[place % len(CURVES)] for arm, place in order.items()}


def _styles(arms: Sequence[str], everything: pd.Series) -> dict[str, Style]:
    """Assign a colour and dashes to the arms of one figure, so that no two share a colour."""
    colours = _colours_of(everything)
    if len(colours) >= len(CURVES):
        colours = _colours_of(pd.Series(list(arms)))
    spare = (colour for colour in reversed(CURVES) if colour not in colours.values())
    return {
        arm: (colours.get(arm) or next(spare), DASHES[place % len(DASHES)])
        for place, arm in enumerate(arms)
    }


def _curve(
    name: str,
    style: Style,
    runs: pd.DataFrame,
    histories: dict[str, Curves],
    marks: pd.DataFrame | None = None,
) -> Curve:
    """Make a curve that averages the completed runs of an arm.

    If no run is completed, it averages those that have not diverged.

    Args:
        name: the name of the arm.
        style: the colour and the dash pattern.
        runs: the rows of the table of runs.
        histories: the history of each run, by run ID.
        marks: the published runs to mark; None for no marks.
    """
    whole = runs["status"] == "completed"
    if not whole.any():
        whole = runs["status"] != "diverged"
    averaged, ended = (
        [histories[run_id] for run_id in part["run_id"]] for part in (runs[whole], runs[~whole])
    )
    shown = arm_name(name)
    shown = (
        f"\u200b{shown}" if shown.startswith("_") else shown
    )  # matplotlib leaves labels that begin with an underscore out of the legend.
    return Curve(shown, *style, averaged, pd.DataFrame() if marks is None else marks, ended)


def _paper_rows(
    runs: pd.DataFrame,
    histories: dict[str, Curves],
    lines: Sequence[Line],
    published: pd.DataFrame,
    common: dict[str, Any],
) -> list[Row]:
    rows = []
    attempts = any(line.attempt == 2 for line in lines)
    # The second attempt needs a colour of its own.
    styles = _styles([line.arm + "again" * (line.attempt - 1) for line in lines], runs["arm"])
    style_of = dict(zip(lines, styles.values(), strict=True))
    for heading, part in _by_batchnorm(runs, common):
        curves = []
        for line in lines:
            of = part[part["arm"] == line.arm].sort_values("seed")
            name = line.label
            if attempts and line.method == "advance":
                of = of.iloc[line.attempt - 1 : line.attempt]
                name += f", seed {of['seed'].iloc[0]:g}" if len(of) else ""
            if len(of):
                marks = _marks(published, line, "on" if _with_batchnorm(part) else "off")
                curves.append(_curve(name, style_of[line], of, histories, marks))
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
    runs: pd.DataFrame,
    histories: dict[str, Curves],
    axis: str,
    made: Tables,
    covered: Collection[str] = (),
) -> list[Row]:
    """Make one row for each setting of the other options in which `axis` has several values.

    Args:
        runs: the runs that have a history.
        histories: the history of each run, by run ID.
        axis: the option whose values are compared.
        made: the tables of the study.
        covered: arms that other figures already show; a row with only such arms is left out.
    """
    if axis == "batchnorm.enabled":
        return []
    if axis == "method.name":
        column, others = "arm", ["context"]
    else:
        column = axis
        others = [
            "method",
            *[option for option in made.axes if option not in (axis, "method.name")],
        ]
    shown = [
        option
        for option in made.axes
        if option in runs and option not in (axis, "batchnorm.enabled")
    ]
    parts = []
    for _, part in runs[runs[column].notna()].groupby(others, dropna=False, sort=True):
        values = _values(part, column)
        if len(values) < 2 or set(part["arm"]) <= set(covered):
            continue
        said, left_out = _circumstances(part, shown, column, made.common), len(values) - ARMS
        if left_out > 0:
            values, said = _best(part, column), (*said[:2], f"{said[2]}, the best {ARMS}")
        parts.append((said, part, values))
    everywhere = sorted({value for *_, values in parts for value in values}, key=_order)
    rows = []
    for said, part, values in parts:
        if column == "arm":
            styles = _styles(values, runs["arm"])
        else:  # All rows share one legend.
            styles = _in_order_of_values(everywhere if len(everywhere) <= len(CURVES) else values)
        curves = [
            _curve(
                _without(value, part, shown) if column == "arm" else setting(axis, value),
                styles[value],
                part[part[column] == value],
                histories,
            )
            for value in values
        ]
        rows.append((said, curves))
    return [(said[-1], curves) for said, curves in sorted(rows, key=lambda row: row[0])]


def _values(part: pd.DataFrame, column: str) -> list[Any]:
    found = part[column].unique().tolist()
    if column == "arm":
        return list(in_order(found))
    return sorted(found, key=_order)


def _order(value: Any) -> tuple[str, Any]:
    """Return a sort key for values of different types."""
    return str(type(value)), value


def _best(part: pd.DataFrame, column: str) -> list[Any]:
    """Return the `ARMS` values with the highest accuracy, in their usual order.

    The strongest fixed λ is always among them, because the schedules are compared with it.
    """
    means = part.groupby(column)[FIGURE].mean().sort_values(ascending=False, na_position="last")
    fixed = [value for value in means.index if part["baseline"][part[column] == value].all()]
    best = list(dict.fromkeys([*fixed[:1], *means.index]))[:ARMS]
    return [value for value in _values(part, column) if value in best]


def _circumstances(
    part: pd.DataFrame, shown: Sequence[str], column: str, common: dict[str, Any]
) -> tuple[str, bool, str]:
    """Return the sort key of a row, which puts rows without batch-norm first, and its heading."""
    words = [] if column == "arm" else [label({"method.name": part["method"].iloc[0]}, [])]
    alike = [
        setting(name, part[name].iloc[0])
        for name in shown
        if name != "method.name" and part[name].nunique(dropna=False) == 1
        if part[name].notna().all()
    ]
    heading = ", ".join(filter(None, [*words, _network(part, common), *alike]))
    return ", ".join([*words, *alike]), _with_batchnorm(part), heading


def _in_order_of_values(values: Sequence[Any]) -> dict[Any, Style]:
    """Assign styles to values: from dark to light if they are ordered, else distinct colours."""
    ordered = len(values) > 3 and all(isinstance(value, int | float) for value in values)
    colours = ramp(len(values)) if ordered else CURVES
    return {
        value: (colours[place], DASHES[place % len(DASHES)]) for place, value in enumerate(values)
    }


def _without(arm: str, part: pd.DataFrame, shown: Sequence[str]) -> str:
    """Return the name of an arm without the options that the heading states."""
    for name in shown:
        if part[name].nunique(dropna=False) == 1:
            value = part[name].iloc[0]
            written = f"{value:g}" if isinstance(value, float) else str(value)
            arm = arm.replace(f" {name}={written}", "")
    return arm


def _explain(
    runs: pd.DataFrame, histories: dict[str, Curves], common: dict[str, Any], folder: Path
) -> list[Drawing]:
    """Draw the norm of the weights for every arm, or for the `ARMS` with the highest accuracy."""
    drawings: list[Drawing] = []
    recorded = list(
        dict.fromkeys(
            name.removeprefix("norm_")
            for history in histories.values()
            for name in history.epochs
            if name.startswith("norm_")
        )
    )
    for heading, part in _by_batchnorm(runs, common):
        arms = _best(part, "arm")
        some = f", the best {ARMS} arms" * (part["arm"].nunique() > ARMS)
        curves = [
            _curve(arm, style, part[part["arm"] == arm], histories)
            for arm, style in _styles(arms, runs["arm"]).items()
        ]
        rows = [(heading + some, curves, layer, LAYERS.get(layer, layer)) for layer in recorded]
        for first in range(0, min(len(rows), DRAWINGS * ROWS), ROWS):
            name = "explain" + f"_{len(drawings) + 1}" * bool(drawings)
            caption = EXPLAIN + BELOW_BATCHNORM * _with_batchnorm(part)
            drawings.append(panels.norms(name, rows[first : first + ROWS], caption, folder))
    return drawings
