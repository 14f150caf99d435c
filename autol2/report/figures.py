"""Which figures a study has: what its comparisons come to, how fast it trains, and its curves.

Curves are drawn as in the paper, whose four figures are redrawn where the data are the paper's;
elsewhere there is a figure for each axis that the study compares.
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
"""Colour and dashes."""


@dataclass(frozen=True)
class Line:
    """A curve of one of the paper's figures."""

    method: str
    number: float | None = None
    """λ of fixed, α of threshold and combined."""
    attempt: int = 1
    """Which of the paper's attempts; of ours, which seed that has this arm."""
    own: bool = False
    """What the figure is about: without one such curve it is not drawn."""

    @property
    def arm(self) -> str:
        """The arm's name, as in the tables."""
        identity: dict[str, Any] = {"method.name": self.method}
        if self.number is not None:
            option = "fixed_lambda.value" if self.method == "fixed" else "alpha.percent"
            identity[option] = self.number
        return label(identity, [])

    @property
    def label(self) -> str:
        """What its curve is called."""
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
"""Of the figures of an axis; others are called by their option."""
LAYERS = {
    **{"conv1": "first convolution", "conv2": "second convolution"},
    **{"dense1": "first dense layer", "dense2": "second dense layer"},
}
"""Of the paper's network, in words."""
EXPLAIN = "Length of the weights and their effective learning rate lr/‖w‖² after each epoch."
BELOW_BATCHNORM = (
    " Below batch-norm, the length of the weights does not change what the network computes, only "
    "how fast it changes: shrinking the weights early acts like a higher learning rate."
)
ARMS = 10
"""That a row of panels shows at most."""
ROWS = 2
"""Of panels in one drawing: more do not fit half a printed page."""
OTHERS = {"differences", "accuracies", "speed", "area", "best_step", "explain", *PAPER}
"""Figures that no option gives its name to."""
DRAWINGS = 6
"""Of one comparison, at most."""


def all_figures(
    made: Tables,
    histories: dict[str, Curves],
    length: int,
    published: pd.DataFrame,
    folder: Path,
    say: Say,
) -> list[Drawing]:
    """Every figure that the study has the runs for.

    Args:
        made: the study's tables.
        histories: each run's history, by run id.
        length: steps of an epoch.
        published: the published runs, empty where they are no match for this study's data.
        folder: where to.
        say: told the name of each figure before it is drawn.
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
    # Where the paper's figures are, others are for what they do not show.
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
    """What the runs of a part have trained, as far as they say."""
    known = part["model.name"].iloc[0] if "model.name" in part else common.get("model.name")
    if known is None and part["command"].notna().any():  # a run of before there was a choice
        known = next(model.name for model in components("model").values() if model.usual)
    name = called("model", str(known)) if known else ""
    return " ".join(filter(None, (name, "with batch-norm" * _with_batchnorm(part))))


def _with_batchnorm(part: pd.DataFrame) -> bool:
    """Whether its runs had it; those of somebody's own loop may not say so."""
    return bool(part["batchnorm"].iloc[0] == True)  # noqa: E712


def _colours_of(arms: pd.Series) -> dict[str, str]:
    """Of every arm of a study, for all of its figures, as far as there are colours."""
    order = in_order(arms)
    return {arm: CURVES[place % len(CURVES)] for arm, place in order.items()}


def _styles(arms: Sequence[str], everything: pd.Series) -> dict[str, Style]:
    """Of the arms of one figure: no two share a colour."""
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
    """The mean of the runs that came to their end, or else of those that may still do so."""
    whole = runs["status"] == "completed"
    if not whole.any():
        whole = runs["status"] != "diverged"
    averaged, ended = (
        [histories[run_id] for run_id in part["run_id"]] for part in (runs[whole], runs[~whole])
    )
    shown = arm_name(name)
    shown = (
        f"\u200b{shown}" if shown.startswith("_") else shown
    )  # else matplotlib would leave it out
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
    # The second attempt has a colour of its own.
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
    """A row for each setting of all other options under which `axis` takes several values.

    Arms of `covered` are in other figures already: a row of nothing else is left out.
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
        else:  # one legend is for all rows
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
    """Of values of several kinds."""
    return str(type(value)), value


def _best(part: pd.DataFrame, column: str) -> list[Any]:
    """The `ARMS` values that came to the highest accuracy, in their own order.

    The strongest fixed λ is one of them: without it the report's question could not be seen.
    """
    means = part.groupby(column)[FIGURE].mean().sort_values(ascending=False, na_position="last")
    fixed = [value for value in means.index if part["baseline"][part[column] == value].all()]
    best = list(dict.fromkeys([*fixed[:1], *means.index]))[:ARMS]
    return [value for value in _values(part, column) if value in best]


def _circumstances(
    part: pd.DataFrame, shown: Sequence[str], column: str, common: dict[str, Any]
) -> tuple[str, bool, str]:
    """Of a row: what it is sorted by, without batch-norm first; and its heading."""
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
    """Of an ordered axis from dark to light, else as far apart as can be."""
    ordered = len(values) > 3 and all(isinstance(value, int | float) for value in values)
    colours = ramp(len(values)) if ordered else CURVES
    return {
        value: (colours[place], DASHES[place % len(DASHES)]) for place, value in enumerate(values)
    }


def _without(arm: str, part: pd.DataFrame, shown: Sequence[str]) -> str:
    """The arm's name without what the heading says."""
    for name in shown:
        if part[name].nunique(dropna=False) == 1:
            value = part[name].iloc[0]
            written = f"{value:g}" if isinstance(value, float) else str(value)
            arm = arm.replace(f" {name}={written}", "")
    return arm


def _explain(
    runs: pd.DataFrame, histories: dict[str, Curves], common: dict[str, Any], folder: Path
) -> list[Drawing]:
    """The length of weights in every arm, or in the `ARMS` that came to the highest accuracy."""
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
