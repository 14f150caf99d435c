"""What comes late costs what came early: the cost of a run, or a study, is linear in its size."""

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
"""Of each thing that takes long, how many are timed at a time; of the others 50 times more."""
MANY = 50 * BLOCK


def measure_growth(
    config: Config, data: Dataset, device: torch.device, age: int, rounds: int
) -> dict[str, float]:
    """Time of the latest over that of the first: of steps, evaluations, measurements, rows of the
    records and looks at a run in a study; and per run, of reading a large study over a small one.

    Args:
        config: a run with a small network, and a folder to work in as its `outputs`.
        data: images, on `device`.
        device: where to train.
        age: how many steps there were before; a tenth as many evaluations, half as many runs, ten
            times as many measurements and rows.
        rounds: of timing, each forwards and backwards.
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
        alternate({"young": young, "old": old}, 1, device)  # to warm up
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
