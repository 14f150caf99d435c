"""What the tables come to, in words."""

from __future__ import annotations

import math

import pandas as pd

from . import stats

RULE = (
    "Arms are compared by the mean test accuracy of their last 10 epochs, on the same seeds, with "
    "the fixed λ that is best on the other seeds; p from a sign-flip permutation test, "
    "Holm-adjusted over all comparisons of the study; intervals from a 95 % bootstrap over "
    "seeds, which with a handful of seeds are too narrow."
)
MANY = 6
"""Names that are listed at most."""
NOTHING = "No run of this study has come to a result yet."


def verdict(summary: pd.DataFrame) -> list[str]:
    """Does a schedule beat the fixed λ? A headline, then a sentence an arm, most certain first.

    Args:
        summary: the table of arms.
    """
    if summary.empty or not (summary["n"] + summary["diverged"]).any():
        return [NOTHING]
    schedules = summary[~summary["baseline"]]
    if schedules.empty:
        return [_best_fixed(summary)]
    compared = schedules[schedules["pairs"] > 0].sort_values("p_holm")
    sentences = [_sentence(arm) for _, arm in compared.iterrows()]
    if not schedules["baselines"].any():
        return [_no_baseline(summary)]
    return [_headline(compared), *sentences, *_alone(schedules[schedules["pairs"] == 0])]


def _best_fixed(summary: pd.DataFrame) -> str:
    ranked = summary.dropna(subset="mean").sort_values("mean", ascending=False)
    if ranked.empty:
        return "Only fixed λ so far, and every run of it diverged."
    return f"Only fixed λ so far; the highest mean is that of {_leader(ranked)}."


def _no_baseline(summary: pd.DataFrame) -> str:
    ranked = summary.dropna(subset="mean").sort_values("mean", ascending=False)
    text = "There is no result of a fixed λ under the same circumstances to compare with"
    if ranked.empty:
        return f"{text}, and every run of it diverged."
    return f"{text}; the highest mean is that of {_leader(ranked)}."


def _leader(ranked: pd.DataFrame) -> str:
    best = ranked.iloc[0]
    return f"{_name(best)}, {best['mean']:.2f} % ({_seeds(best['n'])})"


def _headline(compared: pd.DataFrame) -> str:
    if compared.empty:
        return "Nothing can be said yet: no schedule shares a seed with a fixed λ."
    better = compared[_significant(compared) & (compared["difference"] > 0)]
    sound = better[better["diverged"] == 0]
    if len(sound):
        names = ", ".join(_name(arm) for _, arm in sound.iterrows())
        return f"Yes: {names} beat{'s' * (len(sound) == 1)} the best fixed λ."
    if len(better):
        return "Where they train at all, some schedules beat the best fixed λ; but they diverge."
    most, fewest = int(compared["pairs"].max()), stats.fewest_pairs(len(compared))
    if most == 1:
        return (
            "No claim can be made: one seed an arm says nothing about chance; "
            f"it takes at least {fewest} seeds."
        )
    if most < fewest:
        among = f" before it is adjusted for {len(compared)} comparisons" * (len(compared) > 1)
        return (
            f"No claim can be made: with {most} seeds an arm the test cannot go below "
            f"p = {2 / 2**most:.3g}{among}; it takes at least {fewest} seeds."
        )
    return "No schedule can be told to beat the best fixed λ."


def _significant(arms: pd.DataFrame) -> pd.Series:
    return arms["p_holm"] <= 1 - stats.LEVEL


def _sentence(arm: pd.Series) -> str:
    pairs = int(arm["pairs"])
    seen = f"{arm['difference']:+.2f} points"
    if not math.isnan(arm["difference_low"]):
        seen += f" ({arm['difference_low']:+.2f} to {arm['difference_high']:+.2f})"
    text = f"{_name(arm)}: {seen} against the best fixed λ on {_seeds(pairs)}"
    if arm["diverged"]:
        text += f", and diverged on {arm['diverged']} more"
    if math.isnan(arm["p_holm"]):
        return f"{text}."
    text += f", p = {arm['p_holm']:.3g}"
    if arm["p_holm"] <= 1 - stats.LEVEL:
        return f"{text}: {'better' if arm['difference'] > 0 else 'worse'}."
    if arm["seeds_needed"] is None or math.isnan(arm["seeds_needed"]):
        return f"{text}: no difference."
    more = max(1, int(arm["seeds_needed"]) - pairs)
    return (
        f"{text}: not resolved; a difference of this size would take about "
        f"{more} more seed{'s' * (more > 1)}."
    )


def _alone(arms: pd.DataFrame) -> list[str]:
    """What is said of the schedules that could not be compared: each reason, and who it is of."""
    reasons: dict[str, list[str]] = {}
    for _, arm in arms.iterrows():
        if arm["n"] == 0 and arm["diverged"]:
            reason = "Diverged on every seed"
        elif arm["n"] == 0:
            reason = "Without a result yet"
        elif arm["baselines"] == 0:
            reason = "No result of a fixed λ under the same circumstances to compare with"
        elif arm["baselines"] > 1 and arm["n"] == 1:
            reason = "One seed is too few to choose the best fixed λ on other seeds"
        else:
            reason = "No fixed λ on the same seeds to compare with"
        reasons.setdefault(reason, []).append(_name(arm))
    return [f"{reason}: {_some(names)}." for reason, names in reasons.items()]


def _some(names: list[str]) -> str:
    few = names if len(names) <= MANY else [*names[:MANY], f"and {len(names) - MANY} more"]
    return ", ".join(few)


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _name(arm: pd.Series) -> str:
    return f"{arm['arm']} {'with' if arm['batchnorm'] else 'without'} batch-norm"
