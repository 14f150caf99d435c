"""Studies that nobody trained: a run's files as a run leaves them, made from a few numbers."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

CIFAR10 = {"digest": "c" * 64, "train": 50_000, "test": 10_000, "classes": 10}
DIGITS = {"digest": "d" * 64, "train": 1437, "test": 360, "classes": 10}


@dataclass
class Arm:
    """What the runs of an arm come to."""

    method: str
    level: float
    """Mean test accuracy in the end, without batch-norm."""
    number: float | None = None
    """λ of fixed, α of threshold and combined."""
    options: dict[str, Any] = field(default_factory=dict)
    """Others of its identity, as in {"lr": 0.1}."""
    delay: float = 0.0
    """Epochs by which it is later than the others."""
    batchnorms: Sequence[bool] = (False, True)
    diverged: Sequence[int] = ()
    """Seeds that diverge in the second epoch."""
    chance: Sequence[int] = ()
    """Seeds that never train."""
    running: int | None = None
    """Epochs done so far, of runs that are under way."""


PAPER = [
    *(Arm("fixed", level, value) for value, level in ((0.0, 72.4), (1e-5, 72.5), (1e-4, 72.7))),
    Arm("fixed", 73.0, 5e-4),
    Arm("auto_l2", 72.4, delay=1),
    *(Arm("threshold", level, alpha) for alpha, level in ((5.0, 73.1), (10.0, 73.3))),
    Arm("advance", 73.6, delay=6),
    Arm("combined", 73.0, 5.0, delay=3),
]
"""Levels as in the paper; batch-norm gives 4 points more."""
PATHS = {
    "auto_l2": [(5, 0.1), (35, 0.01), (50, 1e-3), (160, 1e-4)],
    "threshold": [(5, 0.1), (85, 0.01), (100, 1e-3), (205, 1e-4)],
    "combined": [(5, 0.1), (20, 1.0), (25, 0.1), (35, 0.01), (55, 1e-3), (160, 1e-4)],
    "advance": [(5, 0.1), (20, 1.0), (25, 10.0), (35, 1.0), (45, 0.1), (60, 1e-3), (165, 1e-4)],
}


def write_study(
    folder: Path,
    arms: Sequence[Arm] = PAPER,
    seeds: int = 6,
    epochs: int = 200,
    length: int = 391,
    data: dict[str, Any] = CIFAR10,
) -> Path:
    """Write the study `folder`: every arm without and with batch-norm, on each seed."""
    for arm in arms:
        for batchnorm in arm.batchnorms:
            for seed in range(seeds):
                _write_run(folder, arm, batchnorm, seed, epochs, length, data)
    return folder


def _write_run(
    folder: Path,
    arm: Arm,
    batchnorm: bool,
    seed: int,
    epochs: int,
    length: int,
    data: dict[str, Any],
) -> None:
    options = _identity(arm, batchnorm, seed, epochs, data)
    name = f"{arm.method}-{'bn' if batchnorm else 'nobn'}-s{seed}"
    run = folder / f"{name}-{zlib.crc32(json.dumps(options).encode()):08x}00"
    run.mkdir(parents=True)
    # A seed does the same to every arm, and each run has its own luck.
    random = np.random.default_rng([seed, zlib.crc32(run.name.encode())])
    luck = np.random.default_rng([seed, batchnorm]).normal(0, 0.25) + random.normal(0, 0.12)
    level = arm.level + 4 * batchnorm + luck
    done = arm.running if arm.running is not None else epochs
    status = "completed" if arm.running is None else "running"
    if seed in arm.diverged:
        done, status = 1, "diverged"
    at = np.arange(1, done + 1)
    pace = 4.0 + 0.3 * random.normal()
    rise = 1 - np.exp(-np.maximum(at - arm.delay, 0.05) / pace)
    accuracy = 10 + (level - 10) * rise + random.normal(0, 0.15, done)
    if seed in arm.chance:
        accuracy = np.full(done, 10.0)
    accuracy = accuracy.clip(0, 100)
    number = arm.number if arm.method == "fixed" and arm.number else 0.0
    path = PATHS.get(arm.method, [(5, number)])
    shrinking = np.exp(-0.3 * np.log1p(at / 20) * (1 + 400 * number))
    pd.DataFrame(
        {
            "epoch": at - 1,
            "step": length,
            "lambda": path[-1][1],
            "train_loss": 2.3 * (1 - rise) + 0.01,
            "train_accuracy": 10 + 89 * rise,
            "test_loss": 2.3 * (1 - rise) + 0.8,
            "test_accuracy": accuracy,
            "norm_conv1": 23 * shrinking,
            "effective_lr_conv1": 0.01 / (23 * shrinking) ** 2,
            "norm_conv2": 40 * shrinking,
            "effective_lr_conv2": 0.01 / (40 * shrinking) ** 2,
        }
    ).to_csv(run / "epochs.csv", index=False)
    _write_measurements(run / "measurements.csv", path, done * length, length)
    last = accuracy[-min(10, max(1, epochs // 10)) :]
    state: dict[str, Any] = {
        "run_id": run.name,
        "status": status,
        "seed": seed,
        "command": f"python -m autol2.train method={arm.method} seed={seed}",
        "config": {"lr": options["lr"]},
        "identity": options,
        "data": data,
        "steps_per_epoch": length,
        "attempts": [
            {
                "seconds": 120.0 + seed,
                "images_per_second": 4000.0,
                "hardware": "AMD EPYC",
                "threads": 1,
                "torch": "2.11",
                "host": "vm",
                "git": {"commit": "1cfecd9", "dirty": False},
                "versions": {"python": "3.11"},
            }
        ],
    }
    if status == "completed":
        state["result"] = {
            "final_test_accuracy": accuracy[-1],
            "best_test_accuracy": accuracy.max(),
            "mean_last_tenth": last.mean(),
            "final_test_loss": 0.8,
            "final_train_loss": 0.01,
            "final_train_accuracy": 99.0,
            "final_lambda": path[-1][1],
        }
    if status == "diverged":
        state["diverged"] = {"step": length + 30, "lambda": path[-1][1]}
    (run / "run.json").write_text(json.dumps(state))


def _write_measurements(
    path: Path, lambdas: list[tuple[int, float]], steps: int, length: int
) -> None:
    """Only where λ changes, and the last one: nothing reads the others."""
    rows = [(step, value) for step, value in lambdas if step < steps]
    rows.append((steps - 1, rows[-1][1]))
    lines = [f"{step // length},{step % length},{value},1.0,50.0" for step, value in rows]
    header = "epoch,step,lambda,train_loss,train_accuracy"
    path.write_text("\n".join([header, *lines, ""]))


def _identity(
    arm: Arm, batchnorm: bool, seed: int, epochs: int, data: dict[str, Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "method": {"name": arm.method, "optimizer": "sgd", "k": 5},
        "batchnorm": {"enabled": batchnorm},
        "data": {"name": "digits" if data is DIGITS else "cifar10"},
        "model": {"width": 300, "hidden": 500},
        "precision": {"name": "fp32"},
        "control": {"penalized": "all", "scale": 1.0, "lr_factor": 1.0, "pulse_length": 0},
        "epochs": epochs,
        "batch_size": 128,
        "lr": 0.01,
        "seed": seed,
    }
    found["protocol"] = {"initialization": "published"}
    if arm.method == "fixed":
        found["fixed_lambda"] = {"value": float(arm.number or 0.0)}
    else:
        found["protocol"]["name"] = "published"
        if arm.number is not None:
            found["alpha"] = {"percent": arm.number}
    return {**found, **arm.options}
