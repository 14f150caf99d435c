"""A component of one's own of each kind: one module and one YAML file.

They lie in tests/extending, outside of the package, as README's section "Extending" shows them.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest

from .conftest import PROJECT, SMALL, forkserver

OWN = PROJECT / "tests" / "extending"
TRAIN = (*(word for word in SMALL if not word.startswith(("model.", "data="))), "epochs=2")


def run_own(
    outputs: Path, *words: str, module: str = "autol2.train"
) -> subprocess.CompletedProcess[str]:
    """As a user does in the folder where the modules lie."""
    arguments = [*words, f"outputs={outputs}"]
    return forkserver().run(module, arguments, OWN, {**os.environ, "COLUMNS": "200"}, 300)


def only_run(outputs: Path) -> Path:
    (found,) = outputs.glob("*/*/run.json")
    return found.parent


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_of_ones_own(tmp_path: Path) -> None:
    words = ("method=warmup", "model=linear", "data=stripes", "logger=lines")
    options = ("method.steps=6", "method.final_lambda=0.03", "--config-dir", "conf")
    done = run_own(tmp_path, *TRAIN, *words, *options)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stdout
    folder = only_run(tmp_path)
    assert folder.name.startswith("warmup-linear-s0-")  # no word about batch-norm
    state = json.loads((folder / "run.json").read_text())
    assert state["status"] == "completed"
    assert state["identity"]["method"] == {
        "name": "warmup.Warmup",
        "measure_every": 5,
        "final_lambda": 0.03,
        "steps": 6,
    }
    assert state["result"]["final_test_accuracy"] > 90
    steps = -(-256 // 64)
    assert state["steps_per_epoch"] == steps
    epochs = rows(folder / "epochs.csv")
    assert [float(row["lambda"]) for row in epochs] == pytest.approx([0.03 * 5 / 6, 0.03])
    shown = (folder / "figures.txt").read_text().splitlines()
    assert shown[-1] == "completed"
    assert f"{2 * steps} epochs/lambda 0.03" in shown
    again = run_own(tmp_path, *TRAIN, *words, *options)
    assert "already completed" in again.stdout


def test_a_sweep_and_a_report_of_ones_own(tmp_path: Path) -> None:
    """In processes of their own; the report calls the method what it calls itself."""
    words = ("-m", "--config-dir", "conf", "method=warmup,fixed", "model=linear", "seed=0,1")
    done = run_own(tmp_path, *TRAIN, *words, "data=stripes", "study=own")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("own/*/run.json"))) == 4
    reported = run_own(tmp_path, "study=own", module="autol2.report")
    assert reported.returncode == 0, reported.stderr
    assert "Traceback" not in reported.stderr
    page = (tmp_path / "own" / "report" / "index.html").read_text()
    assert "warm" in page


def test_an_option_without_effect_makes_no_runs(tmp_path: Path) -> None:
    words = ("-m", "--config-dir", "conf", "data=stripes", "data.workers=1,2")
    done = run_own(tmp_path, *words, "hydra.launcher.dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "data.workers is not part of a run's identity" in done.stdout
    assert "1 run to do" in done.stdout


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "nowhere.Warmup",
            "method: _target_=nowhere.Warmup: there is no module nowhere; start the",
        ),
        ("warmup.Nothing", "method: _target_=warmup.Nothing: warmup has no class Nothing"),
        (
            "linear.Linear",
            "method: _target_=linear.Linear is not a dataclass derived from autol2.rules",
        ),
        (
            "Warmup",
            "method: _target_=Warmup does not name a class: write _target_: ",
        ),
    ],
)
def test_a_target_that_is_none(tmp_path: Path, target: str, message: str) -> None:
    done = run_own(tmp_path, "--config-dir", "conf", "method=warmup", f"method._target_={target}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def (:\n", "importing mine raised SyntaxError: invalid syntax"),
        ("raise RuntimeError('boom')\n", "importing mine raised RuntimeError: boom ("),
        ("import sys; sys.exit(3)\n", "importing mine raised SystemExit: 3"),
        ("import nowhere_else\n", "importing mine raised ModuleNotFoundError: No module named"),
    ],
)
def test_a_module_that_cannot_be_imported(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(source)
    words = ["method=fixed", "method._target_=mine.Mine", f"outputs={tmp_path / 'outputs'}"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = forkserver().run("autol2.train", [*TRAIN, *words], tmp_path, environment, 300)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


def test_a_method_of_ones_own_that_looks_at_measurements(tmp_path: Path) -> None:
    words = ("--config-dir", "conf", "method=plateau", "method.patience=1")
    done = run_own(tmp_path, *TRAIN, *words, "data=stripes", "model.width=2", "lr=0.5")
    assert done.returncode == 0, done.stderr
    trace = only_run(tmp_path) / "measurements.csv"
    lambdas = [float(row["lambda"]) for row in rows(trace)]
    assert len(lambdas) == 2 * 4
    assert len(set(lambdas)) > 1
    environment = {**os.environ, "COLUMNS": "200"}
    replayed = forkserver().run("autol2.replay", [*words, f"trace={trace}"], OWN, environment, 300)
    assert replayed.returncode == 0, replayed.stderr
    assert "agrees with the recorded lambda: 8/8" in replayed.stdout
    schedule = ["--config-dir", "conf", "method=warmup", f"trace={trace}"]
    refused = forkserver().run("autol2.replay", schedule, OWN, environment, 300)
    assert refused.returncode == 2
    assert "method=warmup does not use measurements" in refused.stderr


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    words = ("optimizer=rmsprop", "lr_schedule=halving", "augmentation=brightness", "lr=1e-3")
    words = (*words, "--config-dir", "conf", "data=stripes", "method=fixed", "fixed_lambda=0.01")
    done = run_own(tmp_path, *TRAIN, *words, "model.width=2", "lr_schedule.every=2")
    assert done.returncode == 0, done.stderr
    folder = only_run(tmp_path)
    assert folder.name.startswith("fixed-0.01-rmsprop-brightness-halving")
    assert [float(row["lr"]) for row in rows(folder / "epochs.csv")] == [5e-4, 1.25e-4]


@pytest.mark.parametrize("optimizer", ["RMSprop", "Ungrouped"])
def test_lambda_acts_with_an_optimizer_of_ones_own(tmp_path: Path, optimizer: str) -> None:
    words = ("optimizer=rmsprop", "--config-dir", "conf", "data=stripes", "method=fixed", "lr=1e-3")
    words = (*words, f"optimizer._target_=rmsprop.{optimizer}", "model.width=2")
    norms = []
    for value in ("0", "10"):
        done = run_own(tmp_path / value, *TRAIN, *words, f"fixed_lambda={value}")
        assert done.returncode == 0, done.stderr
        norms.append(float(rows(only_run(tmp_path / value) / "epochs.csv")[-1]["weight_norm"]))
    assert norms[1] < 0.99 * norms[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("optimizer._target_=rmsprop.Rprop",), "Rprop has no weight_decay, so λ would not act"),
        (
            ("optimizer._target_=rmsprop.Ungrouped", "control.penalized=weights"),
            "RMSprop was not built from the parameter groups",
        ),
        (
            ("optimizer._target_=rmsprop.Ungrouped", "control.lr_factor=2"),
            "RMSprop was not built from the parameter groups",
        ),
        (("optimizer.momentum=0.9",), "does not list the option optimizer.momentum: add it to"),
        (("optimizer.momentums=0.9",), "optimizer=rmsprop has no option 'momentums'"),
    ],
)
def test_an_optimizer_that_cannot_be_used(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    own = ("optimizer=rmsprop", "--config-dir", "conf", "data=stripes", "method=fixed")
    done = run_own(tmp_path, *TRAIN, *own, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_explains_options_of_ones_own(tmp_path: Path) -> None:
    done = run_own(tmp_path, "--config-dir", "conf", "method=warmup", "--help")
    assert done.returncode == 0, done.stderr
    assert "λ after the warm-up." in done.stdout
    assert "_target_" not in done.stdout
