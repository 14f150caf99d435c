"""The speed of training: when a target is reached, and the law t* = c/λ."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autol2.report import speed
from autol2.report.runs import Curves
from autol2.report.verdict import verdict
from autol2.sweeps.study import Record

from .studies import arm, fixed, made


def curve(reach: float, level: float, epochs: int = 12) -> Curves:
    """Rising to `level` in a straight line until epoch `reach`, and flat after it."""
    done = [float(one) for one in range(1, epochs + 1)]
    return Curves({"epoch": done, "test_accuracy": [level * min(1, one / reach) for one in done]})


def timed(runs: list[Record], reach: list[float], level: float = 72.0) -> dict[str, Curves]:
    for run in runs:
        run.state["steps_per_epoch"] = 100
        run.state["attempts"] = [{"seconds": 24.0, "hardware": "one CPU", "threads": 1}]
    return {run.run_id: curve(one, level) for run, one in zip(runs, reach, strict=True)}


def test_epochs_steps_and_seconds_to_the_target() -> None:
    """The default target lies half a point below the fixed λ's level, 71.5 %."""
    theirs, ours = fixed(5e-4, [72.0] * 6), arm("auto_l2", [72.0] * 6)
    curves = timed(theirs, [5.0] * 6) | timed(ours, [6, 6, 7, 6, 7, 6])
    found = made(theirs, ours, curves=curves).summary.set_index("arm")
    row, rival = found.loc["Auto L2"], found.loc["fixed λ 0.0005"]
    assert row["target"] == 71.5
    assert rival["epochs_to_target"] == 5
    assert row["epochs_to_target"] == pytest.approx(38 / 6)
    assert row["steps_to_target"] == pytest.approx(3800 / 6)
    assert row["seconds_to_target"] == pytest.approx(2 * 38 / 6)
    assert row["reached_target"] == row["rival_reached_target"] == 6
    assert row["epochs_to_target_difference"] == pytest.approx(8 / 6)
    assert row["epochs_to_target_difference_low"] > 0
    for unit, size in (("steps", 100), ("seconds", 2)):  # of an epoch
        for end in ("", "_low", "_high"):
            in_epochs = row[f"epochs_to_target_difference{end}"]
            assert row[f"{unit}_to_target_difference{end}"] == pytest.approx(size * in_epochs)
    words = verdict(found.reset_index())
    assert (
        "Auto L2 with batch-norm reaches 71.5 % 1.3 epochs later than λ = 5e-4 (0.8 to 1.9); its "
        "test accuracy is 4.23 points lower on average over training (2.50 to 5.96); no "
        "significant difference in the end." in words
    )


def test_a_target_that_is_not_reached_is_censored() -> None:
    theirs, ours = fixed(5e-4, [72.0] * 4), arm("auto_l2", [72.0] * 4)
    curves = timed(theirs, [5.0] * 4) | timed(ours, [5.0] * 2 + [30.0] * 2)
    found = made(theirs, ours, curves=curves, target=60.0).summary
    row = found.set_index("arm").loc["Auto L2"]
    assert row["target"] == 60
    assert row["reached_target"] == 2
    assert row["epochs_to_target"] == (5 + 5 + 12 + 12) / 4
    assert "2 of its 4 runs reach it, and 4 of 4 with λ = 5e-4" in " ".join(verdict(found))
    never = made(theirs, ours, curves=curves, target=99.0).summary.set_index("arm")
    assert never["epochs_to_target"].isna().all()
    assert never["epochs_to_target_difference"].isna().all()


def test_how_censored_runs_count_is_said_once() -> None:
    theirs, one, other = (
        fixed(5e-4, [72.0] * 4),
        arm("auto_l2", [72.0] * 4),
        arm("advance", [72.0] * 4),
    )
    curves = timed(theirs, [5.0] * 4) | timed(one, [5.0, 30.0] * 2) | timed(other, [30.0, 5.0] * 2)
    said = " ".join(verdict(made(theirs, one, other, curves=curves, target=60.0).summary))
    assert said.count("2 of its 4 runs reach it") == 2
    assert said.count("is counted as reaching it at the end") == 1


def test_who_never_reaches_the_target_is_not_said_to_reach_it() -> None:
    theirs, ours = fixed(5e-4, [72.0] * 3), arm("auto_l2", [72.0] * 3)
    curves = timed(theirs, [5.0, 5.0, 60.0]) | timed(ours, [60.0] * 3)
    said = verdict(made(theirs, ours, curves=curves, target=60.0).summary)
    assert "Auto L2 with batch-norm never reaches 60 %, and λ = 5e-4 does on 2 of 3 seeds." in said
    none = verdict(made(theirs, ours, curves=curves, target=99.0).summary)
    assert "Neither Auto L2 with batch-norm nor λ = 5e-4 reaches 99 %." in none
    untold = verdict(made(theirs, ours).summary)
    assert not any("reach" in sentence for sentence in untold)


def test_seconds_only_where_the_hardware_is_equal() -> None:
    theirs, ours = fixed(5e-4, [72.0] * 3), arm("auto_l2", [72.0] * 3)
    curves = timed(theirs, [5.0] * 3) | timed(ours, [5.0] * 3)
    ours[0].state["attempts"][0]["hardware"] = "a GPU"
    found = made(theirs, ours, curves=curves).summary
    assert found["seconds_to_target"].isna().all()
    assert found["seconds_to_target_difference"].isna().all()
    assert found["steps_to_target_difference"].notna().sum() == 1


def test_the_area_under_the_curve() -> None:
    """From 36 to 72 % in one epoch and flat for two: (54 + 72 + 72)/3."""
    history = Curves({"epoch": [1.0, 2.0, 3.0, 4.0], "test_accuracy": [36.0, 72.0, 72.0, 72.0]})
    found = speed.of_run(history, 100, 0.0)
    assert found["area_under_curve"] == 66
    assert (found["epochs_to_best"], found["steps_to_best"]) == (2, 200)
    assert speed.of_run(Curves(), None, 0.0)["area_under_curve"] is None


def test_steps_to_the_best_accuracy_against_lambda() -> None:
    """t* = 0.5/λ, in steps of 100 an epoch: 50, 5 and 0.5 … epochs; the largest never peaks."""
    curves: dict[str, Curves] = {}
    arms = []
    for value, peak in ((1e-3, 5.0), (5e-4, 10.0), (2.5e-4, 20.0), (1e-5, 40.0)):
        runs = fixed(value, [70.0] * 3)
        epochs = [float(one) for one in range(1, 41)]
        accuracies = [70 - abs(one - peak) for one in epochs]
        for run in runs:
            run.state["steps_per_epoch"] = 100
            curves[run.run_id] = Curves({"epoch": epochs, "test_accuracy": accuracies})
        arms.append(runs)
    (fit,) = made(*arms, curves=curves).fits.to_dict("records")
    assert fit["constant"] == pytest.approx(0.5)
    assert fit["slope"] == pytest.approx(-1)
    assert (fit["lambdas"], fit["runs"], fit["censored"]) == (3, 9, 3)


def test_no_fit_where_the_learning_rate_moves() -> None:
    arms = [fixed(value, [70.0], lr_schedule__name="step") for value in (1e-3, 5e-4)]
    curves = timed([run for one in arms for run in one], [5.0, 6.0])
    assert made(*arms, curves=curves).fits.empty
    arms = [fixed(value, [70.0], lr_schedule__warmup=0.1) for value in (1e-3, 5e-4)]
    curves = timed([run for one in arms for run in one], [5.0, 6.0])
    assert made(*arms, curves=curves).fits.empty
    arms = [fixed(value, [70.0]) for value in (1e-3, 5e-4)]
    curves = timed([run for one in arms for run in one], [5.0, 6.0])
    assert not made(*arms, curves=curves).fits.empty


def test_no_fit_of_a_single_lambda() -> None:
    assert made(fixed(5e-4, [70.0] * 3)).fits.empty


def test_highs_within_an_epoch_count() -> None:
    """With evaluation.every_steps the target may be reached in the middle of an epoch."""
    theirs = fixed(5e-4, [72.0] * 3)
    curves = timed(theirs, [5.0] * 3)
    for history in curves.values():
        history.highs = [(0.5, 30.0), (2.5, 71.6)]
    row = made(theirs, curves=curves).summary.iloc[0]
    assert row["epochs_to_target"] == 2.5
    assert not math.isnan(np.float64(row["steps_to_target"]))


def test_the_default_target_is_free_of_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation of exactly 60.2 % reaches a target of 60.2 %."""
    monkeypatch.setattr(speed, "no_yardstick", lambda scores: False)
    for tenths in range(100, 1000):
        goal = tenths / 10
        scores: Any = SimpleNamespace(by_seed=dict.fromkeys(range(3), goal + 0.5))
        assert speed.target(None, scores) <= goal
