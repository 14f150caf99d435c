"""Studies of somebody's own loop in which a claim, or its denial, would be wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import autol2
from autol2.errors import UserError
from autol2.report import figures, forest, page, recorded
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
    assert "not compared, for want of a common seed: λ = 1e-3" in rest


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
    assert "No fixed λ is a yardstick (λ = 8 never rose above chance level): Auto L2." in rest
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
    with pytest.raises(UserError, match="method is fixed, and it has no fixed_lambda"):
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
        page.write(folder / "index.html", "mine", made, page.Beside(), [], [])


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
    (one, *_) = forest.differences(made, {}, {"Auto L2": "#0072b2"}, tmp_path)
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
