"""A run that is stopped, anywhere and any number of times, is the run that was never stopped.

The runs here are processes of their own, forked from a server that has torch imported, so that
hundreds of them can be killed. Every random choice comes from one seed, printed when a test fails;
``AUTOL2_RESUME_SEED`` repeats it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import multiprocessing
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import torch._dynamo  # which the first optimizer imports, for seconds
from hydra import compose, initialize_config_dir
from PIL import Image

from autol2.cli.command import CONF
from autol2.config import Config, parse
from autol2.errors import UserError
from autol2.runs import checkpoint, code, run
from autol2.runs.run import Held, Run
from autol2.runs.state import read_state
from autol2.train import train
from autol2.training import attempt
from autol2.training.signals import TOGETHER
from autol2.training.trainer import Trainer

from .conftest import PROJECT, SMALL, Command, composed, few
from .images import wait_for

SEED = int(os.environ.get("AUTOL2_RESUME_SEED", time.time_ns() % 2**32))
METHODS = ("fixed", "auto_l2", "threshold", "advance", "combined")
ARMS = list(itertools.product(METHODS, ("on", "off"), ("fp32", "bf16")))
LINES_OF = ("attempt.py", "checkpoint.py", "controller.py", "files.py", "records.py")
LINES_OF += ("run.py", "trainer.py")
"""The modules at whose lines a run is killed."""

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.test_resume"])


def config(outputs: Path, *overrides: str) -> Config:
    own = "lr=0.05", "checkpoint.every_steps=7", f"outputs={outputs}"
    return composed(*SMALL, *own, *overrides)


def _work(
    config: Config, die_at_line: int | None, quiet: bool, count: Any, modules: tuple[str, ...]
) -> None:
    """In a process of its own: do the run, and die at the n-th line of our modules if told so."""
    if quiet:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        if os.path.basename(frame.f_code.co_filename) not in modules:
            return None
        if event == "line":
            lines += 1
            if lines == die_at_line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    if die_at_line is not None:
        sys.settrace(trace)
    try:
        status = train(config)
    except UserError as error:
        status = error.status
    sys.settrace(None)
    if count is not None:
        count.value = lines
    sys.exit(status)


def start(
    config: Config,
    die_at_line: int | None = None,
    *,
    quiet: bool = True,
    count: Any = None,
    modules: tuple[str, ...] = LINES_OF,
) -> Any:
    process = SERVER.Process(target=_work, args=(config, die_at_line, quiet, count, modules))
    process.start()
    return process


def finish(config: Config) -> int:
    process = start(config)
    process.join(120)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def outcome(folder: Path) -> dict[str, Any]:
    """All of a run that must not depend on how often it was stopped."""
    state = read_state(folder)
    weights = checkpoint.read(folder / checkpoint.NAME)["model"] if "result" in state else {}
    return {
        "measurements": (folder / "measurements.csv").read_bytes(),
        "epochs": (folder / "epochs.csv").read_bytes(),
        "status": state["status"],
        "result": state.get("result"),
        "diverged": state.get("diverged"),
        "weights": {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
    }


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    print(f"AUTOL2_RESUME_SEED={SEED}")
    return random.Random(f"{SEED} {request.node.name}")


def undisturbed(tmp_path: Path, *overrides: str) -> tuple[dict[str, Any], int, float]:
    """What the run comes to, how many lines it takes, and how many seconds."""
    whole = config(tmp_path / "whole", *overrides)
    count = SERVER.Value("q", 0)
    process = start(whole, -1, count=count)
    process.join(120)
    assert process.exitcode == 0
    folder = Run(whole).folder
    seconds = read_state(folder)["attempts"][-1]["seconds"]
    return outcome(folder), count.value, seconds


@pytest.mark.parametrize(("method", "batchnorm", "precision"), few(ARMS[::-1], 1))
def test_killed_at_any_line(
    tmp_path: Path, chance: random.Random, method: str, batchnorm: str, precision: str
) -> None:
    """Four kills each, at random lines: while writing, renaming, appending, stepping."""
    arm = f"method={method}", f"batchnorm={batchnorm}", f"precision={precision}"
    expected, lines, _ = undisturbed(tmp_path, *arm)
    disturbed = config(tmp_path / "disturbed", *arm)
    for _ in range(4):
        process = start(disturbed, chance.randrange(1, lines))
        process.join(120)
        assert process.exitcode in (-signal.SIGKILL, 0)
    assert finish(disturbed) == 0
    assert outcome(Run(disturbed).folder) == expected


RECIPES = {
    "wrn": (
        *("model=wrn", "model.depth=10", "model.width=1", "lr_schedule=cosine"),
        *("optimizer.momentum=0.9", "augmentation=flip_crop_mixup", "loss.label_smoothing=0.1"),
    ),
    "dropout": (
        *("model=custom", "model.target=tests.own_network:small", "optimizer=adamw"),
        *("lr_schedule=step", "lr_schedule.warmup=0.1", "augmentation=flip_crop"),
    ),
    "original": (
        *("model=custom", "model.target=tests.own_network:small", "protocol=original"),
        *("method.measure_every=3", "augmentation=flip_crop_mixup"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_other_recipes_killed_at_any_line(
    tmp_path: Path, chance: random.Random, recipe: str
) -> None:
    """Three kills each, on images of 8×8 pixels: generators and schedules are resumed as well."""
    colours = random.Random(0)
    for part, label, number in itertools.product(("train", "test"), "ab", range(12)):
        folder = tmp_path / "images" / part / label
        folder.mkdir(parents=True, exist_ok=True)
        pixels = bytes(colours.randrange(256) for _ in range(8 * 8 * 3))
        Image.frombytes("RGB", (8, 8), pixels).save(folder / f"{number}.png")
    words = [word for word in SMALL if not word.startswith(("model.", "data="))]
    words += ["lr=0.05", "checkpoint.every_steps=3", "batch_size=5", *RECIPES[recipe]]
    words += ["data=imagefolder", f"data.root={tmp_path / 'images'}", "threads=1"]
    words += [f"data.cache={tmp_path / 'cache'}"]

    def made(name: str) -> Config:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return parse(compose("config", [*words, f"outputs={tmp_path / name}"]))

    whole, disturbed = made("whole"), made("disturbed")
    count = SERVER.Value("q", 0)
    process = start(whole, -1, count=count)
    process.join(120)
    assert process.exitcode == 0
    for _ in range(3):
        process = start(disturbed, chance.randrange(1, count.value))
        process.join(120)
        assert process.exitcode in (-signal.SIGKILL, 0)
    assert finish(disturbed) == 0
    assert outcome(Run(disturbed).folder) == outcome(Run(whole).folder)


@pytest.mark.slow
def test_killed_in_every_line_of_a_save(tmp_path: Path) -> None:
    """Each line from one checkpoint's beginning to the next step is a place to die at."""
    arm = "method=advance", "epochs=1", "checkpoint.every_steps=9"
    expected, _, _ = undisturbed(tmp_path, *arm)
    names = ("write_atomically", "save", "_save", "state_dict", "flush", "position", "sync_folder")
    seen: set[tuple[str, int]] = set()
    for number in itertools.count(1):
        disturbed = config(tmp_path / f"{number}", *arm)
        process = SERVER.Process(target=_die_in, args=(disturbed, names, number))
        process.start()
        process.join(120)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        seen.add((str(number), 0))
        assert finish(disturbed) == 0
        assert outcome(Run(disturbed).folder) == expected
        shutil.rmtree(tmp_path / f"{number}")
    assert len(seen) > 20


def _die_in(config: Config, functions: tuple[str, ...], number: int) -> None:
    """Die at the `number`-th distinct line that the second save comes to."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    lines: set[tuple[str, int]] = set()
    saves = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal saves
        code = frame.f_code
        if os.path.basename(code.co_filename) not in LINES_OF or code.co_name not in functions:
            return None
        saves += event == "call" and code.co_name == "_save"
        if event == "line" and saves == 2:
            lines.add((code.co_name, frame.f_lineno))
            if len(lines) == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    sys.exit(train(config))


@pytest.mark.parametrize("wanted", few([4, 30], 1))
def test_killed_at_random_moments(tmp_path: Path, chance: random.Random, wanted: int) -> None:
    """SIGKILLs from outside, at any time of a run's life, until enough were in time."""
    kills = 0
    wholes = {
        arm: undisturbed(tmp_path / "-".join(arm), *_options(arm))
        for arm in ARMS[::5][: max(1, wanted // 10)]
    }
    for attempt_ in itertools.count():
        if kills >= wanted:
            break
        for arm, (expected, _, seconds) in wholes.items():
            disturbed = config(tmp_path / f"disturbed{attempt_}", *_options(arm))
            for _ in range(4):
                process = start(disturbed)
                process.join(chance.uniform(0, 1.5 * seconds + 0.1))
                process.kill()
                process.join()
                kills += process.exitcode == -signal.SIGKILL
            assert finish(disturbed) == 0
            assert outcome(Run(disturbed).folder) == expected


def _options(arm: tuple[str, str, str]) -> tuple[str, ...]:
    method, batchnorm, precision = arm
    return f"method={method}", f"batchnorm={batchnorm}", f"precision={precision}"


@pytest.mark.parametrize("times", few([20], 0))
def test_killed_many_times(tmp_path: Path, chance: random.Random, times: int) -> None:
    arm = "method=combined", "batchnorm=on", "checkpoint.every_steps=2", "epochs=10"
    expected, _, _ = undisturbed(tmp_path, *arm)
    disturbed = config(tmp_path / "disturbed", *arm)
    for _ in range(times):
        process = start(disturbed, chance.randrange(500, 800), modules=("trainer.py",))
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
    assert finish(disturbed) == 0
    folder = Run(disturbed).folder
    assert outcome(folder) == expected
    attempts = read_state(folder)["attempts"]
    assert [one["why"] for one in attempts] == ["killed"] * times + ["completed"]
    steps = [one["from_step"] for one in attempts]
    assert steps == sorted(steps)
    assert len(set(steps)) > times // 2


LONGER = "method=auto_l2", "epochs=15", "checkpoint.every_steps=100000"


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the run comes to that signals are sent to."""
    whole = config(tmp_path_factory.mktemp("whole"), *LONGER)
    assert finish(whole) == 0
    return outcome(Run(whole).folder)


@pytest.mark.parametrize(
    "number",
    few([signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP], 2),
    ids=lambda one: one.name,
)
def test_a_signal_saves_and_leaves(
    tmp_path: Path, longer: dict[str, Any], number: signal.Signals
) -> None:
    disturbed = config(tmp_path / "disturbed", *LONGER)
    folder = Run(disturbed).folder
    process = start(disturbed)
    _await(lambda: "epoch 1/" in _log(folder))
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 128 + number
    state = read_state(folder)
    assert state["status"] == "interrupted"
    assert state["attempts"][-1]["why"] == number.name
    step = state["attempts"][-1]["to_step"]
    assert 0 < step < 15 * 23
    assert finish(disturbed) == 0
    assert read_state(folder)["attempts"][-1]["from_step"] == step
    assert outcome(folder) == longer


def test_a_signal_before_the_first_step(tmp_path: Path) -> None:
    """A cluster may take the node back at once: what is saved is a run without a single step."""
    whole = config(tmp_path / "whole", "method=advance")
    assert finish(whole) == 0
    disturbed = config(tmp_path / "disturbed", "method=advance")
    process = SERVER.Process(target=_signal_at_once, args=(disturbed,))
    process.start()
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    folder = Run(disturbed).folder
    assert checkpoint.read(folder / checkpoint.NAME)["step"] == 0
    assert len((folder / "measurements.csv").read_text().splitlines()) == 1
    assert finish(disturbed) == 0
    assert outcome(folder) == outcome(Run(whole).folder)


def _signal_at_once(config: Config) -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    begin = Run.begin

    def interrupted(self: Run, **facts: Any) -> None:
        begin(self, **facts)
        os.kill(os.getpid(), signal.SIGTERM)

    Run.begin = interrupted  # type: ignore[method-assign]
    sys.exit(train(config))


def test_a_signal_cuts_an_evaluation_short(tmp_path: Path) -> None:
    """An evaluation may take longer than a cluster's grace: it is given up and made up for."""
    options = "method=auto_l2", "epochs=2", "evaluation.batch_size=1"
    whole = config(tmp_path / "whole", *options)
    assert finish(whole) == 0
    disturbed = config(tmp_path / "disturbed", *options)
    process = SERVER.Process(target=_signal_in_evaluation, args=(disturbed,))
    process.start()
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    folder = Run(disturbed).folder
    assert checkpoint.read(folder / checkpoint.NAME)["evaluation_pending"] is True
    assert len((folder / "epochs.csv").read_text().splitlines()) == 1
    assert finish(disturbed) == 0
    assert outcome(folder) == outcome(Run(whole).folder)


def _signal_in_evaluation(config: Config) -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    evaluate = attempt.Trainer.evaluate

    def interrupted(self: Any, stop: Any) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, stop)

    attempt.Trainer.evaluate = interrupted  # type: ignore[method-assign]
    sys.exit(train(config))


def _ruin(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the loss of a step, of those of the first epoch, be NaN."""
    gradients = Trainer._gradients

    def ruined(self: Trainer, *batch: Any) -> None:
        gradients(self, *batch)
        if self.step + 1 == step:
            self.losses[step - 1] = math.nan

    monkeypatch.setattr(Trainer, "_gradients", ruined)


@pytest.mark.parametrize(
    "more", [(), ("evaluation.every_steps=11",), ("checkpoint.every_steps=1",)]
)
def test_a_loss_that_diverges_behind_the_epochs_last_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    """An epoch of 23 steps is measured at its 20th: wherever it is interrupted, bytes agree."""
    _ruin(monkeypatch, 22)
    whole = config(tmp_path / "whole", "method=fixed", "epochs=2", *more)
    assert train(whole) == 0
    expected = outcome(Run(whole).folder)
    assert expected["diverged"]["step"] == 22
    does = Trainer.train_step
    for stop in (20, 21, 22):

        def stopped(self: Trainer, stop: int = stop) -> None:
            does(self)
            if self.step == stop:
                os.kill(os.getpid(), signal.SIGTERM)

        disturbed = config(tmp_path / f"{stop}", "method=fixed", "epochs=2", *more)
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train_step", stopped)
            assert train(disturbed) == 128 + signal.SIGTERM
        assert train(disturbed) == 0
        assert outcome(Run(disturbed).folder) == expected


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ("both", {checkpoint.NAME, checkpoint.PREVIOUS}),
        ("last", {checkpoint.NAME}),
        ("none", set[str]()),
    ],
)
@pytest.mark.parametrize("diverges", [False, True])
def test_what_a_finished_run_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, left: set[str], diverges: bool
) -> None:
    if diverges:
        _ruin(monkeypatch, 22)
    wanted = config(tmp_path, "method=fixed", "epochs=1", f"checkpoint.keep={keep}")
    assert train(wanted) == 0
    folder = Run(wanted).folder
    assert read_state(folder)["status"] == ("diverged" if diverges else "completed")
    assert {path.name for path in folder.glob("checkpoint*")} == left
    assert train(wanted) == 0  # it is known without them
    assert len(read_state(folder)["attempts"]) == 1


# -------------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Where there is a run that was killed with two checkpoints behind it, and what it should come
    to."""
    where = tmp_path_factory.mktemp("killed")
    whole = config(where / "whole", *HALF)
    assert finish(whole) == 0
    half = config(where / "half", *HALF)
    process = SERVER.Process(target=_die_at_step, args=(half, 40))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    folder = Run(half).folder
    steps = [
        checkpoint.read(folder / name)["step"] for name in (checkpoint.NAME, checkpoint.PREVIOUS)
    ]
    assert steps == [35, 28]
    return where / "half", outcome(Run(whole).folder)


HALF = "method=combined", "batchnorm=on", "epochs=3"


@pytest.fixture
def half_done(
    tmp_path: Path, killed: tuple[Path, dict[str, Any]]
) -> tuple[Config, Path, dict[str, Any]]:
    """A run of the test's own, as `killed` has it."""
    shutil.copytree(killed[0], tmp_path / "half")
    half = config(tmp_path / "half", *HALF)
    return half, Run(half).folder, killed[1]


def _die_at_step(config: Config, step: int) -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    train_step = attempt.Trainer.train_step

    def mortal(self: Any) -> None:
        train_step(self)
        self.measurements.flush()
        self.evaluations.flush()
        if self.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    attempt.Trainer.train_step = mortal  # type: ignore[method-assign]
    train(config)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "truncated": _truncate,
    "empty": lambda path: path.write_bytes(b""),
    "flipped": _flip,
    "gone": lambda path: path.unlink(),
}
DAMAGED = [
    one
    for one in itertools.product(DAMAGE, (False, True))
    if one not in (("truncated", False), ("flipped", True))
]


@pytest.mark.parametrize(
    ("damage", "both"),
    few([("truncated", False), ("flipped", True), *DAMAGED], 2),
)
def test_a_damaged_checkpoint_is_set_aside(
    half_done: tuple[Config, Path, dict[str, Any]], damage: str, both: bool
) -> None:
    half, folder, expected = half_done
    for name in (checkpoint.NAME, checkpoint.PREVIOUS)[: 1 + both]:
        DAMAGE[damage](folder / name)
    assert finish(half) == 0
    assert outcome(folder) == expected
    assert read_state(folder)["attempts"][-1]["from_step"] == (0 if both else 28)
    if damage != "gone":
        assert (folder / f"{checkpoint.NAME}.damaged").exists()
        assert "cannot be used" in (folder / "train.log").read_text()


@pytest.mark.parametrize(
    ("damage", "from_step"),
    [
        (lambda text: text[:-7], 35),  # a row past the checkpoint, written by half
        (lambda text: text + "1,2", 35),
        (lambda text: "".join(text.splitlines(True)[:6]), 28),  # only the one before knows these
    ],
)
def test_records_are_cut_back(
    half_done: tuple[Config, Path, dict[str, Any]], damage: Any, from_step: int
) -> None:
    half, folder, expected = half_done
    path = folder / "measurements.csv"
    path.write_text(damage(path.read_text()))
    assert finish(half) == 0
    assert read_state(folder)["attempts"][-1]["from_step"] == from_step
    assert outcome(folder) == expected


CHANGES = {
    "line ends": lambda path: path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n")),
    "half gone": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a figure": lambda path: path.write_text(path.read_text().replace("0.", "1.", 1)),
    "empty": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize(
    ("name", "change"),
    few([*itertools.product(("epochs.csv", "measurements.csv"), CHANGES)], 2),
)
def test_changed_records_are_refused_and_stay(
    half_done: tuple[Config, Path, dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    name: str,
    change: str,
) -> None:
    """What somebody saved again is not thrown away, nor are the checkpoints."""
    half, folder, expected = half_done
    CHANGES[change](folder / name)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    with pytest.raises(UserError) as refused:
        train(half)
    assert str(refused.value) == (
        f"{folder / name} was changed or deleted since the run was interrupted, so the run cannot "
        f"continue: restore that file, or start over with rerun=true or study=NAME"
    )
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    assert after == before
    assert finish(replace(half, rerun=True)) == 0
    assert outcome(folder) == expected
    assert [one["from_step"] for one in read_state(folder)["attempts"]] == [0]
    (kept,) = folder.glob("replaced-*")
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {
        name: content for name, content in before.items() if name != "train.log"
    }


def test_with_the_checkpoint_damaged_too_changed_records_stay(
    half_done: tuple[Config, Path, dict[str, Any]],
) -> None:
    half, folder, _ = half_done
    _flip(folder / checkpoint.NAME)
    CHANGES["line ends"](folder / "epochs.csv")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    with pytest.raises(UserError, match=r"epochs.csv was changed or deleted"):
        train(half)
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    assert after == before


def test_a_run_of_changed_code_starts_over_with_rerun(
    half_done: tuple[Config, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What two versions of a network did together is nobody's result."""
    half, folder, expected = half_done
    state = read_state(folder)
    (folder / "run.json").write_text(json.dumps({**state, "code": {"ownnets": "before"}}))
    monkeypatch.setattr(code, "own_code", lambda config: {"ownnets": "after"})
    with pytest.raises(UserError, match="was trained with an earlier version of ownnets"):
        train(half)
    assert train(replace(half, rerun=True)) == 0
    assert [one["from_step"] for one in read_state(folder)["attempts"]] == [0]
    assert outcome(folder) == expected


def test_a_lost_run_json_does_not_lose_the_run(
    half_done: tuple[Config, Path, dict[str, Any]],
) -> None:
    half, folder, expected = half_done
    (folder / "run.json").write_text("{")
    assert finish(half) == 0
    assert outcome(folder) == expected
    assert read_state(folder)["attempts"][-1]["from_step"] == 35


def test_other_data_are_refused(half_done: tuple[Config, Path, dict[str, Any]]) -> None:
    half, folder, _ = half_done
    state = checkpoint.read(folder / checkpoint.NAME)
    checkpoint.save(folder, {**state, "data": "of another data set"})
    before = (folder / "measurements.csv").read_bytes()
    with pytest.raises(UserError, match=r"started on different data: .* data.name=NAME"):
        train(half)
    assert (folder / "measurements.csv").read_bytes() == before


def test_another_thread_count_is_noticed(
    half_done: tuple[Config, Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    half, folder, _ = half_done
    state = checkpoint.read(folder / checkpoint.NAME)
    state["environment"]["threads"] = 64
    checkpoint.save(folder, state)
    assert finish(half) == 0
    log = (folder / "train.log").read_text()
    assert "warning: threads was 64 and is now 1" in log


# -------------------------------------------------------------------- who holds it


def test_two_at_once(tmp_path: Path, run_command: Command) -> None:
    """One runs; the other says who holds it, with a status of its own."""
    one = config(tmp_path, "method=fixed", "epochs=60")
    first = start(one)
    folder = Run(one).folder
    _await(lambda: read_state(folder))
    second = run_command("train", *SMALL, "lr=0.05", "method=fixed", "epochs=60", outputs=tmp_path)
    assert first.is_alive(), "the run was over too soon for this test"
    assert second.returncode == 75, second.stderr
    (line,) = second.stderr.splitlines()
    assert f"is held by process {first.pid} on " in line
    os.kill(first.pid, signal.SIGTERM)
    first.join(120)
    assert first.exitcode == 128 + signal.SIGTERM
    assert len(read_state(folder)["attempts"]) == 1


def test_started_at_the_same_moment(tmp_path: Path) -> None:
    one = config(tmp_path, "method=auto_l2", "epochs=4")
    processes = [start(one) for _ in range(4)]
    for process in processes:
        process.join(120)
    assert {process.exitcode for process in processes} <= {0, 75}
    folder = Run(one).folder
    assert read_state(folder)["status"] == "completed"
    assert len(read_state(folder)["attempts"]) == 1


def _as_on_another_host(folder: Path, **changes: Any) -> None:
    state = read_state(folder)
    state["status"] = "running"
    state["attempts"][-1]["host"] = "elsewhere"
    state.update({"updated": time.time(), **changes})
    (folder / "run.json").write_text(json.dumps(state))


def test_a_dead_holder_on_another_host_is_waited_for(
    half_done: tuple[Config, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    half, folder, expected = half_done
    _as_on_another_host(folder)
    monkeypatch.setattr(run, "PATIENCE", 1.0)
    before = time.monotonic()
    with Run(half).open():
        waited = time.monotonic() - before
    assert waited > 0.5
    _as_on_another_host(folder)
    monkeypatch.setattr(run, "PATIENCE", 3000.0)
    os.utime(folder / "run.json", (1, 1))
    assert finish(half) == 0
    assert outcome(folder) == expected


@pytest.mark.parametrize("clock", [0, -3600, 3600])
def test_a_live_holder_on_another_host_is_left_alone(
    half_done: tuple[Config, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, clock: float
) -> None:
    """Also one whose clock is an hour behind, or ahead."""
    half, folder, _ = half_done

    def beats(_: float = 0) -> None:
        _as_on_another_host(folder, updated=time.time() + clock)

    beats()
    monkeypatch.setattr(run, "PATIENCE", 30.0)
    monkeypatch.setattr(run.time, "sleep", beats)
    with pytest.raises(Held, match="on elsewhere"), Run(half).open():
        pass


@pytest.mark.parametrize(
    ("job", "restarts", "waits"), [("7", "1", False), ("7", None, True), ("8", "1", True)]
)
def test_a_requeued_job_does_not_wait_for_itself(
    half_done: tuple[Config, Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    job: str,
    restarts: str | None,
    waits: bool,
) -> None:
    """The same number alone is no proof: another task of the job may be at it."""
    half, folder, _ = half_done
    _as_on_another_host(folder)
    state = read_state(folder)
    state["attempts"][-1].update(slurm_job_id="7", slurm_restarts=None)
    (folder / "run.json").write_text(json.dumps(state))
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if restarts:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    monkeypatch.setattr(run, "PATIENCE", 30.0)
    slept = list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        _as_on_another_host(folder)

    monkeypatch.setattr(run.time, "sleep", sleep)
    if waits:
        with pytest.raises(Held, match="on elsewhere"), Run(half).open():
            pass
    else:
        with Run(half).open():
            pass
    assert bool(slept) == waits


def test_an_evaluation_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes."""
    beats = list[int]()
    inside = False
    evaluate = Trainer.evaluate

    def evaluating(self: Trainer, stop: Callable[[], bool]) -> bool:
        nonlocal inside
        inside = True
        try:
            return evaluate(self, stop)
        finally:
            inside = False

    def beat(self: Run, progress: Callable[[], dict[str, Any]]) -> bool:
        beats.append(inside)
        return False

    monkeypatch.setattr(Trainer, "evaluate", evaluating)
    monkeypatch.setattr(Run, "beat", beat)
    assert train(config(tmp_path, "method=fixed", "epochs=1", "evaluation.batch_size=90")) == 0
    assert beats.count(True) == 4  # of 359 or 360 test images


@pytest.mark.parametrize("where", [(Trainer, "train_step"), (Trainer, "state_dict")])
def test_whatever_takes_long_gives_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str]
) -> None:
    """A step or a save of minutes is no sign of death elsewhere."""
    wanted = config(tmp_path, "method=fixed", "epochs=1")
    folder = Run(wanted).folder
    does = getattr(*where)
    seen = list[dict[str, Any]]()

    def slow(self: Trainer) -> Any:
        first = read_state(folder)
        if not seen:
            wait_for(lambda: read_state(folder)["updated"] > first["updated"])
            seen.extend([first, read_state(folder)])
        return does(self)

    monkeypatch.setattr(*where, slow)
    monkeypatch.setattr(run, "HEARTBEAT", 0.02)
    assert train(wanted) == 0
    first, later = seen
    assert {**first, "updated": 0, "progress": 0} == {**later, "updated": 0, "progress": 0}
    assert read_state(folder)["status"] == "completed"


# -------------------------------------------------------------------- faults


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    where = tmp_path / "disk"
    where.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs takes root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", where], check=True)
    yield where
    subprocess.run(["umount", "-l", where], check=True)


@pytest.mark.slow
def test_a_full_disk_loses_nothing(tmp_path: Path, small_disk: Path, run_command: Command) -> None:
    options = *SMALL, "lr=0.05", "method=combined", "checkpoint.every_steps=7"
    assert run_command("train", *options, outputs=tmp_path / "whole").returncode == 0
    (small_disk / "filler").write_bytes(bytes(220_000))
    full = run_command("train", *options, outputs=small_disk)
    assert full.returncode == 2
    (line,) = full.stderr.splitlines()
    assert "cannot be written (No space left on device)" in line
    (small_disk / "filler").unlink()
    again = run_command("train", *options, outputs=small_disk)
    assert again.returncode == 0, again.stderr
    (whole,) = (tmp_path / "whole").glob("*/*")
    (folder,) = small_disk.glob("default/*")
    assert outcome(folder) == outcome(whole)


@pytest.mark.slow
def test_a_folder_that_vanishes(tmp_path: Path, run_command: Command) -> None:
    options = "method=fixed", "epochs=400", "checkpoint.every_steps=10"
    outputs = tmp_path / "outputs"
    gone = config(outputs, *options)
    folder = Run(gone).folder
    process = subprocess.Popen(
        [sys.executable, "-m", "autol2.train", *SMALL, "lr=0.05", *options, f"outputs={outputs}"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _await(lambda: (folder / checkpoint.PREVIOUS).exists())
    while outputs.exists():
        shutil.rmtree(outputs, ignore_errors=True)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    (line,) = errors.splitlines()
    assert "cannot be written (No such file or directory)" in line
    assert not outputs.exists()


# -------------------------------------------------------------------- Ctrl-C


def test_control_c_on_a_terminal(tmp_path: Path) -> None:
    """Once: checkpoint, and the command that resumes."""
    options = *SMALL[:-3], "epochs=3000", "threads=1", "method=fixed", f"outputs={tmp_path}"
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "autol2.train", *options],
        cwd=PROJECT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # the controlling terminal
        env={**os.environ, "COLUMNS": "400", "TERM": "xterm"},
    )
    os.close(slave)
    _await(lambda: any("epoch 1/" in _log(folder) for folder in tmp_path.glob("*/*")))
    os.write(master, b"\x03")
    seen = b""
    with contextlib.suppress(OSError):
        while piece := os.read(master, 65536):
            seen += piece
    os.close(master)
    assert process.wait(60) == 130
    text = seen.decode()
    assert f"to resume: python -m autol2.train {' '.join(options)}" in text
    assert "Traceback" not in text
    (folder,) = tmp_path.glob("*/*")
    assert read_state(folder)["status"] == "interrupted"


def test_a_second_control_c_leaves_at_once(tmp_path: Path) -> None:
    one = config(tmp_path, "epochs=3000", "checkpoint.every_steps=1000000")
    process = SERVER.Process(target=_slow_to_save, args=(one,))
    process.start()
    folder = Run(one).folder
    _await(lambda: "epoch 1/" in _log(folder))
    os.kill(process.pid, signal.SIGINT)
    process.join(TOGETHER + 0.5)  # at once it would be the same one
    assert process.is_alive()
    os.kill(process.pid, signal.SIGINT)
    process.join(10)
    assert process.exitcode == -signal.SIGINT


def _slow_to_save(config: Config) -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    attempt.checkpoint.save = lambda *_: time.sleep(60)
    train(config)


def test_checkpoint_loads_in_any_program(half_done: tuple[Config, Path, dict[str, Any]]) -> None:
    _, folder, _ = half_done
    state = torch.load(folder / checkpoint.NAME, weights_only=True)
    assert state["step"] == 35
    assert set(state) >= {"model", "policy", "rng", "order", "measurements"}


def _log(folder: Path) -> str:
    path = folder / "train.log"
    return path.read_text() if path.exists() else ""


def _await(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
