"""What the tables come to, in words."""

from __future__ import annotations

import math

import pandas as pd

from . import stats
from .words import listed, name, number, plural, rival, seeds, signed

MANY = 6
"""Names that are listed at most."""
MOST_SEEDS = 500
"""Seeds that anybody would run for a difference; one that takes more is none to speak of."""
NOTHING = "No run of this study has come to a result yet."


def rule(summary: pd.DataFrame) -> str:
    """How arms are compared, for below the verdict."""
    late = summary["evaluations"].max() if "evaluations" in summary else math.nan
    count = "" if math.isnan(late) else f", here the last {int(late)}" if late > 1 else ", here one"
    on_validation = "chosen_on" in summary and (summary["chosen_on"] == "validation").any()
    chosen = (
        "The fixed λ was chosen by validation accuracy, and schedules are compared with it alone."
        if on_validation
        else "There are no validation images, so whatever is called strongest or best was chosen "
        "on test accuracy; a schedule is therefore said to beat the fixed λs only if it beats "
        "every one of them."
    )
    return (
        "Arms are compared by the mean test accuracy of the last tenth of training (at least one "
        f"evaluated epoch, at most ten{count}), on the same seeds; a diverged run counts at chance "
        f"level. {chosen} p from a sign-flip permutation test, adjusted after Holm for all "
        "comparisons of the study where it is called adjusted; intervals of means and differences "
        "are Student's, 95 %, adjusted as the p beside them. An arm is called better or worse "
        "only where both say so. Fix the number of seeds before "
        "looking: adding seeds until p falls below 0.05 makes false claims."
    )


def verdict(summary: pd.DataFrame) -> list[str]:
    """Does a schedule beat the fixed λ? A headline, then a sentence an arm, most certain first.

    Args:
        summary: the table of arms.
    """
    if summary.empty or not (summary["n"] + summary["diverged"]).any():
        return [NOTHING]
    schedules = summary[~summary["baseline"]]
    if schedules.empty:
        return [_leader(summary, "Only fixed λ so far"), *_collapsed(summary)]
    if not schedules["rivals"].any():
        said = "There is no result of a fixed λ under the same circumstances to compare with"
        return [
            _leader(summary, said),
            *_alone(schedules[schedules["unmatched"] != ""]),
            *_collapsed(summary),
        ]
    compared = schedules[schedules["pairs"] > 0]
    compared = compared.assign(size=compared["difference"].abs()).sort_values(
        ["p_adjusted", "size"], ascending=[True, False]
    )
    return [
        _headline(compared),
        *[_sentence(arm) for _, arm in compared.iterrows()],
        *_alone(schedules[schedules["pairs"] == 0]),
        *_chosen(schedules),
        *[text for _, arm in compared.iterrows() if (text := _speed(arm))],
        *_diverged(summary),
        *_collapsed(summary),
    ]


def _leader(summary: pd.DataFrame, said: str) -> str:
    if not summary["n"].any():
        return f"{said}, and every run diverged."
    ranked = summary.dropna(subset="mean_on_common_seeds")
    if ranked.empty:
        return f"{said}, and no seed that all of them have."
    best = ranked.sort_values("mean_on_common_seeds", ascending=False).iloc[0]
    common = int(best["common_seeds"])
    text = f"{said}; the highest mean is that of {name(best)}, {best['mean_on_common_seeds']:.2f} %"
    if common < summary["n"].max():
        return f"{text} on the {seeds(common)} that all have."
    return f"{text} ({seeds(common)})."


def _headline(compared: pd.DataFrame) -> str:
    if compared.empty:
        return "Nothing can be said yet: no schedule shares a seed with a fixed λ."
    better = compared[compared["beats_all"].astype(bool)]
    everywhere = better[better["better_elsewhere"] == ""]
    if len(everywhere):
        names = listed([name(arm) for _, arm in everywhere.iterrows()], MANY)
        return f"Yes: {names} beat{'s' * (len(everywhere) == 1)} {_all_rivals(everywhere)}."
    if len(better):
        first = better.iloc[0]
        return (
            f"Not in general: {name(first)} beats {_all_rivals(better[:1])} under the same "
            f"settings, but {first['better_elsewhere'].replace(' by ', ' is better by ')}."
        )
    comparisons = int(compared["comparisons"].max())
    most, fewest = int(compared["pairs"].max()), stats.fewest_pairs(comparisons)
    if most == 1:
        return (
            "No claim can be made: one seed an arm says nothing about chance; "
            f"it takes at least {fewest} seeds."
        )
    if most < fewest:
        among = f" before it is adjusted for {comparisons} comparisons" * (comparisons > 1)
        return (
            f"No claim can be made: with {most} seeds an arm the test cannot go below "
            f"p = {2 / 2**most:.3g}{among}; it takes at least {fewest} seeds."
        )
    said = "No schedule can be told to beat the fixed λ"
    several = compared["rivals"].max() > 1
    return f"{said}{'s' if several else ' = ' + number(compared['rival_lambda'].iloc[0])}" + (
        "." if several else ", the only one tried."
    )


def _all_rivals(arms: pd.DataFrame) -> str:
    """What `arms` beat: the only fixed λ, the one chosen, or all of them."""
    first = arms.iloc[0]
    if arms["rival"].nunique() == 1 and arms["rivals"].max() == 1:
        return f"{rival(first)}, the only fixed λ tried"
    if (arms["chosen_on"] == "validation").all():
        return "the fixed λ that validation accuracy chose"
    if (arms["diverged_rivals"] != "").any():
        return "every fixed λ that trained on all its seeds"
    if arms["rivals"].nunique() == 1:
        return f"each of the {int(first['rivals'])} fixed λs tried"
    return "every fixed λ tried"


def _sentence(arm: pd.Series) -> str:
    pairs = int(arm["pairs"])
    seen = f"{signed(arm['difference'])} points"
    if not math.isnan(arm["difference_low"]):
        seen += f" ({signed(arm['difference_low'])} to {signed(arm['difference_high'])})"
    text = f"{name(arm)}: {seen} against {_rival(arm)}, on {seeds(pairs)}"
    if arm["diverged"]:
        runs = int(arm["n"] + arm["diverged"] + arm["unfinished"])
        text += f"; {int(arm['diverged'])} of {runs} runs diverged and count at chance level"
    if arm["diverged_rivals"]:
        text += f"; no yardstick, since it diverged: {arm['diverged_rivals']}"
    if not math.isnan(arm["p"]):
        adjusted = arm["comparisons"] > 1
        text += f", {'adjusted ' * adjusted}p = {arm['p_adjusted']:.3g}"
    text = f"{text}: {_judgement(arm)}."
    if arm["better_elsewhere"]:
        ahead = arm["better_elsewhere"].replace(" by ", " is better by ")
        text += f" At other settings {ahead}."
    return text


def _rival(arm: pd.Series) -> str:
    said, count = rival(arm), int(arm["rivals"])
    if count == 1:
        return f"{said}, the only one tried"
    if arm["chosen_on"] == "validation":
        said += f", chosen by validation accuracy among {count} fixed λs"
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
    if not known:
        return "too few seeds to tell"
    if pd.isna(arm["seeds_needed"]) or arm["seeds_needed"] > MOST_SEEDS:
        return "no difference can be told"
    in_all = int(arm["seeds_needed"])
    more = max(1, in_all - int(arm["pairs"]))
    return (
        f"not resolved; a true difference of this size would take about {plural(more, 'more seed')}"
        f" ({max(in_all, int(arm['pairs']) + 1)} in all, a number to fix before looking)"
    )


def _worse(arm: pd.Series) -> bool:
    """Whether both the test and the interval say so; `beats_all` asks the same of both."""
    significant = arm["p_adjusted"] <= 1 - stats.LEVEL + 1e-12  # never where there is no p
    return bool(significant and arm["difference_high"] < 0)


def _speed(arm: pd.Series) -> str:
    """Whether an arm trains faster than its rival."""
    if pd.isna(arm.get("rival_reached_target", math.nan)):
        return ""
    target, pairs, runs = f"{arm['target']:.4g} %", int(arm["pairs"]), int(arm["n"])
    ours, theirs = int(arm["reached_target"]), int(arm["rival_reached_target"])
    if not ours and not theirs:
        return f"Neither {name(arm)} nor {rival(arm)} reaches {target}."
    if not ours:
        theirs_said = f"{rival(arm)} does on {theirs} of {seeds(pairs)}"
        return f"{name(arm)} never reaches {target}, and {theirs_said}."
    difference = arm["epochs_to_target_difference"]
    low, high = arm["epochs_to_target_difference_low"], arm["epochs_to_target_difference_high"]
    how = "as soon as" if difference == 0 else "later than" if difference > 0 else "sooner than"
    size = "" if difference == 0 else f"{plural(abs(difference), 'epoch')} "
    text = f"{name(arm)} reaches {target} {size}{how} {rival(arm)}"
    if not math.isnan(low):
        bounds = sorted((low, high)) if difference > 0 else sorted((-low, -high))
        if difference:
            text += f" ({bounds[0]:.1f} to {bounds[1]:.1f})"
    if ours < runs or theirs < pairs:
        text += (
            f"; {ours} of its {runs} runs reach it, and {theirs} of {pairs} with {rival(arm)} "
            "(a run that does not counts as if it did at its end)"
        )
    if math.isnan(low):
        text += "; too few seeds for an interval"
    elif low <= 0 <= high and difference:
        text += ", no difference in speed that could be told"
    end = "better" if arm["beats_all"] else "no difference"
    if _worse(arm):
        end = "worse"
    tail = " in the end that could be told" if end == "no difference" else " in the end"
    return f"{text}; {end}{tail}."


def _alone(arms: pd.DataFrame) -> list[str]:
    """What is said of the schedules that could not be compared: each reason, and who it is of."""
    reasons: dict[str, list[str]] = {}
    for _, arm in arms.iterrows():
        if arm["n"] == 0 and arm["diverged"] and not arm["rivals"]:
            reason = "Diverged on every seed"
        elif arm["n"] == 0 and not arm["diverged"]:
            reason = "Without a result yet"
        elif arm["rivals"] == 0:
            reason = "No result of a fixed λ under the same circumstances to compare with"
            if arm["unmatched"]:
                reason += f" (the nearest, {arm['unmatched']})"
        elif arm["diverged_rivals"]:
            reason = f"No fixed λ is a yardstick, since all diverged ({arm['diverged_rivals']})"
        else:
            reason = "No fixed λ on the same seeds to compare with"
        reasons.setdefault(reason, []).append(name(arm))
    return [f"{reason}: {listed(names, MANY)}." for reason, names in reasons.items()]


def _chosen(schedules: pd.DataFrame) -> list[str]:
    """The strongest setting of each method that ran with several, and what chose it."""
    found = []
    for on, how in (("validation", "by validation accuracy"), ("test", "on test accuracy")):
        chosen = schedules[(schedules["settings"] > 1) & (schedules["best_setting_on"] == on)]
        names = [f"{name(arm)} of {int(arm['settings'])}" for _, arm in chosen.iterrows()]
        if names:
            found.append(f"Strongest settings, chosen {how}: {listed(names, MANY)}.")
    return found


def _diverged(summary: pd.DataFrame) -> list[str]:
    """Fixed λs that diverged."""
    fixed = summary[summary["baseline"] & (summary["diverged"] > 0)]
    names = [
        f"{name(arm)} on {int(arm['diverged'])} of {seeds(arm['n'] + arm['diverged'])}"
        for _, arm in fixed.iterrows()
    ]
    return [f"Diverged: {listed(names, MANY)}."] if names else []


def _collapsed(summary: pd.DataFrame) -> list[str]:
    """Runs that ended at chance level."""
    there = summary[summary["collapsed"] > 0]
    names = [
        f"{name(arm)}, {int(arm['collapsed'])} of {int(arm['n'])} collapsed "
        f"(median {arm['median']:.2f} %, mean {arm['mean']:.2f} %)"
        for _, arm in there.iterrows()
    ]
    return [f"At chance level: {listed(names, MANY)}."] if names else []
