"""The replay command and function, on the published recordings and on files of our own."""

from __future__ import annotations

import csv
import gzip
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autol2.errors import UserError
from autol2.replay import read_trace, replay
from autol2.rules.rule import Rule

from .conftest import SHARED, Command

TRACES = {
    # name: method, α, steps of the run at which a new λ is first recorded
    "advance_no_bn": (
        "advance",
        0,
        "20:1e+00 25:1e+01 30:1e+02 35:1e+01 40:1e+00 45:1e-01 50:1e-02 65:1e-03 170:1e-04",
    ),
    "advance_bn_second_attempt": (
        "advance",
        0,
        "20:1e+00 25:1e-01 35:1e+00 45:1e+01 50:1e+00 55:1e-01 60:1e-02 75:1e-03 180:1e-04",
    ),
    "auto_l2_no_bn": ("auto_l2", 0, "35:1e-02 50:1e-03 160:1e-04"),
    "combined5_no_bn": ("combined", 5, "20:1e+00 25:1e-01 30:1e-02 65:1e-03 170:1e-04"),
    "threshold5_bn": ("threshold", 5, "90:1e-02 105:1e-03 210:1e-04"),
}


def recording(name: str) -> Path:
    path = SHARED / "traces" / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip(f"the recording {name} is not part of the project and not beside it")
    return path


@pytest.mark.parametrize("name", TRACES)
def test_published_runs_are_reproduced(name: str) -> None:
    """λ of every one of 15,600 measurements, and the steps of its changes."""
    method, alpha, expected = TRACES[name]
    steps = list(replay(Rule(method, "published", alpha), recording(name), 391))
    assert len(steps) == 15600
    assert all(step.agrees for step in steps)
    changes, before = [], steps[0].lambda_
    for step in steps:
        if step.lambda_ != before:
            changes.append(f"{step.epoch * 391 + step.step}:{step.lambda_:.0e}")
            before = step.lambda_
    assert " ".join(changes) == expected


def test_the_command_agrees(run_command: Command, tmp_path: Path) -> None:
    out = tmp_path / "lambda.csv"
    trace = recording("combined5_no_bn")
    done = run_command("replay", f"trace={trace}", "method=combined", "alpha=5", f"out={out}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["epoch", "step", "λ", "event", "reason"]
    assert lines[1].split()[:6] == ["0", "15", "0.1", "→", "1", "raised"]
    assert lines[-1] == "agrees with the recorded lambda: 15600/15600 measurements"
    assert len(lines) == 7
    with gzip.open(trace, "rt") as recorded, out.open() as written:
        for one, other in zip(csv.DictReader(recorded), csv.DictReader(written), strict=True):
            assert (one["epoch"], one["step"]) == (other["epoch"], other["step"])
            assert float(one["lambda"]) == pytest.approx(float(other["lambda"]), rel=1e-9)


@pytest.mark.parametrize("options", [["method=advance"], ["method=combined", "alpha=50"]])
def test_the_command_disagrees(run_command: Command, options: list[str]) -> None:
    done = run_command("replay", f"trace={recording('combined5_no_bn')}", *options)
    assert done.returncode == 1
    assert "/15600 measurements" in done.stdout
    assert "15600/15600" not in done.stdout
    assert "first difference: epoch 0, step" in done.stdout


def test_it_is_quick(run_command: Command) -> None:
    """Replaying 15,600 measurements takes less than importing torch does."""
    trace = recording("auto_l2_no_bn")
    before = time.perf_counter()
    list(replay(Rule("auto_l2"), trace))
    ours = time.perf_counter() - before
    before = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    assert ours < time.perf_counter() - before
    code = "import autol2.replay, sys; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["epoch,step,lambda,train_loss,train_accuracy,event", *rows]) + "\n")
    return path


def test_the_last_bit_does_not_matter_but_a_billionth_does(tmp_path: Path) -> None:
    rows = ["0,5,0.1,2,10,none", "0,10,0.1,3,9,none", "0,15,0.1,3,9,decayed"]
    for value, agrees in (("0.01", True), ("0.01000000001", True), ("0.0100000001", False)):
        trace = write(tmp_path / "t.csv", *rows, f"0,20,{value},3,9,none")
        assert [step.agrees for step in replay(Rule("auto_l2"), trace)] == [True] * 3 + [agrees]


def test_the_clock_takes_the_epochs_length(tmp_path: Path) -> None:
    """λ = 0.01 from step 15 rests until 25; the next measurement is step 5 of epoch 1."""
    rows = ["0,5,0.1,2,10,x", "0,10,0.1,3,9,x", "0,15,0.1,3,9,x", "1,5,0.01,3,9,x"]
    trace = write(tmp_path / "measurements.csv", *rows)
    rule = Rule("auto_l2", "corrected")

    def last_event(**options: int) -> str:
        return list(replay(rule, trace, **options))[-1].decision.event

    assert last_event() == "none"  # 15 steps an epoch: step 20
    assert last_event(steps_per_epoch=20) == "none"  # step 25
    assert last_event(steps_per_epoch=21) == "decayed"  # step 26
    (tmp_path / "run.json").write_text('{"steps_per_epoch": 21}')
    assert last_event() == "decayed"
    assert last_event(steps_per_epoch=20) == "none"
    with pytest.raises(UserError, match=r"steps_per_epoch=14 is too few: trace=.* has step 15"):
        last_event(steps_per_epoch=14)


def test_an_epochs_assumed_length_is_said(run_command: Command, tmp_path: Path) -> None:
    """Only where it was assumed and the clock runs through."""
    trace = write(tmp_path / "t.csv", "0,5,0.1,2,10,x", "0,10,0.1,2,10,x")
    said = "assuming 10 steps per epoch, the last one measured; set steps_per_epoch=N if there are"

    def says(*options: str) -> bool:
        done = run_command("replay", f"trace={trace}", *options)
        assert done.returncode == 0, done.stderr
        return said in done.stdout

    assert says("protocol=corrected")
    assert not says("protocol=published")
    assert not says("protocol=corrected", "steps_per_epoch=12")
    (tmp_path / "run.json").write_text('{"steps_per_epoch": 12}')
    assert not says("protocol=corrected")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "has no column epoch, step, lambda, train_loss, train_accuracy"),
        (b"epoch,step,lambda\n0,5,0.1\n", "has no column train_loss, train_accuracy"),
        (b"epoch,step,lambda,train_loss,train_accuracy\n", "contains no measurements"),
        (b"epoch,step,lambda,train_loss,train_accuracy\n0,5,0.1,x,1\n", "line 2: '0,5,0.1,x,1'"),
        (b"epoch,step,lambda,train_loss,train_accuracy\n0,5\n", "line 2: '0,5' is not a row"),
        (
            b"epoch,step,lambda,train_loss,train_accuracy\n0,5,1,2,1\n0,5,1,2,1\n",
            "line 3: its steps do not increase: epoch 0, step 5 comes after epoch 0, step 5",
        ),
        (
            b"epoch,step,lambda,train_loss,train_accuracy\n0,100,1,2,1\n0,15,1,2,1\n",
            "line 3: its steps do not increase: epoch 0, step 15 comes after epoch 0, step 100",
        ),
        (
            b"epoch,step,lambda,train_loss,train_accuracy\n1,5,1,2,1\n0,10,1,2,1\n",
            "line 3: its steps do not increase: epoch 0, step 10 comes after epoch 1, step 5",
        ),
        (
            b"epoch,step,lambda,train_loss,train_accuracy\n-1,5,1,2,1\n",
            "line 2: '-1,5,1,2,1' is not a measurement",
        ),
        (b"\xff\xfe", "cannot be read"),
        (b"epoch,step,lambda,train_loss,train_accuracy\n\n0,5,,2,1\n", "line 3: '0,5,,2,1'"),
        (b'epoch,"' + b"9" * 200_000, "cannot be read: field larger than field limit"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    for name, pack in (("t.csv", bytes), ("t.csv.gz", gzip.compress)):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(pack(content))
        with pytest.raises(UserError, match=message.replace("'", ".")) as error:
            list(replay(Rule("auto_l2"), path))
        assert str(path) in str(error.value)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    whole = gzip.compress(b"epoch,step" * 1000)
    for damaged in (whole[:-20], b"epoch,step", whole[:10] + b"\xff" + whole[11:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read"):
            list(replay(Rule("auto_l2"), path))


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\ufeff" + text,
        lambda text: text + "\n\n",
        lambda text: text.rstrip(),
        lambda text: text.replace("train_loss", "penalty,train_loss").replace("0.1", "0.1,7"),
    ],
)
def test_how_other_programs_write_csv(tmp_path: Path, edit: Callable[[str], str]) -> None:
    plain = write(tmp_path / "plain.csv", "0,5,0.1,2,10,none", "0,10,0.1,nan,inf,none")
    other = tmp_path / "other.csv"
    other.write_bytes(edit(plain.read_text()).encode())
    assert str(read_trace(other)) == str(read_trace(plain))  # text, since nan ≠ nan


def test_the_command_asks_for_a_trace(run_command: Command) -> None:
    done = run_command("replay")
    assert done.returncode == 2
    assert done.stderr == (
        "error: no trace was given; for example: python -m autol2.replay trace=FILE "
        "method=combined alpha=5\n"
    )


@pytest.mark.parametrize("steps", [0, -3])
def test_an_epoch_has_steps(run_command: Command, tmp_path: Path, steps: int) -> None:
    trace = write(tmp_path / "t.csv", "0,5,0.1,2,10,none")
    done = run_command("replay", f"trace={trace}", f"steps_per_epoch={steps}")
    assert done.returncode == 2
    assert done.stderr == f"error: steps_per_epoch must be at least 1, not {steps}\n"


def test_the_recording_is_not_overwritten(run_command: Command, tmp_path: Path) -> None:
    trace = write(tmp_path / "t.csv", "0,5,0.1,2,10,none")
    before = trace.read_bytes()
    done = run_command("replay", f"trace={trace}", f"out={tmp_path}/./t.csv")
    assert done.returncode == 2
    assert done.stderr == f"error: out={trace} is the input file itself: choose another file\n"
    assert trace.read_bytes() == before


LAMBDAS = "epoch,step,lambda\n0,5,0.1\n"


def test_a_symbolic_link_is_followed(run_command: Command, tmp_path: Path) -> None:
    trace = write(tmp_path / "t.csv", "0,5,0.1,2,10,none")
    (tmp_path / "elsewhere").mkdir()
    whole, link = tmp_path / "elsewhere" / "lambda.csv", tmp_path / "link.csv"
    link.symlink_to(whole)
    for before in (None, "old\n"):  # it need not be there
        if before:
            whole.write_text(before)
        assert run_command("replay", f"trace={trace}", f"out={link}").returncode == 0
        assert link.is_symlink()
        assert whole.read_text() == LAMBDAS


def test_a_named_pipe_stays_one(run_command: Command, tmp_path: Path) -> None:
    trace, pipe = write(tmp_path / "t.csv", "0,5,0.1,2,10,none"), tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    try:
        assert run_command("replay", f"trace={trace}", f"out={pipe}", timeout=60).returncode == 0
        assert pipe.is_fifo()
        assert reader.communicate(timeout=10)[0] == LAMBDAS
    finally:
        reader.kill()
        reader.wait()


def test_an_output_that_cannot_be_written(run_command: Command, tmp_path: Path) -> None:
    trace = write(tmp_path / "t.csv", "0,5,0.1,2,10,none")
    out = tmp_path / "nowhere" / "out.csv"
    done = run_command("replay", f"trace={trace}", f"out={out}")
    assert done.returncode == 2
    assert f"error: out={out} cannot be written: No such file or directory\n" == done.stderr
