"""Studies of somebody's own loop in which a claim, or its denial, would be wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from rich.console import Console

import autol2
from autol2.errors import UserError
from autol2.report import figures, forest, page, recorded
from autol2.report.__main__ import report
from autol2.report.arms import Question
from autol2.report.tables import Tables, tables
from autol2.report.verdict import laws, verdict

Figures = Callable[[Mapping[str, float], int], Mapping[str, float]]


def arm(
    method: str,
    value: float | None,
    level: float,
    seeds: Sequence[int] = range(8),
    epochs: int = 10,
    figures: Figures | None = None,
    ended: Mapping[int, str] = {},
    **options: object,
) -> dict[str, Any]:
    return locals()


def fixed(value: float, level: float, **more: Any) -> dict[str, Any]:
    return arm("fixed", value, level, **more)


def schedule(level: float, **more: Any) -> dict[str, Any]:
    return arm("auto_l2", None, level, **more)


def written(folder: Path, *arms: Mapping[str, Any]) -> Path:
    runs, epochs = [], []
    for number, one in enumerate(arms):
        for seed in one["seeds"]:
            name = f"{number}-{seed}"
            told = {"run": name, "method": one["method"], "fixed_lambda": one["value"]}
            status = one["ended"].get(seed, "completed")
            runs.append({**told, "seed": seed, "status": status, **one["options"]})
            level = one["level"] + np.random.default_rng([number, seed]).normal(0, 0.2)
            for epoch in range(1, one["epochs"] + 1):
                row = {"epoch": epoch, "test_accuracy": level - 20 / epoch + 20 / one["epochs"]}
                epochs.append({"run": name, **row, **(one["figures"] or _same)(row, seed)})
    pd.DataFrame(runs).to_csv(folder / "runs.csv", index=False)
    pd.DataFrame(epochs).to_csv(folder / "epochs.csv", index=False)
    return folder


def _same(row: Mapping[str, float], seed: int) -> Mapping[str, float]:
    return {}


def study(folder: Path, *arms: Mapping[str, Any], **question: float) -> tuple[Tables, str, str]:
    """The tables, the headline and the rest of the verdict."""
    made = tables(recorded.read(written(folder, *arms)), Question(**question))
    first, *others = verdict(made.summary)
    return made, first, " ".join(others)


def of(made: Tables, name: str) -> pd.Series:
    return made.summary.set_index("arm").loc[name]


def validated(accuracy: Callable[[Mapping[str, float]], float], *seeds: int) -> Figures:
    def figures(row: Mapping[str, float], seed: int) -> Mapping[str, float]:
        known = not seeds or seed in seeds
        return {"validation_accuracy": accuracy(row) if known else math.nan}

    return figures


# ---------------------------------------------------------------- no Yes where there should be none


def test_a_fixed_lambda_on_other_seeds_cannot_be_beaten(tmp_path: Path) -> None:
    _, said, rest = study(
        tmp_path, fixed(5e-4, 70), fixed(1e-3, 85, seeds=range(100, 108)), schedule(72)
    )
    assert not said.startswith("Yes")
    assert "the only" not in said + rest
    assert "not compared, because there is no common seed: λ = 1e-3" in rest


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_a_fixed_lambda_without_a_result_is_told(tmp_path: Path, status: str) -> None:
    ended = dict.fromkeys(range(8), status)
    _, said, rest = study(tmp_path, fixed(5e-4, 70), fixed(1e-3, 85, ended=ended), schedule(72))
    assert said == (
        "Yes: Auto L2 beats λ = 5e-4, the only fixed λ with a result so far (λ = 1e-3 without one)."
    )
    assert "the only one with a result" in rest


def test_runs_of_different_length_are_not_compared(tmp_path: Path) -> None:
    _, said, rest = study(tmp_path, fixed(5e-4, 70, epochs=5), schedule(72, epochs=50))
    assert not said.startswith("Yes")
    assert "epochs = 50 here and 5 there" in said + rest


def test_a_loop_that_stops_early_is_compared_as_it_is(tmp_path: Path) -> None:
    arms = [
        {**one, "seeds": [seed], "epochs": 8 + seed % 3}
        for one in (fixed(5e-4, 70), schedule(72))
        for seed in range(8)
    ]
    _, said, _ = study(tmp_path, *arms)
    assert said.startswith("Yes")


@pytest.mark.parametrize("value", [math.nan, math.inf, 130.0])
def test_a_run_whose_accuracy_is_none_is_no_survivor(tmp_path: Path, value: float) -> None:
    def lost(row: Mapping[str, float], seed: int) -> Mapping[str, float]:
        return {"test_accuracy": value} if seed < 2 and row["epoch"] > 5 else {}

    made, said, rest = study(tmp_path, fixed(5e-4, 70), schedule(72, figures=lost))
    assert not said.startswith("Yes")
    assert "2 of 8 runs failed or cannot be read" in rest
    assert (of(made, "Auto L2")["n"], of(made, "Auto L2")["lost"]) == (6, 2)


def test_failed_runs_of_a_schedule_are_told(tmp_path: Path) -> None:
    ended = {0: "failed", 1: "failed"}
    _, said, rest = study(tmp_path, fixed(5e-4, 70), schedule(72, ended=ended))
    assert not said.startswith("Yes")
    assert "2 of 8 runs failed or cannot be read" in rest


def test_validation_on_one_seed_chooses_nothing(tmp_path: Path) -> None:
    made, said, _ = study(
        tmp_path,
        fixed(1e-3, 80, figures=validated(lambda row: 60, 0)),
        fixed(1e-4, 70, figures=validated(lambda row: 61, 0)),
        schedule(75, figures=validated(lambda row: 60, 0)),
    )
    assert not said.startswith("Yes")
    assert of(made, "Auto L2")["chosen_on"] == "test"
    assert of(made, "Auto L2")["rival_lambda"] == 1e-3


def test_validation_does_not_choose_among_fixed_lambdas_of_other_seeds(tmp_path: Path) -> None:
    on_all = validated(lambda row: 60)
    made, said, rest = study(
        tmp_path,
        fixed(1e-3, 70, figures=on_all),
        fixed(1e-4, 85, seeds=range(100, 108), figures=on_all),
        schedule(75, figures=on_all),
    )
    assert not said.startswith("Yes")
    assert of(made, "Auto L2")["chosen_on"] == "test"
    assert "chosen by validation" not in rest


def test_validation_does_not_hide_a_diverged_lambda_that_is_ahead(tmp_path: Path) -> None:
    same = validated(lambda row: row["test_accuracy"])
    made, said, _ = study(
        tmp_path,
        fixed(1e-3, 95, figures=same, classes=10, ended={0: "diverged"}),
        fixed(1e-4, 70, figures=same, classes=10),
        schedule(75, figures=same, classes=10),
    )
    assert not said.startswith("Yes")
    assert of(made, "Auto L2")["rival_lambda"] == 1e-3


def test_a_lambda_that_only_guesses_is_no_yardstick(tmp_path: Path) -> None:
    made, said, rest = study(
        tmp_path,
        fixed(8.0, 10, classes=10, figures=lambda row, seed: {"test_accuracy": 10.0}),
        schedule(72, classes=10),
    )
    assert said == "Nothing can be said yet: no schedule can be compared with a fixed λ."
    assert (
        "No usable fixed λ to compare with (λ = 8 never rose above chance level): Auto L2." in rest
    )
    assert "reaches" not in rest
    assert np.isnan(of(made, "Auto L2")["target"])


def test_percent_and_shares_of_one_are_not_mixed(tmp_path: Path) -> None:
    def share(row: Mapping[str, float], seed: int) -> Mapping[str, float]:
        return {"test_accuracy": row["test_accuracy"] / 100}

    with pytest.raises(UserError, match=r"epochs.csv, run 0-0: test_accuracy is in percent"):
        study(tmp_path, fixed(5e-4, 70, figures=share), schedule(69))


def test_a_thousand_classes_may_be_guessed_below_one_percent(tmp_path: Path) -> None:
    def guessing(row: Mapping[str, float], seed: int) -> Mapping[str, float]:
        return {"test_accuracy": 0.1}

    _, said, _ = study(
        tmp_path, fixed(5e-4, 70, classes=1000), schedule(0, classes=1000, figures=guessing)
    )
    assert not said.startswith("Yes")


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [("classes", 100, 10), ("test_images", 10_000, 5_000), ("steps_per_epoch", 391, 782)],
)
def test_other_data_are_other_circumstances(
    tmp_path: Path, name: str, theirs: int, ours: int
) -> None:
    _, said, _ = study(tmp_path, fixed(5e-4, 70, **{name: theirs}), schedule(72, **{name: ours}))
    assert not said.startswith("Yes")


def test_a_run_is_not_told_twice_by_other_data(tmp_path: Path) -> None:
    made, _, _ = study(
        tmp_path,
        fixed(5e-4, 70, classes=10),
        schedule(70, classes=10),
        schedule(74, classes=10, test_images=9999),
    )
    assert list(made.summary["n"]) == [8, 8, 8]


def test_other_settings_count_on_other_seeds_too(tmp_path: Path) -> None:
    _, said, _ = study(
        tmp_path,
        fixed(5e-4, 70, lr=0.1),
        fixed(5e-4, 85, lr=0.01, seeds=range(100, 108)),
        schedule(72, lr=0.1),
    )
    assert said.startswith("Not in general: ")
    assert "λ = 5e-4 lr=0.01 is better by 12." in said
    assert said.endswith(" points on other seeds.")


def test_a_fixed_method_without_its_lambda_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="method is fixed, but it has no fixed_lambda"):
        study(tmp_path, fixed(5e-4, 70), arm("fixed", None, 72))


# ---------------------------------------------------------------- no denial without a ground


@pytest.mark.parametrize("name", ["model", "dataset", "network", "precision", "model.depth"])
def test_another_network_is_no_setting(tmp_path: Path, name: str) -> None:
    _, said, _ = study(
        tmp_path,
        fixed(5e-4, 70, **{name: "a"}),
        fixed(5e-4, 92, **{name: "b"}),
        schedule(72, **{name: "a"}),
    )
    assert said.startswith("Yes: Auto L2")


def test_how_sure_it_is_that_another_setting_is_better(tmp_path: Path) -> None:
    _, said, _ = study(
        tmp_path,
        fixed(5e-4, 70, lr=0.1),
        fixed(5e-4, 72.5, lr=0.01, seeds=[0]),
        schedule(72, lr=0.1),
    )
    assert said.startswith("Not in general")
    assert said.endswith("points on 1 seed.")


def test_p_says_which_lambda_it_is_of(tmp_path: Path) -> None:
    _, said, rest = study(tmp_path, fixed(5e-4, 70), fixed(1e-3, 68, seeds=range(3)), schedule(72))
    assert not said.startswith("Yes")
    assert "p = 0.25 (against λ = 1e-3, on 3 seeds)" in rest
    assert "not to be called better, since λ = 1e-3 ran only 3 seeds of these" in rest
    assert "more seed" not in rest


@pytest.mark.parametrize("name", ["baseline", "arm", "arm_digest", "run_id", "context", "accuracy"])
def test_columns_of_the_report_are_no_options(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is a column of the report's own tables"):
        study(tmp_path, fixed(5e-4, 70, **{name: 1}), schedule(72, **{name: 2}))


# ---------------------------------------------------------------- numbers


def test_the_best_epoch_where_only_others_have_validation(tmp_path: Path) -> None:
    same = validated(lambda row: row["test_accuracy"])
    made, _, _ = study(tmp_path, fixed(5e-4, 70), schedule(70, figures=same))
    assert (made.runs["best_epoch"] == 10).all()
    assert np.allclose(made.runs["best_test_accuracy"], made.runs["final_test_accuracy"])


def test_a_run_that_diverged_never_reached_the_target(tmp_path: Path) -> None:
    made, _, rest = study(
        tmp_path,
        fixed(5e-4, 70, classes=10, seeds=range(12)),
        schedule(74, classes=10, seeds=range(12), ended=dict.fromkeys(range(6), "diverged")),
    )
    row = of(made, "Auto L2")
    assert (row["reached_target"], row["rival_reached_target"]) == (6, 12)
    assert "6 of its 12 runs reach it, and 12 of 12 with λ = 5e-4" in rest
    assert "sooner (" not in rest or "no significant difference in speed" in rest


def test_seconds_only_where_the_hardware_of_all_is_known(tmp_path: Path) -> None:
    made, _, _ = study(
        tmp_path, fixed(5e-4, 70, hardware="A100", seconds=100), schedule(70, seconds=50)
    )
    assert made.summary["seconds_to_target"].isna().all()


def test_no_seconds_where_no_hardware_is_known(tmp_path: Path) -> None:
    made, _, _ = study(tmp_path, fixed(5e-4, 70, seconds=100), schedule(70, seconds=50))
    assert made.summary["seconds_to_target"].isna().all()


def test_no_speed_from_three_seeds_with_a_zero_interval(tmp_path: Path) -> None:
    def jump(at: int) -> Figures:
        return lambda row, seed: {"test_accuracy": 10.0 if row["epoch"] < at else 70 + seed / 100}

    seeds = range(3)
    _, _, rest = study(
        tmp_path,
        fixed(5e-4, 70, seeds=seeds, figures=jump(4)),
        schedule(70, seeds=seeds, figures=jump(3)),
    )
    assert "1.0 epoch sooner than λ = 5e-4 (1.0 to 1.0); too few seeds to tell" in rest


# ---------------------------------------------------------------- files and calls


@pytest.mark.parametrize("values", [(4090, "A100"), (16, "bf16")])
def test_kinds_of_values_may_be_mixed(tmp_path: Path, values: tuple[object, object]) -> None:
    for name in ("hardware", "precision"):
        made, *_ = study(
            tmp_path, fixed(5e-4, 70, **{name: values[0]}), schedule(72, **{name: values[1]})
        )
        folder = tmp_path / name
        folder.mkdir()
        page.write(folder / "index.html", "mine", made, page.Reproduction(), [], [])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("test_images", "10k"),
        ("classes", 0.5),
        ("classes", 1),
        ("batchnorm", "group"),
        ("alpha", "inf"),
    ],
)
def test_facts_that_are_none(tmp_path: Path, option: str, value: object) -> None:
    with pytest.raises(UserError, match=option):
        study(tmp_path, fixed(5e-4, 70, **{option: value}), schedule(72))


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 6.5},
        {"seed": "x"},
        {"seed": True},
        {"fixed_lambda": -1},
        {"fixed_lambda": math.nan},
        {"fixed_lambda": "5e-4"},
        {"alpha": "five"},
        {"batchnorm": "sometimes"},
        {"arm": "mine"},
        {"method": ""},
    ],
)
def test_what_the_report_could_not_read_is_refused_at_the_call(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        autol2.record("mine", outputs=tmp_path, **{"method": "mine", "seed": 0, **options})
    assert not (tmp_path / "mine" / "runs.csv").exists()


def test_no_accuracy_is_refused_at_the_call(tmp_path: Path) -> None:
    with autol2.record("mine", method="mine", seed=0, outputs=tmp_path) as run:
        with pytest.raises(UserError, match="diverged"):
            run.epoch(1, test_accuracy=math.nan)
        run.end("diverged")


@pytest.mark.parametrize(
    ("word", "name"), [("off", "without"), ("False", "without"), ("on", "with")]
)
def test_batch_norm_may_be_a_word(tmp_path: Path, word: str, name: str) -> None:
    _, said, _ = study(tmp_path, fixed(5e-4, 70, batchnorm=word), schedule(72, batchnorm=word))
    assert said.startswith(f"Yes: Auto L2 {name} batch-norm beats")


def test_too_few_seeds_is_said_of_collapsed_runs_too(tmp_path: Path) -> None:
    def guessing(row: Mapping[str, float], seed: int) -> Mapping[str, float]:
        return {"test_accuracy": 10.0} if seed == 0 else {}

    _, _, rest = study(
        tmp_path,
        fixed(5e-4, 70, classes=10, seeds=range(2)),
        schedule(72, classes=10, seeds=range(2), figures=guessing),
    )
    assert "1 of 2 runs collapsed to chance level" in rest
    assert "too few seeds to tell" in rest


def test_nothing_is_made_up_of_a_divergence(tmp_path: Path) -> None:
    made, *_ = study(tmp_path, fixed(5e-4, 70), schedule(72, ended={0: "diverged"}))
    (trouble,) = page._troubles(made.runs)
    assert trouble["what"] == "diverged"


# ---------------------------------------------------------------- what is drawn


def drawn(folder: Path, *arms: Mapping[str, Any]) -> dict[str, Any]:
    made = tables(read := recorded.read(written(folder, *arms)))
    histories = {record.run_id: history for record, history in read}
    every = figures.all_figures(made, histories, 1, pd.DataFrame(), folder, lambda name: None)
    return {one.name: one for one in every}


def test_schedules_are_drawn_without_a_column_of_lambda(tmp_path: Path) -> None:
    made = drawn(tmp_path, fixed(5e-4, 70), schedule(72))
    assert "Auto L2" in made["method"].alt
    assert "λ = 5e-4" in made["method"].alt
    assert "CNN" not in made["method"].alt


def test_a_figure_of_the_best_arms_has_a_fixed_lambda(tmp_path: Path) -> None:
    others = [arm("mine", None, 72 + one, range(2), **{"method.size": one}) for one in range(12)]
    made = drawn(tmp_path, fixed(5e-4, 70, seeds=range(2)), *others)
    assert "λ = 5e-4" in made["method"].alt
    assert "the best 10" in made["method"].alt


def test_the_forest_plot_marks_what_lies_beyond_it(tmp_path: Path) -> None:
    made = drawn(tmp_path, fixed(5e-4, 70), schedule(69.8, ended={0: "diverged"}))
    assert "◀" in (tmp_path / "differences.svg").read_text(encoding="utf-8")
    assert "beyond 10 points" in made["differences"].caption


def test_a_law_that_does_not_hold_has_no_line(tmp_path: Path) -> None:
    def peak(at: int) -> Figures:
        return lambda row, seed: {"test_accuracy": 70 - abs(row["epoch"] - at) + seed / 100}

    arms = [
        fixed(value, 70, figures=peak(at), steps_per_epoch=10)
        for value, at in ((1e-3, 5), (1e-2, 4), (1e-1, 5))
    ]
    assert "does not hold here" in drawn(tmp_path, *arms)["best_step"].alt


def test_the_margin_is_shaded(tmp_path: Path) -> None:
    read = recorded.read(written(tmp_path, fixed(5e-4, 70), schedule(70.1)))
    made = tables(read, Question(margin=1.0))
    (one, *_) = forest.differences(made, {"Auto L2": "#0072b2"}, tmp_path)
    assert "within ±1 points, which counts as equivalent" in one.caption


def test_the_law_is_told_in_words(tmp_path: Path) -> None:
    def peak(at: int) -> Figures:
        return lambda row, seed: {"test_accuracy": 70 - abs(row["epoch"] - at) + seed / 100}

    def told(*peaks: int) -> str:
        values = (1e-3, 2e-3, 4e-3)
        arms = [
            fixed(value, 70, figures=peak(at), steps_per_epoch=10, epochs=20)
            for value, at in zip(values, peaks, strict=True)
        ]
        (said,) = laws(tables(recorded.read(written(tmp_path, *arms))).fits)
        return said

    assert "are compatible with t* = 0.16/λ" in told(16, 8, 4)
    assert "do not follow t* = c/λ" in told(8, 9, 8)


# ---------------------------------------------------------------- further traps


def test_an_irregular_arm_does_not_hide_different_lengths(tmp_path: Path) -> None:
    odd = schedule(72, epochs=49, seeds=[7])
    _, said, rest = study(
        tmp_path, fixed(5e-4, 70, epochs=5), schedule(72, epochs=50, seeds=range(7)), odd
    )
    assert not said.startswith("Yes")
    assert "epochs = 50 here and 5 there" in said + rest
    other = [
        {**arm("other", None, 71), "seeds": [seed], "epochs": 50 - seed % 2} for seed in (0, 1)
    ]
    _, said, rest = study(tmp_path, fixed(5e-4, 70, epochs=5), schedule(72, epochs=50), *other)
    assert not said.startswith("Yes")
    assert "epochs = 50 here and 5 there" in said + rest


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ({"a": (8, 10), "b": (9, 12)}, {"a": 12, "b": 12}),
        ({"a": (5, 5), "b": (4, 60), "c": (50, 50)}, {"a": 5, "b": 50, "c": 50}),
        ({"a": (1, 2), "b": (3, 4), "c": (4, 6)}, {"a": 2, "b": 6, "c": 6}),
        ({"a": (10, 10), "b": (3, 10)}, {"a": 10, "b": 10}),
    ],
)
def test_the_length_that_arms_count_as_having(
    ranges: dict[str, tuple[float, float]], expected: dict[str, float]
) -> None:
    assert recorded._common_lengths(ranges) == expected


def test_a_claim_says_what_chose_each_rival(tmp_path: Path) -> None:
    chooses = validated(lambda row: 140 - row["test_accuracy"])
    _, said, _ = study(
        tmp_path,
        *(
            fixed(value, level, figures=chooses, model="a")
            for value, level in ((1e-4, 70), (5e-4, 80))
        ),
        schedule(75, figures=chooses, model="a"),
        *(fixed(value, level, model="b") for value, level in ((1e-4, 70), (5e-4, 71))),
        schedule(75, model="b"),
    )
    assert "model=b beats each of the 2 fixed λs tried" in said
    assert "model=a beats the fixed λ that validation accuracy chose" in said


@pytest.mark.parametrize("levels", [(70, 74), (74, 70)])
def test_of_equal_validation_the_stronger_is_chosen(
    tmp_path: Path, levels: tuple[float, float]
) -> None:
    ties = validated(lambda row: 60.0)
    rivals = [fixed(v, one, figures=ties) for v, one in zip((1e-4, 5e-4), levels, strict=True)]
    _, said, _ = study(tmp_path, *rivals, schedule(72, figures=ties))
    assert not said.startswith("Yes")


def test_batches_of_another_size_are_no_other_data(tmp_path: Path) -> None:
    small = {"batch": 128, "steps_per_epoch": 391}
    made, said, _ = study(
        tmp_path,
        fixed(5e-4, 70, **small),
        schedule(72, **small),
        fixed(5e-4, 85, batch=256, steps_per_epoch=196),
    )
    assert said.startswith("Not in general")
    assert "on data" not in said
    assert made.runs["data"].isna().all()


def test_who_stops_early_without_the_target_is_not_fast(tmp_path: Path) -> None:
    slow = schedule(60, epochs=3, seeds=range(1, 8))
    _, _, rest = study(tmp_path, fixed(5e-4, 70), schedule(69.7, seeds=[0]), slow)
    assert "sooner" not in rest


def test_the_target_on_seeds_that_the_rival_has_not(tmp_path: Path) -> None:
    more = schedule(80, seeds=(8, 9))
    _, _, rest = study(tmp_path, fixed(5e-4, 70), schedule(70), more, target=75)
    assert "nan" not in rest
    assert "Neither Auto L2 nor λ = 5e-4 reaches 75 % on these seeds" in rest


def test_the_area_is_that_of_the_same_evaluations(tmp_path: Path) -> None:
    def every_fifth(row: Mapping[str, float], seed: int) -> Mapping[str, float]:
        return {} if row["epoch"] % 5 == 0 else {"test_accuracy": math.nan}

    folder = written(tmp_path, fixed(5e-4, 70), schedule(70, figures=every_fifth))
    epochs = pd.read_csv(folder / "epochs.csv").dropna()
    epochs.to_csv(folder / "epochs.csv", index=False)
    made = tables(recorded.read(folder))
    said = " ".join(verdict(made.summary))
    assert "on average over training" not in said
    assert "later" not in said


def test_the_area_of_survivors_is_none(tmp_path: Path) -> None:
    diverged = dict.fromkeys(range(6), "diverged")
    some = {"seeds": range(12), "classes": 10}
    _, _, rest = study(tmp_path, fixed(5e-4, 70, **some), schedule(74, ended=diverged, **some))
    assert "on average over training" not in rest
    _, _, rest = study(tmp_path, fixed(5e-4, 70, seeds=range(3)), schedule(72, seeds=range(3)))
    assert "on average over training" not in rest  # too few seeds for the test


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_a_stronger_rival_on_few_seeds_hides_no_certain_loss(
    tmp_path: Path, seeds: list[int]
) -> None:
    arms = fixed(1e-4, 80, seeds=range(12)), fixed(5e-4, 82, seeds=seeds)
    made, said, rest = study(tmp_path, *arms, schedule(70, seeds=range(12)))
    assert said == "No schedule is shown to beat the fixed λs."
    assert "against λ = 1e-4, one of 2 fixed λs (λ = 5e-4 is stronger, on too few seeds" in rest
    assert ": worse." in rest
    assert of(made, "Auto L2")["stronger_rival"] == "fixed λ 0.0005"


def test_divergence_is_told_where_nothing_is_compared(tmp_path: Path) -> None:
    most = dict.fromkeys(range(7), "diverged")
    _, said, rest = study(tmp_path, fixed(1e-4, 70), fixed(5e-4, 80, ended=most))
    assert said.startswith("Only fixed λ so far")
    assert "Diverged: λ = 5e-4 on 7 of 8 seeds" in rest
    _, said, rest = study(tmp_path, schedule(70, ended={0: "diverged"}))
    assert "Diverged: Auto L2 on 1 of 8 seeds" in rest
    running = {0: "diverged", **dict.fromkeys(range(1, 8), "running")}
    _, said, _ = study(tmp_path, fixed(1e-4, 70, ended=running))
    assert said == "Only fixed λ so far, and each so far diverged."


@pytest.mark.parametrize("status", ["interrupted", "running"])
def test_runs_that_have_not_ended_are_told_and_no_claim_is_made(
    tmp_path: Path, status: str
) -> None:
    ended = dict.fromkeys(range(5), status)
    twelve = range(12)
    _, said, rest = study(
        tmp_path, fixed(5e-4, 70, seeds=twelve), schedule(72, seeds=twelve, ended=ended)
    )
    assert not said.startswith("Yes")
    assert "5 of 12 runs have not ended" in rest
    assert "before all of its runs have ended" in rest


@pytest.mark.parametrize("status", ["failed", "running", "diverged"])
def test_what_is_left_of_an_arm_is_not_equivalent(tmp_path: Path, status: str) -> None:
    ended, twelve = dict.fromkeys(range(6), status), range(12)
    _, said, rest = study(
        tmp_path, fixed(5e-4, 70, seeds=twelve), schedule(70, seeds=twelve, ended=ended), margin=0.5
    )
    assert "equivalent" not in said + rest


def test_a_runs_name_is_no_folder(tmp_path: Path) -> None:
    written(tmp_path, fixed(5e-4, 70), schedule(72))
    runs = pd.read_csv(tmp_path / "runs.csv")
    runs["run"] = runs["run"].str.replace("-", "/")
    runs.to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(UserError, match="cannot have a slash in its name"):
        recorded.read(tmp_path)
    with pytest.raises(UserError, match="leave out the slashes"):
        autol2.record("s", method="fixed", fixed_lambda=0, seed=0, outputs=tmp_path, run="a/b")


def test_resuming_from_an_earlier_checkpoint(tmp_path: Path) -> None:
    told: dict[str, Any] = {"method": "auto_l2", "seed": 0, "outputs": tmp_path}
    with autol2.record("s", **told) as run:
        for epoch in range(1, 8):
            run.epoch(epoch, test_accuracy=90)
    with autol2.record("s", **told, resume=True) as run:
        for epoch in (5, 6):
            run.epoch(epoch, test_accuracy=40)
    epochs = pd.read_csv(tmp_path / "s" / "epochs.csv")
    assert epochs["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert epochs["test_accuracy"].tolist() == [90.0] * 4 + [40.0] * 2


@pytest.mark.parametrize(("column", "file"), [("lr/wd", "lr_wd"), ("a\\q", "a_q")])
def test_names_and_columns_that_are_odd(tmp_path: Path, column: str, file: str) -> None:
    """A further accuracy, words after λ, slashes, dollars, underscores, text for a number."""
    odd = "cosine λ 0.1-0.01"
    folder = written(
        tmp_path,
        *(fixed(5e-4, 70, **{column: one}) for one in (1, 2)),
        *(arm(name, None, 71, **{column: 1}) for name in (odd, "$x^$", "_mine")),
        arm("late", None, 71, ended={0: "running"}, **{column: 1}),
    )
    runs = pd.read_csv(folder / "runs.csv").assign(epochs="10 max")
    runs.to_csv(folder / "runs.csv", index=False)
    epochs = pd.read_csv(folder / "epochs.csv")
    epochs.assign(top5_accuracy=90).to_csv(folder / "epochs.csv", index=False)
    text = report(folder, Console(quiet=True))[0].read_text()
    assert "cosine λ = 0.1-0.01" in text
    assert all(name in text for name in ("$x^$", "_mine"))
    assert (folder / "report" / f"{file}.png").exists()


def test_lambda_is_drawn_in_epochs_of_its_own_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drops(row: Mapping[str, float], seed: int) -> Mapping[str, float]:
        return {"lambda": 0.1 if row["epoch"] < 5 else 0.01}

    folder = written(
        tmp_path,
        schedule(70, figures=drops, batch=128, steps_per_epoch=400),
        schedule(71, figures=drops, batch=256, steps_per_epoch=200),
        fixed(5e-4, 70, batch=128, steps_per_epoch=400),
        fixed(5e-4, 70, batch=256, steps_per_epoch=200),
    )
    seen: list[list[float]] = []
    step = Axes.step

    def watched(self: Axes, x: Any, *args: Any, **more: Any) -> Any:
        seen.append([float(one) for one in x])
        return step(self, x, *args, **more)

    monkeypatch.setattr(Axes, "step", watched)
    report(folder, Console(quiet=True))
    drawn = [one for one in seen if len(one) == 3]
    assert drawn
    assert {one[1] for one in drawn} == {5.0}
    assert {one[-1] for one in seen} == {10.0}


def test_no_step_is_made_up_for_a_divergence(tmp_path: Path) -> None:
    made, _, _ = study(tmp_path, fixed(1e-4, 70, ended={0: "diverged"}, steps_per_epoch=10))
    assert made.runs["diverged_step"].isna().all()


@pytest.mark.parametrize(("how", "law"), [("cosine", False), ("constant", True)])
def test_no_law_where_a_schedule_has_a_name_alone(tmp_path: Path, how: str, law: bool) -> None:
    def peaked(at: float) -> Figures:
        return lambda row, seed: {"test_accuracy": 70 - abs(row["epoch"] - at)}

    made, _, _ = study(
        tmp_path,
        *(
            fixed(value, 70, figures=peaked(at), steps_per_epoch=10, lr_schedule=how)
            for value, at in ((1e-3, 8), (2e-3, 4), (4e-3, 2))
        ),
    )
    assert bool(laws(made.fits)) == law
