"""A study of one's own training loop, from Python and from CSV files."""

from __future__ import annotations

import errno
import fcntl
import io
import math
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console

import autol2
from autol2.errors import UserError
from autol2.report.__main__ import report
from autol2.report.recorded import read
from autol2.report.recording import Recording
from autol2.report.tables import tables

from .conftest import PROJECT


def record_study(outputs: Path, seeds: int = 6) -> Path:
    for seed in range(seeds):
        for value, level in ((1e-4, 70.0), (5e-4, 71.0), (None, 73.0)):
            method = "fixed" if value else "my schedule"
            with autol2.record(
                "mine",
                method=method,
                fixed_lambda=value,
                seed=seed,
                lr=0.1,
                batchnorm=True,
                outputs=outputs,
                steps_per_epoch=10,
                classes=10,
            ) as run:
                for epoch in (1, 2, 3):
                    accuracy = level - 9 / epoch + 0.1 * seed
                    run.epoch(epoch, test_accuracy=accuracy, lambda_=value or 0.1 / epoch)
    return outputs / "mine"


def test_a_recorded_study_has_the_same_verdict_figures_and_page(tmp_path: Path) -> None:
    study = record_study(tmp_path)
    path, words = report(study, Console(file=io.StringIO()))
    assert words[0] == "Yes: my schedule with batch-norm beats each of the 2 fixed λs tried."
    assert "my schedule" in path.read_text()
    assert len(list((study / "report").glob("*.png"))) >= 2
    runs = pd.read_csv(study / "report" / "runs.csv")
    assert runs["accuracy"].max() == pytest.approx(70.5)
    epochs = pd.read_csv(study / "report" / "epochs.csv")
    assert len(epochs) == 18 * 3
    assert list(epochs.columns[:7]) == (
        ["run_id", "arm", "method", "batchnorm", "seed", "epoch", "step"]
    )
    assert epochs["step"].max() == 30


RUNS = "run,method,seed,fixed_lambda,status\na,fixed,0,5e-4,completed\nb,auto_l2,0,,diverged\n"
EPOCHS = "run,epoch,test_accuracy\na,1,60.5\na,2,70\nb,1,30\nb,2,nan\n"


def write(study: Path, runs: str = RUNS, epochs: str = EPOCHS) -> Path:
    study.mkdir(parents=True, exist_ok=True)
    (study / "runs.csv").write_text("\ufeff" + runs, encoding="utf-8")
    (study / "epochs.csv").write_text(epochs, encoding="utf-8")
    return study


def test_two_csv_files_make_a_study(tmp_path: Path) -> None:
    made = tables(read(write(tmp_path / "s")))
    runs = made.runs.set_index("run_id")
    assert runs.loc["a", "final_test_accuracy"] == 70
    assert runs.loc["b", "status"] == "diverged"
    assert set(made.summary["arm"]) == {"fixed λ 0.0005", "Auto L2"}


@pytest.mark.parametrize(
    ("runs", "epochs", "words"),
    [
        ("run,seed\na,0\n", EPOCHS, "runs.csv has no column method"),
        (RUNS, "run,epoch\na,1\n", "epochs.csv has no column test_accuracy"),
        (RUNS, EPOCHS.replace("60.5", "x"), "test_accuracy is 'x', not a number"),
        (RUNS.replace("a,fixed,0", "a,fixed,0.5"), EPOCHS, "seed is 0.5, not a whole number"),
        (RUNS.replace("diverged", "lost"), EPOCHS, "status 'lost' is not one of completed"),
        (RUNS.replace("5e-4", "-1"), EPOCHS, "fixed_lambda is -1, not a number of at least 0"),
        (RUNS.replace("b,", "a,"), EPOCHS, "there are two rows for run"),
        (RUNS + "c,fixed,0,5e-4,completed\n", EPOCHS, "runs a and c have the same method"),
        (RUNS, "run,epoch,test_accuracy\na,1,0.7\n", "test_accuracy is in percent"),
    ],
)
def test_files_that_are_not_as_documented(
    tmp_path: Path, runs: str, epochs: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        read(write(tmp_path / "s", runs, epochs))


def test_how_a_run_ends_is_noted(tmp_path: Path) -> None:
    def status() -> str:
        return str(pd.read_csv(tmp_path / "s" / "runs.csv")["status"].iloc[0])

    def begin(resume: bool = False) -> Recording:
        return autol2.record("s", method="auto_l2", seed=0, outputs=tmp_path, resume=resume)

    with pytest.raises(ZeroDivisionError), begin() as run:  # noqa: PT012
        run.epoch(1, test_accuracy=50)
        assert status() == "running"
        raise ZeroDivisionError
    assert status() == "failed"
    with begin(resume=True) as run:
        run.epoch(1, test_accuracy=55, validation_accuracy=54)  # a new column, and once more
        run.epoch(2, test_accuracy=60)
    assert status() == "completed"
    ((_, history),) = read(tmp_path / "s")
    assert history.epochs["test_accuracy"] == [55, 60]
    with begin() as run:
        run.epoch(1, test_accuracy=10)
        run.end("diverged")
    assert status() == "diverged"
    ((_, history),) = read(tmp_path / "s")
    assert history.epochs["test_accuracy"] == [10]
    with begin() as run, pytest.raises(UserError, match="percentage from 0 to 100"):
        run.epoch(1, test_accuracy=101)
    with begin() as run, pytest.raises(UserError, match="does not take tset_loss"):
        run.epoch(1, test_accuracy=10, tset_loss=1)


def test_facts_and_words_are_no_numbers(tmp_path: Path) -> None:
    facts = {"python": "3.10", "torch": "2.10", "host": "007", "commit": "12e4567"}
    facts |= {"hardware": "1e3", "threads": 8, "data": "0010"}
    options = {"augmentation": "None", "model": "1e999", "lr": 0.1, "steps": 2**60 + 1}
    with autol2.record("s", method="null", seed=2**60 + 3, outputs=tmp_path, **facts, **options):
        pass
    ((found, _),) = read(tmp_path / "s")
    (attempt,) = found.state["attempts"]
    assert attempt["versions"] == {"python": "3.10"}
    assert attempt["git"] == {"commit": "12e4567"}
    assert {name: attempt[name] for name in ("torch", "host", "hardware", "threads")} == {
        **{"torch": "2.10", "host": "007", "hardware": "1e3", "threads": 8}
    }
    assert found.state["identity"] == {
        **{"method.name": "null", "seed": 2**60 + 3, "data.name": "0010", "augmentation": "None"},
        **{"model": "1e999", "lr": 0.1, "steps": 2**60 + 1},
    }
    report(tmp_path / "s", Console(file=io.StringIO()))
    table = pd.read_csv(tmp_path / "s" / "report" / "runs.csv", dtype=str).iloc[0]
    assert table[["python", "torch", "host", "commit"]].tolist() == [
        "3.10",
        "2.10",
        "007",
        "12e4567",
    ]


def test_what_is_missing_in_a_column_of_numbers(tmp_path: Path) -> None:
    """As R writes it."""
    runs = "run,method,seed,fixed_lambda,status\nNA,fixed,0,5e-4,completed\nb,NA,0,NA,completed\n"
    epochs = "run,epoch,test_accuracy,lambda\nNA,1,60,NA\nNA,2,70,NA\nb,1,30,0.1\n"
    (one, history), (other, _) = read(write(tmp_path / "s", runs, epochs))
    assert (one.run_id, other.run_id) == ("NA", "b")
    assert history.epochs["test_accuracy"] == [60, 70]
    assert [run.state["method"] for run in (one, other)] == [
        {"label": "fixed λ", "baseline": True},
        {"label": "NA", "baseline": False},
    ]


def test_a_comma_at_the_end_and_rows_that_are_empty(tmp_path: Path) -> None:
    """As a spreadsheet writes them."""
    epochs = "run,epoch,test_accuracy\na,1,60.5,\na,2,70,\nb,1,30,\n,,,\n"
    found = read(write(tmp_path / "s", RUNS + ",,,,\n", epochs))
    assert [(run.run_id, history.epochs["test_accuracy"]) for run, history in found] == [
        ("a", [60.5, 70]),
        ("b", [30]),
    ]
    write(tmp_path / "s", epochs="run,epoch,test_accuracy\na,1,60,5\na,2,70,5\n")
    with pytest.raises(UserError, match=r"epochs.csv: rows have more cells than there are columns"):
        read(tmp_path / "s")


def test_an_epoch_may_be_a_tensor(tmp_path: Path) -> None:
    with autol2.record("s", method="a", seed=0, outputs=tmp_path) as run:
        run.epoch(torch.tensor(1), test_accuracy=torch.tensor(50.0))
        run.epoch(torch.tensor(1.5), test_accuracy=51)
        with pytest.raises(UserError, match="completed epochs, above 0, not inf"):
            run.epoch(math.inf, test_accuracy=51)
    written = (tmp_path / "s" / "epochs.csv").read_text()
    assert written == f"run,epoch,test_accuracy\n{run.run},1,50.0\n{run.run},1.5,51.0\n"


def test_only_a_leading_method_is_the_methods(tmp_path: Path) -> None:
    options = {"data_method_kind": 1, "method_method_x": 2}
    with autol2.record("s", method="a", seed=0, outputs=tmp_path, **options):
        pass
    header = (tmp_path / "s" / "runs.csv").read_text().partition("\n")[0].split(",")
    assert {"data_method_kind", "method.method_x"} <= set(header)


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_recording_where_the_file_system_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with autol2.record("s", method="a", seed=0, outputs=tmp_path) as run:
        run.epoch(1, test_accuracy=50)
    ((found, _),) = read(tmp_path / "s")
    assert found.state["status"] == "completed"


def test_files_that_were_touched_while_a_run_records(tmp_path: Path) -> None:
    runs, epochs = tmp_path / "s" / "runs.csv", tmp_path / "s" / "epochs.csv"

    def begin() -> Recording:
        return autol2.record("s", method="a", seed=0, outputs=tmp_path)

    with begin() as run:
        run.epoch(1, test_accuracy=50)
        epochs.write_text(epochs.read_text().rstrip("\n"))
        run.epoch(2, test_accuracy=60)
        runs.unlink()
    ((found, history),) = read(tmp_path / "s")
    assert found.state["status"] == "completed"
    assert history.epochs["test_accuracy"] == [50, 60]
    with pytest.raises(ZeroDivisionError), begin():  # noqa: PT012
        runs.unlink()
        raise ZeroDivisionError
    ((found, _),) = read(tmp_path / "s")
    assert found.state["status"] == "failed"
    words = rf"{runs} has no column run, method, seed"
    with pytest.raises(ZeroDivisionError) as caught, begin():  # noqa: PT012
        runs.write_text(runs.read_text().replace(",", ";"))
        raise ZeroDivisionError
    assert caught.value.__notes__ == [f"nor could it be noted how the run ended: {words}"]
    with pytest.raises(UserError, match=words):
        begin()


def test_recording_loads_no_torch() -> None:
    code = "import autol2, sys; autol2.record; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
