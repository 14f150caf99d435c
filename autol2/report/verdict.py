"""What the tables come to, in words."""

from __future__ import annotations

import math

import pandas as pd

from .. import stats
from .tables import FIGURE

RULE = (
    f"Arms are compared by {FIGURE.replace('_', ' ')} (test accuracy), on the same seeds, with the "
    "fixed λ that is best on the other seeds; p from a sign-flip permutation test, Holm-adjusted "
    "over all comparisons of the study; intervals from a 95 % bootstrap over seeds."
)


def verdict(summary: pd.DataFrame) -> list[str]:
    """Does a schedule beat the fixed λ? A sentence each, most certain first.

    Args:
        summary: the table of arms.
    """
    if summary.empty:
        return ["No run of this study has come to a result yet."]
    schedules = summary[summary["method"] != "fixed"]
    if schedules.empty:
        return [_best_fixed(summary)]
    compared = schedules[schedules["pairs"] > 0]
    sentences = [_sentence(arm) for _, arm in compared.sort_values("p_holm").iterrows()]
    alone = schedules[schedules["pairs"] == 0]
    if len(alone):
        names = ", ".join(sorted({_name(arm) for _, arm in alone.iterrows()}))
        sentences.append(f"No fixed λ to compare with, on the same seeds: {names}.")
    return [_headline(compared), *sentences]


def _best_fixed(summary: pd.DataFrame) -> str:
    ranked = summary.dropna(subset="mean").sort_values("mean", ascending=False)
    if ranked.empty:
        return "No run of this study has come to a result yet."
    best = ranked.iloc[0]
    return f"Only fixed λ so far; the best is {_name(best)} with {best['mean']:.2f} %."


def _headline(compared: pd.DataFrame) -> str:
    if compared.empty:
        return "Nothing can be said yet: no schedule shares a seed with a fixed λ."
    better = compared[_significant(compared) & (compared["difference"] > 0)]
    if len(better):
        names = ", ".join(_name(arm) for _, arm in better.iterrows())
        return f"Yes: {names} beat{'s' * (len(better) == 1)} the best fixed λ."
    if compared["pairs"].max() < 6:
        most = int(compared["pairs"].max())
        if most == 1:
            return (
                "No claim can be made: one seed an arm says nothing about chance; take 6 or more."
            )
        return (
            f"No claim can be made: with {most} seeds an arm the test cannot go "
            f"below p = {2 / 2**most:g}; it takes at least 6."
        )
    return "No schedule can be told to beat the best fixed λ."


def _significant(arms: pd.DataFrame) -> pd.Series:
    return arms["p_holm"] < 1 - stats.LEVEL


def _sentence(arm: pd.Series) -> str:
    name, pairs = _name(arm), int(arm["pairs"])
    seen = f"{arm['difference']:+.2f} points"
    if not math.isnan(arm["difference_low"]):
        seen += f" ({arm['difference_low']:+.2f} to {arm['difference_high']:+.2f})"
    text = f"{name}: {seen} against the best fixed λ on {pairs} seed{'s' * (pairs > 1)}"
    if arm["diverged"]:
        text += f", {arm['diverged']} more diverged"
    if math.isnan(arm["p_holm"]):
        return f"{text}."
    text += f", p = {arm['p_holm']:.3g}"
    if arm["p_holm"] < 1 - stats.LEVEL:
        return f"{text}: {'better' if arm['difference'] > 0 else 'worse'}."
    if arm["seeds_needed"] is None or math.isnan(arm["seeds_needed"]):
        return f"{text}: no difference."
    more = max(0, int(arm["seeds_needed"]) - pairs)
    return f"{text}: not resolved; a difference of this size would take about {more} more seeds."


def _name(arm: pd.Series) -> str:
    return f"{arm['arm']} {'with' if arm['batchnorm'] else 'without'} batch-norm"
