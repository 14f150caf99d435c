"""The forecast of the best λ, on runs whose t* = c/λ is known."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from autol2.forecast import said
from autol2.report.forecast import Peak, best_lambdas, fit, forecasts, peak
from autol2.report.lambda_figures import all_figures, training_lengths
from autol2.runs.state import FIGURES
from autol2.sweeps.study import Record

from .conftest import Command

ONE = Peak("a", "c", "f", 0, 0.2, True, 0.01, 1000, 100, 300, 80.0)


def run(lambda_: float, steps: int = 10_000, *, c: float = 3.0, best: float = 80.0) -> Peak:
    return replace(ONE, lambda_=lambda_, steps=steps, time=round(c / lambda_), best=best)


def test_c_is_found_with_its_uncertainty() -> None:
    exact = fit([run(0.1), run(0.01), run(0.001)])
    assert exact.c == pytest.approx(3.0)
    assert exact.low == pytest.approx(3.0)
    assert exact.slope == pytest.approx(-1.0)
    assert exact.holds
    assert exact.lambda_(6000) == pytest.approx((5e-4, 5e-4, 5e-4))
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        found = fit([run(0.01, c=3 * math.exp(0.3 * rng.normal())) for _ in range(5)])
        inside += found.low <= 3 * math.exp(0.3 * rng.normal()) <= found.high
    assert inside / 400 == pytest.approx(0.95, abs=0.03)


def test_one_run_or_two_tell_no_uncertainty() -> None:
    """Student's t of one degree of freedom would say from 1e-5 to 1e5."""
    found = fit([run(0.01)])
    assert found.c == pytest.approx(3.0)
    assert math.isnan(found.low)
    assert math.isnan(found.slope)
    assert math.isnan(fit([run(0.01), run(0.1, c=2.0)]).low)
    assert fit([run(0.01), run(0.1, c=2.0), run(0.1)]).low < 2
    with pytest.raises(ValueError, match="no run tells c"):
        fit([])


def test_whether_the_law_holds() -> None:
    """It is said where the times do not fall as 1/λ; three λ are the fewest that can tell."""
    rng = np.random.default_rng(0)
    lambdas = [0.1, 0.05, 0.02, 0.01]
    alike = [run(value, c=3 * math.exp(0.1 * rng.normal())) for value in lambdas]
    assert fit(alike).holds
    assert fit(alike).slope_low < -1 < fit(alike).slope_high
    flat = [replace(run(value), time=100 + place) for place, value in enumerate(lambdas)]
    found = fit(flat)
    assert not found.holds
    assert "does not hold here" in said(found, flat)
    assert "does not hold" not in said(fit(alike), alike)
    assert not fit(flat[:2]).holds  # two λ that are at their best at the same time
    assert fit(alike[:2]).holds


def test_runs_that_tell_nothing_are_left_out() -> None:
    assert run(0.01).tells
    assert not replace(run(0.01), steps=500).tells  # at its best late: it may have got better
    assert not replace(run(0.01), constant_lr=False).tells
    assert not replace(ONE, lambda_=0.0).tells
    assert not replace(run(0.01), resolved=False).tells


def test_how_far_off_it_was() -> None:
    """Of 10,000 steps λ = 3e-4 would be best; of what the study tried, 2e-4 was."""
    grid = {1e-4: 85.0, 2e-4: 90.0, 1e-3: 88.0, 1e-2: 80.0, 1e-1: 60.0}
    runs = [run(value, best=best) for value, best in grid.items()]
    runs += [run(0.1, 200)]
    (made,) = forecasts(runs)
    assert made.lambda_ == pytest.approx(3e-4)
    assert made.measured == 2e-4
    assert made.tried == tuple(grid)
    assert not made.at_edge
    assert made.factor == pytest.approx(1.5)
    assert made.epochs == 100
    more = forecasts(runs, [200_000])
    assert [one.steps for one in more] == [10_000, 200_000]
    assert more[1].lambda_ == pytest.approx(1.5e-5)
    assert math.isnan(more[1].measured)
    assert not more[1].at_edge
    (lowest,) = forecasts([one for one in runs if one.lambda_ > 1e-4])
    assert lowest.measured == 2e-4
    assert lowest.at_edge


def test_two_values_of_lambda_measure_no_best_one() -> None:
    assert best_lambdas([run(0.1), run(0.01)]) == {}


def test_other_circumstances_are_forecast_for_themselves() -> None:
    runs = [run(0.1), replace(run(0.1, c=6.0), context="d", lr=0.1)]
    made = forecasts(runs, [100])
    assert [one.lambda_ for one in made] == pytest.approx([0.03, 0.06])


def record(tmp_path: Path, accuracies: list[float], **identity: object) -> Record:
    rows = [f"{place // 2},{place % 2 + 1},{value}" for place, value in enumerate(accuracies)]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "epochs.csv").write_text("\n".join(["epoch,step,test_accuracy", *rows]) + "\n")
    known = {
        "method": {"name": "fixed"},
        "fixed_lambda": {"value": 0.01},
        "lr": 0.2,
        "epochs": 4,
        "seed": 3,
    }
    state = {
        "status": "completed",
        "steps_per_epoch": 2,
        "identity": known | identity,
        "data": {"classes": 10},
        "config": {"lr": 0.2},
        "result": dict.fromkeys(FIGURES, 50.0),
    }
    return Record(folder, state)


def test_the_time_is_that_of_the_first_evaluation_near_the_best(tmp_path: Path) -> None:
    found = peak(record(tmp_path, [10, 50, 79.4, 79.6, 80, 70, 60, 50]), 0.5)
    assert found is not None
    assert (found.time, found.best, found.steps, found.seed) == (4, 80, 8, 3)
    assert found.constant_lr
    assert found.tells


def test_noise_does_not_move_the_time(tmp_path: Path) -> None:
    """Of 150 evaluations of a few hundred images each; the best one by chance comes anywhere."""
    rng = np.random.default_rng(0)
    steps = np.arange(1, 151)
    curve = 60 - 40 * np.abs(np.log(steps / 60))
    found = []
    for place in range(20):
        noisy = curve + rng.normal(0, 5, len(steps))
        (tmp_path / str(place)).mkdir()
        one = peak(record(tmp_path / str(place), noisy.tolist(), epochs=75), 0.5)
        assert one is not None
        assert one.best == pytest.approx(noisy.max())
        found.append(one.time)
    assert np.median(found) == pytest.approx(60, rel=0.05)
    assert max(found) / min(found) < 1.25


@pytest.mark.parametrize(
    "accuracies",
    [[80, 70, 60, 60, 60, 60, 60, 60], [10, 10, 12, 10, 10, 10, 10, 10]],
    ids=["best at first", "guessing"],
)
def test_a_time_that_cannot_be_told(tmp_path: Path, accuracies: list[float]) -> None:
    found = peak(record(tmp_path, accuracies), 0.5)
    assert found is not None
    assert not found.resolved


@pytest.mark.parametrize(
    "identity",
    [
        {"lr_schedule": {"name": "cosine"}},
        {"lr_schedule": {"name": "constant", "warmup": 0.1}},
    ],
)
def test_a_learning_rate_that_moves(tmp_path: Path, identity: dict[str, object]) -> None:
    found = peak(record(tmp_path, [10, 20, 15, 15, 15, 15, 15, 15], **identity), 0.5)
    assert found is not None
    assert not found.constant_lr


def test_methods_that_move_lambda_have_no_peak(tmp_path: Path) -> None:
    assert peak(record(tmp_path, [10], method={"name": "auto_l2"}), 0.5) is None


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("steps_per_epoch", None),
        ("steps_per_epoch", 0),
        ("result", {}),
        ("data", {"classes": "ten"}),
        ("identity.seed", None),
        ("identity.lr", None),
        ("identity.lr", "nan"),
        ("identity.epochs", None),
        ("identity.epochs", "four"),
        ("identity.fixed_lambda", None),
        ("identity.fixed_lambda", {"value": "inf"}),
    ],
)
def test_a_run_json_that_lacks_something_has_no_peak(
    tmp_path: Path, part: str, value: object
) -> None:
    whole = record(tmp_path, [10, 50, 79.4, 79.6, 80, 70, 60, 50])
    assert peak(whole, 0.5) is not None
    *parents, name = part.split(".")
    (whole.state[parents[0]] if parents else whole.state)[name] = value
    assert peak(whole, 0.5) is None


@pytest.mark.parametrize(
    "rows", ["", "0,1,10\n0,x,20\n", "0,2,10\n0,1,20\n", "0,1,10\n0,2,\n", "0,0,10\n0,1,20\n"]
)
def test_an_epochs_csv_that_is_damaged_has_no_peak(tmp_path: Path, rows: str) -> None:
    one = record(tmp_path, [10, 20])
    assert peak(one, 0.5) is not None
    (one.folder / "epochs.csv").write_text(f"epoch,step,test_accuracy\n{rows}")
    assert peak(one, 0.5) is None


# ---------------------------------------------------------------- the command


def study(folder: Path, lambdas: list[float], **options: object) -> None:
    """A study of fixed λs whose accuracy is at its best after 2/λ steps, the highest at 0.01."""
    for value in lambdas:
        place = folder / f"fixed-{value:g}"
        place.mkdir(parents=True)
        steps = np.arange(1, 1001)
        heights = 60 - 30 * np.abs(np.log(steps * value / 2)) - 20 * abs(math.log(value / 0.01))
        known = {
            **{"method": {"name": "fixed"}, "fixed_lambda": {"value": value}},
            **{"lr": 0.2, "epochs": 10, "seed": 0},
        }
        state = {
            **{"status": "completed", "steps_per_epoch": 100, "data": {"classes": 10}},
            **{"identity": known | options, "config": {"lr": 0.2}},
            "result": dict.fromkeys(FIGURES, 50.0),
        }
        (place / "run.json").write_text(json.dumps(state))
        rows = [
            f"{(step - 1) // 100},{(step - 1) % 100 + 1},{max(0.0, height)}"
            for step, height in zip(steps, heights, strict=True)
        ]
        (place / "epochs.csv").write_text("\n".join(["epoch,step,test_accuracy", *rows]) + "\n")


def test_the_command(tmp_path: Path, run_command: Command) -> None:
    study(tmp_path / "outputs" / "grid", [0.002, 0.005, 0.01, 0.02])
    done = run_command("forecast", "study=grid", "epochs=100")
    assert done.returncode == 0, done.stderr
    told, *table = done.stdout.splitlines()
    assert told.startswith("lr 0.2: t* = c/λ with c = 1.89 steps (95 %: 1.8")
    assert (
        "from 3 runs at λ = 0.005 to 0.02; with a free exponent, t* is proportional to λ^-0.99 (-1"
        in told
    )
    text = "\n".join(table)
    assert re.search(r"│ 10 +│ 0.0019 +│.*│ 0.01 \(of 4 tried\) +│ 0.19 ", text)
    assert re.search(r"│ 100 +│ 0.00019 +│ .* to .*│ +│ +│", text)


def test_a_damaged_run_is_left_out(tmp_path: Path, run_command: Command) -> None:
    """Of the forecast, and of the report's figures."""
    study(tmp_path / "outputs" / "grid", [0.002, 0.005, 0.01, 0.02, 0.05])
    path = tmp_path / "outputs" / "grid" / "fixed-0.05" / "run.json"
    state = json.loads(path.read_text())
    del state["steps_per_epoch"]
    path.write_text(json.dumps(state))
    done = run_command("forecast", "study=grid")
    assert done.returncode == 0, done.stderr
    assert "from 3 runs at λ = 0.005 to 0.02;" in done.stdout
    done = run_command("report", "study=grid")
    assert done.returncode == 0, done.stderr
    runs = pd.read_csv(tmp_path / "outputs" / "grid" / "report" / "runs.csv", index_col="run_id")
    assert runs.loc["fixed-0.05", "problem"] == "run.json cannot be used: it has no steps_per_epoch"


@pytest.mark.parametrize(
    ("lambdas", "options", "message"),
    [
        ([0.01], {"method": {"name": "auto_l2"}}, "has no completed run of method=fixed"),
        ([0.01], {"lr_schedule": {"name": "cosine"}}, "add runs with lr_schedule=constant"),
        ([0.003], {}, "add runs at a larger λ"),
    ],
)
def test_a_study_that_tells_nothing(
    tmp_path: Path, run_command: Command, lambdas: list[float], options: Any, message: str
) -> None:
    study(tmp_path / "outputs" / "grid", lambdas, **options)
    done = run_command("forecast", "study=grid")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


# ---------------------------------------------------------------- figures


def test_training_lengths_are_told_apart() -> None:
    """Figure 1a: a grid of λ at one length, and at lengths in proportion to 1/λ."""
    grid = [1e-3, 2e-3, 5e-3, 1e-2]
    runs = [run(value, 1000) for value in grid]
    runs += [run(value, 100 * round(0.02 / value)) for value in grid]
    lengths = training_lengths(runs)
    assert list(lengths) == ["10 epochs", "0.02/λ epochs"]
    assert [len({one.lambda_ for one in some}) for some in lengths.values()] == [4, 4]
    assert training_lengths(runs[:2]) == {}


def test_figures_are_drawn_where_there_are_the_runs(tmp_path: Path) -> None:
    lambdas = [1e-3, 2e-3, 5e-3, 1e-2]
    runs = [run(value, 3000, best=70 + place) for place, value in enumerate(lambdas)]
    (only,) = all_figures(runs, tmp_path)
    assert only.name == "lambda_grid"
    assert "After 30 epochs λ = 0.01 is best, 73.00 %" in only.alt
    slower = [replace(one, lr=0.1, context="d", time=2 * one.time) for one in runs]
    grid, times = all_figures([*runs, *slower], tmp_path)
    assert times.name == "time_to_best"
    assert "t* = 6e-3/(lr·λ) epochs" in times.alt  # c·lr in epochs of 100 steps: 3 · 0.2 / 100
    for drawing in (grid, times):
        assert drawing.png.stat().st_size > 5000
        assert drawing.svg.read_text().rstrip().endswith("</svg>")
    assert all_figures([run(0.01)], tmp_path) == []


def test_only_shorter_runs_foresee() -> None:
    grid = {1e-3: 85.0, 2e-3: 90.0, 1e-2: 88.0}
    runs = [run(value, best=best, c=6.0) for value, best in grid.items()] + [run(0.1, 200, c=3.0)]
    (made,) = forecasts(runs)
    assert made.lambda_ == pytest.approx(3e-4)
    assert [one.steps for one in made.runs] == [200]
    assert made.foreseen
    (own,) = forecasts(runs[:-1])
    assert not own.foreseen
    assert not replace(made, runs=tuple(runs)).foreseen
    (high,) = forecasts([replace(one, best=100 * one.lambda_) for one in runs[:-1]])
    assert high.at_edge


def test_two_lambdas_that_fall_too_steeply() -> None:
    assert not fit([replace(run(0.1), time=10), replace(run(0.01), time=10_000)]).holds
