"""A method, a network, a data set and a tracker of one's own: one module and one YAML file each.

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


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere.Warmup", "method: _target_=nowhere.Warmup cannot be imported: No module named"),
        ("warmup.Nothing", "method: _target_=warmup.Nothing cannot be imported"),
        (
            "linear.Linear",
            "method: _target_=linear.Linear is no dataclass derived from autol2.rules",
        ),
        ("Warmup", "method: _target_=Warmup cannot be imported"),
    ],
)
def test_a_target_that_is_none(tmp_path: Path, target: str, message: str) -> None:
    done = run_own(tmp_path, "--config-dir", "conf", "method=warmup", f"method._target_={target}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_explains_options_of_ones_own(tmp_path: Path) -> None:
    done = run_own(tmp_path, "--config-dir", "conf", "method=warmup", "--help")
    assert done.returncode == 0, done.stderr
    assert "λ after the warm-up." in done.stdout
    assert "_target_" not in done.stdout
