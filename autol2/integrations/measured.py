"""Measures what AutoL2's constants do with four optimizers.

``python -m autol2.integrations.measured`` trains a small network on scikit-learn's digits and
prints the table of the README, in about a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from ..rules.auto_l2 import AutoL2

TRAINED, BATCH = 1200, 32

OPTIMIZERS: dict[str, tuple[Any, bool]] = {
    "SGD, lr 0.1": (partial(SGD, lr=0.1), False),
    "SGD, lr 0.1, momentum 0.9": (partial(SGD, lr=0.1, momentum=0.9), False),
    "the same, cosine lr to 0": (partial(SGD, lr=0.1, momentum=0.9), True),
    "AdamW, lr 3e-3": (partial(AdamW, lr=3e-3), False),
}
"""The function that makes each optimizer, and whether its learning rate falls to 0."""

SETTINGS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "fixed 5e-4": {"method": "fixed", "fixed_lambda": 5e-4},
    "auto_l2 from 0.1": {},
    "auto_l2 from 0.01": {"initial_lambda": 0.01},
    "auto_l2 from 0.1, `lambda_min=1e-3`": {"lambda_min": 1e-3},
}
"""The arguments of `AutoL2` for each setting; None for PyTorch's default weight decay."""


@dataclass(frozen=True)
class Trained:
    """The results of one training."""

    held_out: float
    """Accuracy in percent on the held-out images."""
    norm: float
    """‖θ‖ of all parameters at the end."""
    changes: list[str]
    """The changes of λ, each as the step and the new value."""


def train(optimizer_name: str, setting_name: str, seed: int, epochs: int) -> Trained:
    """Train one network on the CPU.

    Args:
        optimizer_name: a key of `OPTIMIZERS`.
        setting_name: a key of `SETTINGS`.
        seed: the random seed.
        epochs: the number of epochs.
    """
    make, falls = OPTIMIZERS[optimizer_name]
    digits = load_digits()
    torch.manual_seed(seed)
    order = torch.randperm(len(digits.target))
    images = torch.tensor(digits.images, dtype=torch.float32).flatten(1)[order] / 16
    labels = torch.tensor(digits.target)[order]
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = make(model.parameters())
    settings = SETTINGS[setting_name]
    l2 = None if settings is None else AutoL2(optimizer, **settings)
    batches = [
        batch for _ in range(epochs) for batch in torch.split(torch.randperm(TRAINED), BATCH)
    ]
    rates = CosineAnnealingLR(optimizer, len(batches)) if falls else None
    changes = []
    for step, batch in enumerate(batches, start=1):
        scores = model(images[batch])
        loss = cross_entropy(scores, labels[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if rates is not None:
            rates.step()
        if l2 is not None:
            decision = l2.step(loss, (scores.argmax(1) != labels[batch]).float().mean())
            if decision.event != "none":
                changes.append(f"{step}: {decision.lambda_:.1g}")
    with torch.no_grad():
        right = model(images[TRAINED:]).argmax(1) == labels[TRAINED:]
        norm = torch.cat([parameter.flatten() for parameter in model.parameters()]).norm()
    return Trained(100 * float(right.float().mean()), float(norm), changes)


def rows(seeds: int, epochs: int) -> Iterator[str]:
    """Yield the rows of the table in Markdown.

    Args:
        seeds: the number of seeds to average over.
        epochs: the number of epochs of each training.
    """
    yield "| optimizer | λ | held out % | ‖θ‖ | λ changes at step |"
    yield "|---|---|---|---|---|"
    for optimizer in OPTIMIZERS:
        for number, setting in enumerate(SETTINGS):
            runs = [train(optimizer, setting, seed, epochs) for seed in range(seeds)]
            held_out = sum(run.held_out for run in runs) / seeds
            norm = sum(run.norm for run in runs) / seeds
            yield (
                f"| {'' if number else optimizer} | {setting} | {held_out:.1f} | {norm:.1f} "
                f"| {', '.join(runs[0].changes)} |"
            )


if __name__ == "__main__":
    for row in rows(seeds=2, epochs=30):
        print(row, flush=True)
