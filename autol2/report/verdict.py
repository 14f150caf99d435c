"""Writes the verdict of the report: the conclusions from its tables, in sentences."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from . import speed, stats
from .words import arm_name, listed, name, plural, rival, seeds, signed

MANY = 6
"""Maximum number of names in a list."""
MOST_SEEDS = 500
"""Maximum number of seeds that the verdict suggests; a difference that needs more is negligible."""
NOTHING = "No run of this study has come to a result yet."


def rule(summary: pd.DataFrame) -> str:
    """Explain how arms are compared, for the text below the verdict."""
    late = summary["evaluations"].max() if "evaluations" in summary else math.nan
    count = "" if math.isnan(late) else f", here the last {int(late)}" if late > 1 else ", here one"
    on = set(summary["chosen_on"].dropna()) if "chosen_on" in summary else set()
    by_validation = (
        "The fixed λ was chosen by validation accuracy, and schedules are compared with it alone."
    )
    by_test = (
        "whatever is called strongest or best was chosen on test accuracy; a schedule is therefore "
        "said to beat the fixed λs only if it beats every one of them."
    )
    if len(on) > 1:
        chosen = f"Where all runs have validation images: {by_validation} Elsewhere {by_test}"
    else:
        chosen = by_validation if on == {"validation"} else f"Without validation images, {by_test}"
    return (
        "Arms are compared by the mean test accuracy of the last tenth of training (at least one "
        f"evaluated epoch, at most ten{count}), on the same seeds; a diverged run counts at chance "
        "level, or as 0 % if the number of classes is not known. "
        f"{chosen} p comes from a sign-flip permutation test; an adjusted p is corrected by Holm's "
        "method for all comparisons of the study. Intervals of means and differences are 95 % t "
        "intervals, adjusted like the p next to them; the upper limit of a difference is wider, "
        "since the strongest of several fixed λs is also the luckiest. An arm is called better or "
        "worse only if p and interval both say so. Fix the number of seeds before looking: adding "
        "seeds until p falls below 0.05 leads to false claims."
    )


def verdict(summary: pd.DataFrame) -> list[str]:
    """Say whether any schedule beats the fixed λs.

    Args:
        summary: the table of arms.

    Returns:
        A headline, followed by a sentence for each schedule, with the most certain first.
    """
    if summary.empty or not (summary["n"] + summary["diverged"]).any():
        return [NOTHING]
    schedules = summary[~summary["baseline"]]
    if schedules.empty:
        leader = _leader(summary, "Only fixed λ so far")
        return [leader, *_diverged(summary), *_collapsed(summary)]
    if not schedules["rivals"].any():
        said = "There is no result of a fixed λ with the same settings to compare with"
        return [
            _leader(summary, said),
            *_alone(schedules[schedules["unmatched"] != ""]),
            *_diverged(summary),
            *_collapsed(summary),
        ]
    compared = schedules[schedules["pairs"] > 0]
    compared = compared.assign(size=compared["difference"].abs()).sort_values(
        ["p_adjusted", "size"], ascending=[True, False]
    )
    told: set[tuple[Any, ...]] = set()
    return [
        _headline(compared),
        *[_sentence(arm, told) for _, arm in compared.iterrows()],
        *_alone(schedules[schedules["pairs"] == 0]),
        *_chosen(schedules),
        *[text for _, arm in compared.iterrows() if (text := _speed(arm, told))],
        *_diverged(summary[summary["baseline"]]),
        *_collapsed(summary),
    ]


def laws(fits: pd.DataFrame) -> list[str]:
    """Say for each context whether the steps to the best test accuracy follow t* = c/λ.

    Args:
        fits: the table of fits; see `speed.fits`.
    """
    found = []
    for _, fit in fits.iterrows():
        if math.isnan(fit["slope_low"]):
            continue
        slope = f"{fit['slope']:.2f} ({fit['slope_low']:.2f} to {fit['slope_high']:.2f})"
        law = "do not follow t* = c/λ"
        if speed.holds(fit):
            law = f"are compatible with t* = {fit['constant']:.2g}/λ"
        there = "with" if fit["batchnorm"] else "without"
        on = "" if pd.isna(fit["batchnorm"]) else f" {there} batch-norm"
        late = int(fit["censored"])
        left_out = f"; {plural(late, 'run')} still improving at the end left out" * bool(late)
        found.append(
            f"Steps to the best test accuracy of fixed λs{on} {law} (Lewkowycz and Gur-Ari): a "
            f"free fit has the slope {slope} over {int(fit['lambdas'])} λs{left_out}."
        )
    return found


def _leader(summary: pd.DataFrame, said: str) -> str:
    if not summary["n"].any():
        every = (
            "every run" if not summary[["unfinished", "lost"]].to_numpy().any() else "each so far"
        )
        return f"{said}, and {every} diverged."
    ranked = summary.dropna(subset="mean_on_common_seeds")
    if ranked.empty:
        return f"{said}, and they have no common seed."
    best = ranked.sort_values("mean_on_common_seeds", ascending=False).iloc[0]
    common = int(best["common_seeds"])
    text = f"{said}; the highest mean is that of {name(best)}, {best['mean_on_common_seeds']:.2f} %"
    if common < summary["n"].max():
        return f"{text} on the {seeds(common)} that all of them have."
    return f"{text} ({seeds(common)})."


def _headline(compared: pd.DataFrame) -> str:
    if compared.empty:
        return "Nothing can be said yet: no schedule can be compared with a fixed λ."
    better = compared[compared["beats_all"].astype(bool)]
    everywhere = better[better["better_elsewhere"] == ""]
    if len(everywhere):
        parts = []
        for _, arms in everywhere.groupby("chosen_on", sort=False):
            names = listed([name(arm) for _, arm in arms.iterrows()], MANY)
            parts.append(f"{names} beat{'s' * (len(arms) == 1)} {_all_rivals(arms)}")
        return f"Yes: {'; '.join(parts)}."
    if len(better):
        first = better.iloc[0]
        return (
            f"Not in general: {name(first)} beats {_all_rivals(better[:1])} under the same "
            f"settings, but {first['better_elsewhere']}."
        )
    comparisons = int(compared["comparisons"].max())
    most = int(compared[["pairs", "p_pairs"]].to_numpy().max())
    fewest = stats.fewest_pairs(comparisons)
    if most == 1:
        return (
            "No claim can be made: with one common seed, chance cannot be ruled out; "
            f"at least {fewest} seeds are needed."
        )
    if most < fewest:
        among = f" before it is adjusted for {comparisons} comparisons" * (comparisons > 1)
        return (
            f"No claim can be made: with {most} common seeds, p cannot fall below "
            f"{2 / 2**most:.3g}{among}; at least {fewest} seeds are needed."
        )
    said = "No schedule is shown to beat "
    if compared["rivals"].max() > 1:
        return f"{said}the fixed λs."
    return f"{said}{rival(compared.iloc[0])}, {_only(compared)}."


def _all_rivals(arms: pd.DataFrame) -> str:
    """Describe what `arms` beat: the only fixed λ, the one that was chosen, or all of them."""
    first = arms.iloc[0]
    if arms["rival"].nunique() == 1 and arms["rivals"].max() == 1:
        return f"{rival(first)}, {_only(arms)}"
    waits = f" so far ({first['pending_rivals']} without a result)" * bool(first["pending_rivals"])
    if (arms["chosen_on"] == "validation").all():
        return f"the fixed λ that validation accuracy chose{waits}"
    if (arms["diverged_rivals"] != "").any():
        return f"every fixed λ that trained on all its seeds{waits}"
    if arms["rivals"].nunique() == 1:
        return f"each of the {int(first['rivals'])} fixed λs tried{waits}"
    return f"every fixed λ tried{waits}"


def _only(arms: pd.DataFrame) -> str:
    """Describe the only fixed λ that `arms` could be compared with."""
    waiting = arms["pending_rivals"].iloc[0]
    if waiting:
        return f"the only fixed λ with a result so far ({waiting} without one)"
    return "the only fixed λ tried"


def _sentence(arm: pd.Series, told: set[tuple[Any, ...]]) -> str:
    """Write the sentence on an arm.

    Args:
        arm: the row of the arm.
        told: the facts on rivals that earlier sentences have stated and this one leaves out.
    """
    pairs = int(arm["pairs"])
    seen = f"{signed(arm['difference'])} points"
    if not math.isnan(arm["difference_low"]):
        seen += f" ({signed(arm['difference_low'])} to {signed(arm['difference_high'])})"
    text = f"{name(arm)}: {seen} against {_rival(arm, told)}, on {seeds(pairs)}"
    runs = int(arm["n"] + arm["diverged"] + arm["unfinished"] + arm["lost"])
    if arm["diverged"]:
        text += f"; {int(arm['diverged'])} of {runs} runs diverged and count at chance level"
    if arm["lost"]:
        text += f"; {int(arm['lost'])} of {runs} runs failed or cannot be read"
    if arm["collapsed"]:
        text += f"; {int(arm['collapsed'])} of {runs} runs collapsed to chance level"
    if arm["unfinished"]:
        text += f"; {int(arm['unfinished'])} of {runs} runs have not ended"
    if arm["diverged_rivals"]:
        text += f"; excluded from the comparison: {arm['diverged_rivals']}"
    if arm["apart_rivals"]:
        text += f"; not compared, because there is no common seed: {arm['apart_rivals']}"
    if not math.isnan(arm["p"]):
        adjusted = arm["comparisons"] > 1
        text += f", {'adjusted ' * adjusted}p = {arm['p_adjusted']:.3g}"
        if arm["p_rival"] != arm["rival"]:
            text += f" (against {arm_name(arm['p_rival'])}, on {seeds(arm['p_pairs'])})"
    text = f"{text}: {_judgement(arm)}."
    if arm["better_elsewhere"]:
        text += f" At other settings {arm['better_elsewhere']}."
    return text


def _rival(arm: pd.Series, told: set[tuple[Any, ...]]) -> str:
    said, count = rival(arm), int(arm["rivals"])
    what = (arm["context"], said, count, arm["chosen_on"], arm["pending_rivals"])
    if what in told:
        return said
    told.add(what)
    if count == 1:
        return f"{said}, the only one {'with a result' if arm['pending_rivals'] else 'tried'}"
    if arm["chosen_on"] == "validation":
        said += f", chosen by validation accuracy among {count} fixed λs"
    elif arm["stronger_rival"]:
        stronger = arm_name(arm["stronger_rival"])
        said += f", one of {count} fixed λs ({stronger} is stronger, on too few seeds to tell)"
    else:
        said += f", the strongest of {count} fixed λs (chosen on test accuracy)"
    if arm["rival_at_edge"]:
        said += ", which lies at the grid's edge: one beyond it may be stronger"
    return said


def _judgement(arm: pd.Series) -> str:
    equivalent = arm["equivalent"] is True or arm["equivalent"] == True  # noqa: E712 (numpy's)
    known = not math.isnan(arm["p_adjusted"])
    if equivalent:
        told = "better, but " if arm["beats_all"] else "worse, but " if _worse(arm) else ""
        return f"{told}equivalent within ±{arm['margin']:g} points"
    if arm["beats_all"]:
        return "better"
    if _worse(arm):
        return "worse"
    if arm["diverged"]:
        return "not to be called better, since it diverged"
    if arm["lost"] and arm["difference"] > 0:
        return "not to be called better, since some of its runs have no result"
    if arm["unfinished"] and arm["difference"] > 0:
        return "not to be called better before all of its runs have ended"
    if arm["apart_rivals"] and arm["difference"] > 0:
        return "not to be called better before it is compared with all of them"
    if not known or arm["pairs"] < stats.fewest_pairs(int(arm["comparisons"])):
        return "too few seeds to tell"
    if arm["p_pairs"] < stats.fewest_pairs(int(arm["comparisons"])):
        short = f"{arm_name(arm['p_rival'])} ran only {seeds(arm['p_pairs'])} of these"
        return f"not to be called better, since {short}"
    if pd.isna(arm["seeds_needed"]) or arm["seeds_needed"] > MOST_SEEDS:
        return "no significant difference"
    in_all = int(arm["seeds_needed"])
    more = plural(in_all - int(arm["pairs"]), "more seed")
    return (
        f"not resolved; a true difference of this size would take about {more} "
        f"({in_all} in all, a number to fix before looking)"
    )


def _worse(arm: pd.Series) -> bool:
    """Whether an arm is worse by both the test and the interval, as `beats_all` also requires."""
    significant = arm["p_adjusted"] <= 1 - stats.LEVEL + 1e-12  # False if there is no p-value.
    return bool(significant and arm["difference_high"] < 0)


def _speed(arm: pd.Series, told: set[tuple[Any, ...]]) -> str:
    """Say whether an arm trains faster than its rival.

    Args:
        arm: the row of the arm.
        told: the facts that earlier sentences have stated, such as how censored runs count.

    Returns:
        The sentence; empty if there is no comparison.
    """
    if pd.isna(arm.get("rival_reached_target", math.nan)):
        return ""
    target, pairs = f"{arm['target']:.4g} %", int(arm["pairs"])
    ours, theirs = int(arm["reached_target_with_rival"]), int(arm["rival_reached_target"])
    there = " on these seeds" * bool(arm["reached_target"] and not ours)
    if not ours and not theirs:
        return f"Neither {name(arm)} nor {rival(arm)} reaches {target}{there}."
    if not ours:
        theirs_said = f"{rival(arm)} does on {theirs} of {seeds(pairs)}"
        return f"{name(arm)} never reaches {target}{there}, and {theirs_said}."
    difference = arm["epochs_to_target_difference"]
    low, high = arm["epochs_to_target_difference_low"], arm["epochs_to_target_difference_high"]
    how = "as soon as" if difference == 0 else "later than" if difference > 0 else "sooner than"
    size = "" if difference == 0 else f"{plural(abs(difference), 'epoch')} "
    text = f"{name(arm)} reaches {target} {size}{how} {rival(arm)}"
    if not math.isnan(low):
        bounds = sorted((low, high)) if difference > 0 else sorted((-low, -high))
        if difference:
            text += f" ({bounds[0]:.1f} to {bounds[1]:.1f})"
    if ours < pairs or theirs < pairs:
        text += f"; {ours} of its {pairs} runs reach it, and {theirs} of {pairs} with {rival(arm)}"
        if ("censored",) not in told:
            text += (
                " (a run that does not reach it is counted as reaching it at the end of training)"
            )
        told.add(("censored",))
    if math.isnan(low):
        text += "; too few seeds for an interval"
    elif difference and arm["epochs_to_target_p"] > 1 - stats.LEVEL + 1e-12:
        few = pairs < stats.fewest_pairs(int(arm["comparisons"]))
        text += "; too few seeds to tell" if few else ", no significant difference in speed"
    elif difference and low <= 0 <= high:
        text += ", no significant difference in speed"
    area, *ends = (arm[f"area_difference{end}"] for end in ("", "_low", "_high"))
    sure = arm["area_p"] <= 1 - stats.LEVEL + 1e-12
    if sure and not math.isnan(ends[0]) and not ends[0] <= 0 <= ends[1]:
        where = "higher" if area > 0 else "lower"
        shown = " to ".join(f"{abs(end):.2f}" for end in sorted(ends, key=abs))
        text += f"; its test accuracy is {abs(area):.2f} points {where} on average over training"
        text += f" ({shown})"
    end = "better" if arm["beats_all"] else "worse" if _worse(arm) else "no significant difference"
    return f"{text}; {end} in the end."


def _alone(arms: pd.DataFrame) -> list[str]:
    """List the schedules that could not be compared, grouped by the reason."""
    reasons: dict[str, list[str]] = {}
    for _, arm in arms.iterrows():
        if arm["n"] == 0 and arm["diverged"] and not arm["rivals"]:
            reason = "Diverged on every seed"
        elif arm["n"] == 0 and arm["lost"]:
            reason = "Failed, or without readable records"
        elif arm["n"] == 0 and not arm["diverged"]:
            reason = "Without a result yet"
        elif arm["rivals"] == 0:
            reason = "No result of a fixed λ with the same settings to compare with"
            if arm["unmatched"]:
                reason += f" (the nearest, {arm['unmatched']})"
        elif arm["diverged_rivals"]:
            reason = f"No usable fixed λ to compare with ({arm['diverged_rivals']})"
        else:
            reason = "No fixed λ on the same seeds to compare with"
        reasons.setdefault(reason, []).append(name(arm))
    return [f"{reason}: {listed(names, MANY)}." for reason, names in reasons.items()]


def _chosen(schedules: pd.DataFrame) -> list[str]:
    """List the strongest setting of each method that ran with several, and how it was chosen."""
    found = []
    for on, how in (("validation", "by validation accuracy"), ("test", "on test accuracy")):
        chosen = schedules[(schedules["settings"] > 1) & (schedules["best_setting_on"] == on)]
        names = [f"{name(arm)} (of {int(arm['settings'])})" for _, arm in chosen.iterrows()]
        if names:
            found.append(f"Strongest setting of each method, chosen {how}: {listed(names, MANY)}.")
    return found


def _diverged(summary: pd.DataFrame) -> list[str]:
    """List the arms in which runs diverged."""
    names = [
        f"{name(arm)} on {int(arm['diverged'])} of {seeds(arm['n'] + arm['diverged'])}"
        for _, arm in summary[summary["diverged"] > 0].iterrows()
    ]
    return [f"Diverged: {listed(names, MANY)}."] if names else []


def _collapsed(summary: pd.DataFrame) -> list[str]:
    """List the arms in which runs ended at chance level."""
    there = summary[summary["collapsed"] > 0]
    names = [
        f"{name(arm)}, {int(arm['collapsed'])} of {int(arm['n'])} collapsed "
        f"(median {arm['median']:.2f} %, mean {arm['mean']:.2f} %)"
        for _, arm in there.iterrows()
    ]
    return [f"At chance level: {listed(names, MANY)}."] if names else []
