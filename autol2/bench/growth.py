"""Measures whether the cost of a run or study grows linearly: late steps cost as much as early."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ..config import Config
from ..data.dataset import Dataset
from ..rules.controller import Controller
from ..runs.records import Records
from ..runs.run import Run
from ..sweeps import study
from ..training.trainer import Trainer
from .timing import alternate, ratio

BLOCK = 20
"""The number of repetitions that are timed together, for operations that take long."""
MANY = 50 * BLOCK
"""The number of repetitions that are timed together, for fast operations."""


def measure_growth(
    config: Config, data: Dataset, device: torch.device, age: int, rounds: int
) -> dict[str, float]:
    """Measure the time of late operations divided by that of early ones.

    Args:
        config: a run with a small network, with a folder to work in as its `outputs`.
        data: the images, on `device`.
        device: the device to train on.
        age: the number of steps before the late ones. Before the late operations of other kinds,
            there are a tenth as many evaluations, half as many runs, and ten times as many
            measurements and rows.
        rounds: the number of rounds of timing, each in forward and then in reverse order.

    Returns:
        The ratio for steps, evaluations, measurements, rows of the records, and checks of a run in
        a study. For reading a study, the ratio is that of the time per run in a large and a small
        study.
    """
    folder = Path(config.outputs)
    pairs = {
        "step": (partial(_steps, config, data, device, folder), age // BLOCK),
        "evaluation": (partial(_evaluations, config, data, device, folder), age // 10 // BLOCK),
        "measurement": (partial(_measurements, config), 10 * age // MANY),
        "record": (partial(_records, folder), 10 * age // MANY),
        "run in a study": (partial(_runs, config), age // 2 // BLOCK),
    }
    growth = {}
    for name, (make, blocks) in pairs.items():
        young, old = make("young"), make("old")
        for _ in range(blocks):
            old()
        alternate({"young": young, "old": old}, 1, device)  # Warm up.
        taken = alternate({"young": young, "old": old}, rounds, device)
        growth[name] = ratio(taken["old"], taken["young"])
    studies = {name: folder / f"study-{name}" for name in ("young", "old")}
    taken = alternate(
        {name: partial(study.records, path) for name, path in studies.items()}, rounds, device
    )
    runs = {name: len(study.records(path)) for name, path in studies.items()}
    growth["study read, per run"] = (
        ratio(taken["old"], taken["young"]) * runs["young"] / runs["old"]
    )
    return growth


Block = Callable[[], None]


def _trainer(
    config: Config, data: Dataset, device: torch.device, folder: Path, name: str
) -> Trainer:
    (folder / name).mkdir(parents=True)
    trainer = Trainer(replace(config, epochs=10**6), data, folder / name, device)
    trainer.begin()
    trainer.train_step()
    return trainer


def _steps(config: Config, data: Dataset, device: torch.device, folder: Path, name: str) -> Block:
    trainer = _trainer(config, data, device, folder, f"steps-{name}")

    def block() -> None:
        for _ in range(BLOCK):
            trainer.train_step()

    return block


def _evaluations(
    config: Config, data: Dataset, device: torch.device, folder: Path, name: str
) -> Block:
    trainer = _trainer(config, data, device, folder, f"evaluations-{name}")

    def block() -> None:
        for _ in range(BLOCK):
            trainer.evaluate()

    return block


def _measurements(config: Config, name: str) -> Block:
    controller, step = Controller(config.rule()), 0

    def block() -> None:
        nonlocal step
        for _ in range(MANY):
            step += 1
            controller.measure(2.0 + step % 7, 10.0 + step % 5, step, step)

    return block


def _records(folder: Path, name: str) -> Block:
    records = Records(folder / f"records-{name}.csv", ["loss", "accuracy"])

    def block() -> None:
        for _ in range(MANY):
            records.append([0.1234567, 56.78])
        records.flush()

    return block


def _runs(config: Config, name: str) -> Block:
    """Make a block that checks whether runs are finished and adds them to the study."""
    seed = 0

    def block() -> None:
        nonlocal seed
        for _ in range(BLOCK):
            run = Run(replace(config, study=f"study-{name}", seed=seed))
            assert not run.finished
            run.folder.mkdir(parents=True)
            (run.folder / "run.json").write_text(json.dumps({"status": "completed"}))
            seed += 1

    return block
