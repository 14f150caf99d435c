"""Forest plots, with one row per arm: differences to the strongest fixed λ, and accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from . import plot
from .arms import FIGURE
from .colours import SOFT, TEXT
from .plot import Drawing
from .tables import Tables
from .words import arm_name, signed, yardstick

ROW, AROUND = 0.38, 0.85
"""The height in inches of the row of an arm, and of the margins around the rows of a panel."""
LOW_ROW = 0.3
"""The height in inches of a row with a single line of text."""
MANY = 22
"""Maximum number of rows in a drawing; more would not fit on a printed page."""
APART = 10.0
"""The range of the axes in points.

The axis of accuracies ends this far below the best mean, and that of differences this far on either
side of 0.
"""
SEED: dict[str, Any] = {"marker": "o", "markersize": 3.2, "linestyle": "none", "alpha": 0.75}
SEED_LINE = Line2D([], [], color=SOFT, label="one seed", **SEED)


@plot.settings()
def differences(made: Tables, colours: Mapping[str, str], folder: Path) -> list[Drawing]:
    """Draw the difference of each schedule to its rival, for every seed, with mean and interval.

    A second panel shows the probability of improvement: the chance that a seed of the schedule is
    better than a seed of the rival.
    """
    arms = made.summary
    if arms.empty:
        return []
    arms = arms[~arms["baseline"].astype(bool) & (arms["pairs"] > 0)].head(MANY)
    parts = groups(arms)
    if not parts:
        return []
    chances = "probability_of_improvement" in arms and arms["probability_of_improvement"].notna()
    with_chances = bool(np.any(chances))
    ratios = [3.0, 2.1, 1.3] if with_chances else [3.0, 2.1]
    figure = plot.new_figure(sum(ROW * len(part) + AROUND for _, part in parts) + 0.2)
    panels = figure.subplots(
        len(parts),
        len(ratios),
        squeeze=False,
        width_ratios=ratios,
        height_ratios=[ROW * len(part) + AROUND for _, part in parts],
    )
    known = [0.0]
    for (name, part), (left, words, *right) in zip(parts, panels, strict=True):
        plot.heading(left, name)
        rows(left, [_against(arm) for _, arm in part.iterrows()])
        left.axvline(0, color=TEXT, linewidth=0.8)
        margin_asked = part["margin"].iloc[0] if "margin" in part else np.nan
        if not np.isnan(margin_asked):
            left.axvspan(-margin_asked, margin_asked, color=SOFT, alpha=0.15, linewidth=0)
        words.set_axis_off()
        words.set_ylim(left.get_ylim())
        for y, (_, arm) in enumerate(part.iterrows()):
            colour = colours[arm["arm"]]
            seeds = of_seeds(made.runs, arm)
            left.plot(seeds, np.full(len(seeds), y + 0.2), color=colour, **SEED)
            ends = arm["difference_low"], arm["difference_high"]
            estimate(left, y - 0.08, arm["difference"], *ends, colour)
            words.text(0, y, _said(arm), va="center")
            known += [value for value in (*seeds, arm["difference"], *ends) if not np.isnan(value)]
            for axes in right:
                low, high = arm.get("poi_low", np.nan), arm.get("poi_high", np.nan)
                estimate(axes, y, arm["probability_of_improvement"], low, high, colour)
        left.set_xlabel("difference in test accuracy (points)")
        for axes in right:
            rows(axes, [""] * len(part))
            axes.axvline(0.5, color=TEXT, linewidth=0.8)
            axes.set_xlim(-0.03, 1.03)
            axes.set_xticks([0, 0.5, 1])
            axes.set_xlabel("probability\nof improvement")
    first, last = max(min(known), -APART), min(max(known), APART)
    margin = 0.06 * (last - first) or 1.0
    for (_, part), (left, *_) in zip(parts, panels, strict=True):
        left.set_xlim(first - margin, last + margin)
        for y, (_, arm) in enumerate(part.iterrows()):
            shown = arm["difference"], arm["difference_low"], arm["difference_high"]
            for at, values_there in ((y - 0.08, shown), (y + 0.2, of_seeds(made.runs, arm))):
                for below in (True, False):
                    if any(
                        (value < -APART) if below else (value > APART) for value in values_there
                    ):
                        _beyond(left, at, below, colours[arm["arm"]])
    caption = (
        f"Difference between each schedule and the {yardstick(arms)} on the same seeds: right of "
        "0, the schedule is better. Dots: single seeds; squares: their mean, with its 95 % "
        "interval if there are at least three seeds, adjusted like the p next to it."
    )
    if "margin" in arms and arms["margin"].notna().any():
        caption += f" Shaded: within ±{arms['margin'].max():g} points, which counts as equivalent."
    if any(abs(value) > APART for value in known):
        caption += f" Differences beyond {APART:g} points (◀ ▶) are given only as numbers."
    if with_chances:
        caption += (
            " Probability of improvement: how often a seed of the schedule is better than one of "
            "that fixed λ, with its 95 % interval; 0.5 means no difference."
        )
    alt = f"Forest plot of differences in test accuracy to the {yardstick(arms)}. " + "; ".join(
        f"{name}: "
        + ", ".join(
            f"{arm_name(arm['arm'])} {_said(arm)} points against {_rival(arm)}"
            for _, arm in of.iterrows()
        )
        for name, of in parts
    )
    title = f"Schedules against the {yardstick(arms)}"
    return [plot.save(figure, "differences", title, caption, alt + ".", folder, legend=False)]


@dataclass(frozen=True)
class Part:
    """The content of one of several drawings with a row per arm."""

    name: str
    """The name of the files."""
    heading: str
    """What the arms have in common; see `groups`."""
    arms: pd.DataFrame
    """The rows of the table of arms."""

    def titled(self, what: str) -> str:
        """Return the title of the drawing."""
        return ", ".join(filter(None, (what, self.heading)))


def parts_of(name: str, arms: pd.DataFrame) -> list[Part]:
    """Split arms by batch-norm and into drawings of at most `MANY` arms."""
    pages = [
        (heading, part.iloc[first : first + MANY])
        for heading, part in groups(arms)
        for first in range(0, len(part), MANY)
    ]
    return [Part(name + f"_{place}" * (place > 1), *page) for place, page in enumerate(pages, 1)]


@plot.settings()
def accuracies(made: Tables, colours: Mapping[str, str], folder: Path) -> list[Drawing]:
    """Draw the test accuracy of each arm: every seed, the mean and the interquartile mean."""
    arms = made.summary
    if arms.empty:
        return []
    return [
        _accuracies(part, made.runs, colours, folder)
        for part in parts_of("accuracies", arms[arms["n"] > 0])
    ]


def _accuracies(
    part: Part, runs: pd.DataFrame, colours: Mapping[str, str], folder: Path
) -> Drawing:
    arms = part.arms
    figure = plot.new_figure(LOW_ROW * len(arms) + AROUND + 0.3)
    axes = figure.subplots()
    rows(axes, [arm_name(arm) for arm in arms["arm"]])
    floor = arms["mean"].max() - APART
    with_middle = "iqm" in arms and bool(arms["iqm"].notna().any())
    for y, (_, arm) in enumerate(arms.iterrows()):
        colour = colours[arm["arm"]]
        seeds = np.array(list(values(runs, arm["arm_digest"]).values()))
        inside, below = seeds[seeds >= floor], seeds[seeds < floor]
        axes.plot(inside, np.full(len(inside), y + 0.25), color=colour, **SEED)
        if len(below):
            words = f"◀ {len(below)} of {len(seeds)} below, down to {below.min():.1f} %"
            words += f"; mean {arm['mean']:.1f} %" * bool(arm["mean"] < floor)
            place = axes.get_yaxis_transform()
            axes.text(0.005, y + 0.25, words, color=colour, va="center", transform=place)
        if arm["mean"] >= floor:
            estimate(axes, y - 0.08, arm["mean"], arm["low"], arm["high"], colour)
        if with_middle and arm["iqm"] >= floor:
            estimate(axes, y - 0.3, arm["iqm"], arm["iqm_low"], arm["iqm_high"], SOFT, "D", 1.0)
    first, last = axes.get_xlim()
    first, last = max(first, floor), min(last, 100.5)
    if axes.texts:
        first -= 0.55 * (last - first)  # Make room for the text.
    axes.set_xlim(first, last)
    axes.set_xlabel("test accuracy (%)")
    keys = [SEED_LINE, key("s", 1.8, "mean and its 95 % interval")]
    if with_middle:
        keys.append(key("D", 1.0, "interquartile mean and its 95 % interval"))
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))
    caption = (
        "The test accuracy by which arms are compared, for each seed, with its mean over seeds"
        + " and the mean of the middle half of them" * with_middle
        + f". The axis ends {APART:g} points below the best mean; seeds below it are counted."
    )
    if "diverged" in arms and arms["diverged"].any():
        caption += " A run that diverged is at chance level and not part of a mean."
    alt = f"Dot plot of each arm's test accuracy {part.heading}: " + ", ".join(
        f"{arm_name(arm['arm'])} {arm['mean']:.2f} % over {arm['n']:g} seed{'s' * (arm['n'] > 1)}"
        for _, arm in arms.iterrows()
    )
    title = part.titled("Accuracy of every seed")
    return plot.save(figure, part.name, title, caption, alt + ".", folder, legend=False)


def groups(arms: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split arms into those without and those with batch-norm, each group with a heading.

    If batch-norm is not recorded, as may happen for runs of the user's own training loop, the arms
    come first and without a heading.
    """
    parts = [
        ("", arms[arms["batchnorm"].isna()]),
        ("without batch-norm", arms[arms["batchnorm"] == False]),  # noqa: E712
        ("with batch-norm", arms[arms["batchnorm"] == True]),  # noqa: E712
    ]
    return [(heading, part) for heading, part in parts if len(part)]


def rows(axes: Axes, names: Sequence[str]) -> None:
    """Set up axes with one row per arm, from top to bottom."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7))


def estimate(
    axes: Axes,
    y: float,
    value: float,
    low: float,
    high: float,
    colour: str,
    marker: str = "s",
    width: float = 1.8,
) -> None:
    """Draw an estimate and its interval, if there is one."""
    axes.plot([low, high], [y, y], color=colour, linewidth=width, solid_capstyle="butt")
    axes.plot([value], [y], marker=marker, color=colour, markersize=4 + width / 2)


def key(marker: str, width: float, words: str) -> Line2D:
    """Return the legend entry for an estimate and its interval."""
    size = 4 + width / 2
    return Line2D([], [], color=SOFT, label=words, marker=marker, markersize=size, linewidth=width)


def values(runs: pd.DataFrame, arm_digest: str) -> dict[int, float]:
    """Return the accuracy by which arms are compared for each seed; chance level if it diverged."""
    of = runs[runs["arm_digest"] == arm_digest]
    done = of[(of["status"] == "completed") & of[FIGURE].notna()]
    found = {
        int(seed): float(value) for seed, value in zip(done["seed"], done[FIGURE], strict=True)
    }
    lost = of[of["status"] == "diverged"]
    chances = lost["chance"].fillna(0.0)
    return found | {int(seed): float(at) for seed, at in zip(lost["seed"], chances, strict=True)}


def of_seeds(runs: pd.DataFrame, arm: pd.Series) -> list[float]:
    """Return the difference between an arm and its rival on each common seed."""
    around = runs[(runs["context"] == arm["context"]) & (runs["arm"] == arm.get("rival"))]
    if around.empty:
        return []
    rival = values(runs, around["arm_digest"].iloc[0])
    own = values(runs, arm["arm_digest"])
    return [own[seed] - rival[seed] for seed in own if seed in rival]


def _beyond(axes: Axes, y: float, below: bool, colour: str) -> None:
    """Mark that values lie beyond the end of the axis, on the left if `below`."""
    words, side = ("◀", {"ha": "left"}) if below else ("▶", {"ha": "right"})
    how: dict[str, Any] = {"va": "center", "color": colour, "fontsize": 8, **side}
    axes.text(0 if below else 1, y, words, transform=axes.get_yaxis_transform(), **how)


def _rival(arm: pd.Series) -> str:
    rival = arm["rival"]
    return arm_name(rival) if isinstance(rival, str) else "the fixed λ"


def _against(arm: pd.Series) -> str:
    seeds = f"{arm['pairs']:g} seed{'s' * (arm['pairs'] > 1)}"
    return f"{arm_name(arm['arm'])}\nagainst {_rival(arm)}, {seeds}"


def _said(arm: pd.Series) -> str:
    """Format the difference with its interval and p."""
    text = signed(arm["difference"])
    if not np.isnan(arm["difference_low"]):
        text += f" ({signed(arm['difference_low'])} to {signed(arm['difference_high'])})"
    p = arm["p_adjusted"]
    if np.isnan(p):
        return text
    return text + (", p < 0.001" if p < 0.001 else f", p = {p:.2g}")
