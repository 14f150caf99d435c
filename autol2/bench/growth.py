"""What comes late costs what came early: the cost of a run, or a study, is linear in its size."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ..config import Config
from ..controller import Controller
from ..data import Dataset
from ..run import Records, Run
from ..trainer import Trainer
from .timing import alternate, ratio

BLOCK = 20
"""Of each thing that is timed, at a time."""


def measure_growth(
    config: Config, data: Dataset, device: torch.device, age: int, rounds: int
) -> dict[str, float]:
    """Time of a step, an evaluation, a measurement, a row of the records and the look at a run in a
    study, after `age` of them over that of the first.

    Args:
        config: a run with a small network, and a folder to work in as its `outputs`.
        data: images, on `device`.
        device: where to train.
        age: how many there were before.
        rounds: of timing, each forwards and backwards.
    """
    folder = Path(config.outputs)
    pairs = {
        "step": (partial(_steps, config, data, device, folder), age),
        "evaluation": (partial(_evaluations, config, data, device, folder), age // 10),
        "measurement": (partial(_measurements, config), 10 * age),
        "record": (partial(_records, folder), 10 * age),
        "run in a study": (partial(_runs, config), age // 2),
    }
    growth = {}
    for name, (make, before) in pairs.items():
        young, old = make("young"), make("old")
        for _ in range(before // BLOCK):
            old()
        alternate({"young": young, "old": old}, 1, device)  # to warm up
        taken = alternate({"young": young, "old": old}, rounds, device)
        growth[name] = ratio(taken["old"], taken["young"])
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
        for _ in range(50 * BLOCK):
            step += 1
            controller.measure(2.0 + step % 7, 10.0 + step % 5, step, step)

    return block


def _records(folder: Path, name: str) -> Block:
    records = Records(folder / f"records-{name}.csv", ["loss", "accuracy"])

    def block() -> None:
        for _ in range(50 * BLOCK):
            records.append([0.1234567, 56.78])
        records.flush()

    return block


def _runs(config: Config, name: str) -> Block:
    """Ask whether a run is finished, then add it to the study."""
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
