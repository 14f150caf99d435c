"""Experiment trackers are shown exactly what a run's records say, and never harm the run."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pytest

from autol2.errors import UserError
from autol2.runs.run import Run
from autol2.runs.state import read_state
from autol2.trackers.mlflow import _database
from autol2.trackers.tracker import Figures, Mirror, NoTracker
from autol2.trackers.wandb import WandBOptions
from autol2.train import train
from autol2.training.trainer import Trainer

from .conftest import PROJECT, SMALL, Command, composed, few

Points = dict[str, list[tuple[int, float]]]
OFFLINE = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
"""A network that answers nothing."""


def recorded(folder: Path) -> Points:
    """What the run's records say: (step of the run, value) of each figure."""
    points: Points = {}
    length = 23  # 1,437 images at 64 a batch
    for path in (folder / "measurements.csv", folder / "epochs.csv"):
        rows = pd.read_csv(path)
        steps = rows["epoch"] * length + rows["step"]
        for name in rows.columns.drop(["epoch", "step", "event"], errors="ignore"):
            pairs = zip(steps.tolist(), rows[name].tolist(), strict=True)
            points[f"{path.stem}/{name}"] = list(pairs)
    assert len(points) > 15
    return points


def in_tensorboard(run: Path) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def in_mlflow(run: Path) -> Points:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("autol2")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == run.name
    assert found.info.status == "FINISHED"
    assert found.data.params["method.name"] == "auto_l2"
    return {
        name: [(one.step, one.value) for one in client.get_metric_history(found.info.run_id, name)]
        for name in found.data.metrics
    }


def leveldb_records(content: bytes, first: int) -> Iterator[bytes]:
    """The records of a LevelDB log, which W&B's offline files are after a header of `first` bytes.

    Blocks of 32 KiB; before each piece of a record its checksum (4 bytes), length (2) and whether
    it is whole (1), the first (2), a middle (3) or the last (4).
    """
    place, pieces = 0, b""
    while place < len(content):
        left = -(first + place) % 32768
        if 0 < left < 7:  # too little for another piece
            place += left
            continue
        size = int.from_bytes(content[place + 4 : place + 6], "little")
        kind = content[place + 6]
        pieces += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            yield pieces
            pieces = b""


def in_wandb(run: Path) -> Points:
    import json

    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    points: Points = {}
    for content in leveldb_records(path.read_bytes()[7:], first=7):
        record = Record.FromString(content)
        row = {
            (item.key or "/".join(item.nested_key)): json.loads(item.value_json)
            for item in record.history.item
        }
        for name in row:
            if "/" in name:
                points.setdefault(name, []).append((row["step"], row[name]))
    return points


@pytest.mark.parametrize(
    ("name", "read"),
    few([("tensorboard", in_tensorboard), ("mlflow", in_mlflow), ("wandb", in_wandb)], 1),
)
def test_a_tracker_shows_the_records(name: str, read, run_command: Command, tmp_path: Path) -> None:
    plain = run_command("train", *SMALL, outputs=tmp_path / "plain")
    done = run_command("train", *SMALL, f"logger={name}", **OFFLINE)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stdout
    (without,) = (tmp_path / "plain").glob("default/*/run.json")
    (run,) = (tmp_path / "outputs").glob("default/*/run.json")
    assert run.parent.name == without.parent.name, plain.stdout  # the same identity …
    for records in ("measurements.csv", "epochs.csv"):  # … and the same bits
        assert (run.parent / records).read_bytes() == (without.parent / records).read_bytes()
    shown, expected = read(run.parent), recorded(run.parent)
    assert shown.keys() == expected.keys()
    for figure, points in expected.items():
        assert [step for step, _ in shown[figure]] == [step for step, _ in points], figure
        values = [value for _, value in points]
        assert [value for _, value in shown[figure]] == pytest.approx(values, rel=1e-6)


@pytest.mark.slow
def test_a_resumed_run_is_shown_once(run_command: Command, tmp_path: Path) -> None:
    words = [*SMALL, "epochs=15", "logger=tensorboard"]
    process = subprocess.Popen(
        [sys.executable, "-m", "autol2.train", *words, f"outputs={tmp_path / 'outputs'}"],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
    )
    try:
        while not (found := list(tmp_path.glob("outputs/default/*/checkpoint.pt"))):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    run = found[0].parent
    part = in_tensorboard(run)["measurements/lambda"]
    assert 0 < len(part) < 60
    done = run_command("train", *words)
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stdout
    shown = in_tensorboard(run)
    for figure, points in recorded(run).items():
        assert [step for step, _ in shown[figure]] == [step for step, _ in points]


def test_a_tracker_that_fails_is_told_and_left(run_command: Command, tmp_path: Path) -> None:
    done = run_command("train", *SMALL, "logger=mlflow", "logger.uri=http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count("warning: logger=mlflow cannot be used, the run continues without it: ")
        == 1
    )
    assert "completed: test accuracy" in done.stdout


def test_a_missing_package_is_told_before_training(
    run_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_command("train", *SMALL, "logger=tensorbord")
    assert done.returncode == 2
    assert "did you mean logger=tensorboard?" in done.stderr
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'autol2\[wandb\]'"):
        WandBOptions().require_installed()
    NoTracker().require_installed()


class Recorder:
    """A tracker that keeps what it is given, or fails."""

    def __init__(self, fails: bool = False) -> None:
        self.rows: list[tuple[int, Figures]] = []
        self.fails, self.closed = fails, ""

    def log(self, rows: Sequence[tuple[int, Figures]]) -> None:
        if self.fails:
            raise OSError("no space\nleft")
        self.rows += rows

    def close(self, status: str) -> None:
        self.closed = status


def records_in(folder: Path) -> Path:
    (folder / "epochs.csv").write_text("epoch,step,lambda\n")
    path = folder / "measurements.csv"
    path.write_text("epoch,step,lambda,train_loss,event\n0,5,0.1,2.0,none\n")
    return path


def test_only_whole_new_rows_are_shown(tmp_path: Path) -> None:
    path, tracker = records_in(tmp_path), Recorder()
    header = len((tmp_path / "epochs.csv").read_text())
    shown = {"measurements.csv": path.stat().st_size}
    mirror = Mirror(tracker, tmp_path, shown, 10, pytest.fail)
    mirror.update()
    assert tracker.rows == []  # an earlier attempt has shown what is there
    with path.open("a") as file:
        file.write("1,5,0.1,inf,decayed\n1,10,0.0")
    mirror.update()
    assert tracker.rows == [(15, {"measurements/lambda": 0.1})]
    with path.open("a") as file:
        file.write("1,1.5,none\n")
    mirror.close("completed")
    row = {"measurements/lambda": 0.01, "measurements/train_loss": 1.5}
    assert tracker.rows[1:] == [(20, row)]
    assert tracker.closed == "completed"
    assert shown == {"measurements.csv": path.stat().st_size, "epochs.csv": header}


@pytest.mark.parametrize(("shown", "steps"), [({}, [5, 15]), ({"measurements.csv": 9999}, [15])])
def test_a_tracker_begins_where_it_left_off(
    tmp_path: Path, shown: dict[str, int], steps: list[int]
) -> None:
    """At the first row if it was shown none; not behind the end of records that were cut back."""
    path, tracker = records_in(tmp_path), Recorder()
    mirror = Mirror(tracker, tmp_path, shown, 10, pytest.fail)
    with path.open("a") as file:
        file.write("1,5,0.1,1.0,none\n")
    mirror.close("completed")
    assert [step for step, _ in tracker.rows] == steps


def test_what_a_tracker_did_not_take_is_not_noted(tmp_path: Path) -> None:
    records_in(tmp_path)
    shown = dict[str, int]()
    mirror = Mirror(Recorder(fails=True), tmp_path, shown, 10, lambda _: None)
    mirror.close("failed")
    assert shown == {}


def test_a_tracker_that_joins_later_is_shown_the_whole_run(
    run_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was interrupted goes on with a tracker, is interrupted again, and ends."""
    words = *SMALL, "epochs=3", f"outputs={tmp_path / 'outputs'}"
    plain, tracked = composed(*words), composed(*words, "logger=tensorboard")
    does = Trainer.train_step
    for config, stop in ((plain, 30), (tracked, 50)):

        def stopped(self: Trainer, stop: int = stop) -> None:
            does(self)
            if self.step == stop:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(Trainer, "train_step", stopped)
        assert train(config) == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert train(tracked) == 0
    run = Run(tracked).folder
    shown, expected = in_tensorboard(run), recorded(run)
    assert shown.keys() == expected.keys()
    for figure, points in expected.items():
        assert [step for step, _ in shown[figure]] == [step for step, _ in points], figure
    known = read_state(run)["shown"]
    assert known.keys() == {"tensorboard"}


def test_mlflow_refuses_a_path_that_no_address_can_name(tmp_path: Path) -> None:
    odd, plain = tmp_path / "a?b" / "study", tmp_path / "100 % a#b" / "study"
    with pytest.raises(UserError, match=r"choose outputs=FOLDER without \? and % in its path"):
        _database(odd)
    assert _database(plain) == f"sqlite:///{plain}/mlflow.db"


def test_a_failing_tracker_is_asked_once(tmp_path: Path) -> None:
    records_in(tmp_path)
    warnings: list[str] = []
    mirror = Mirror(Recorder(fails=True), tmp_path, {}, 10, warnings.append)
    mirror.update()
    mirror.update()
    mirror.close("failed")
    assert warnings == ["the logger failed, the run continues without it: no space"]
