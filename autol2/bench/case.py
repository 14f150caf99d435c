"""Measures our training step, for one precision with or without batch-norm, against references."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import Config
from ..data.dataset import Dataset
from ..runs import checkpoint
from ..runs.run import Run
from ..training.attempt import Attempt
from ..training.trainer import Trainer
from .limits import machine_gflops, step_flops
from .plain_process import PlainProcess
from .reference import BareLoop
from .timing import alternate, ratio

CIFAR10_STEPS, CIFAR10_TEST_IMAGES = 391, 10_000
"""The number of steps in an epoch of the paper, and of images in an evaluation."""
PLAIN_EVALUATIONS = CIFAR10_STEPS // 5
"""The number of evaluations per epoch in the authors' code, which evaluates every 5 steps."""


@dataclass(frozen=True)
class Case:
    """The measurements of one case. Times are medians, and ratios are medians of ratios."""

    precision: str
    batchnorm: bool
    step_seconds: dict[str, float]
    """Seconds per step of `ours`, the `bare` loop, and the authors' `plain` loop (fp32, NCHW)."""
    overhead: float
    """(a) The time of our step divided by that of the bare loop."""
    noise: float
    """The time of a bare loop divided by that of an identical one; 1 except for noise."""
    same_weights: bool
    """Whether our loop and both bare loops ended with the same weights, bit for bit."""
    distance_to_plain: float
    """‖θ_ours − θ_plain‖ / ‖θ_plain − θ_start‖ after one step.

    The difference comes from the order of summation and from the rounding of bf16.
    """
    distance_to_cpu: float | None
    """The same distance between our step on this GPU and on the CPU; None on a CPU."""
    step_speedup: float
    """(b) The time of the plain step divided by that of ours."""
    evaluation_seconds: dict[str, float]
    """Seconds to evaluate 10,000 images in `ours` and `plain`, extrapolated from fewer images."""
    step_with_evaluation_speedup: float
    """(b) The plain time divided by ours, if both evaluate the test set every 5 steps."""
    epoch_seconds: dict[str, float]
    """Seconds per epoch of `ours` and `plain`; see `epoch_speedup`."""
    epoch_speedup: float
    """(b) The plain time divided by ours for an epoch of the paper.

    The plain epoch has 391 steps and 78 evaluations; ours has 391 steps, one evaluation and one
    checkpoint.
    """
    gflop_per_step: float
    """Billions of floating-point operations per step; see `limits.step_flops`."""
    gflops: float
    """(c) Billions of floating-point operations per second in our step."""
    machine_gflops: dict[str, float]
    """GFLOP/s of the convolutions and the matrix product of this machine; see `limits`."""
    efficiency: float
    """(c) The GFLOP/s of our step divided by the best GFLOP/s of this machine."""
    checkpoint_seconds: float
    """Seconds to save a checkpoint."""
    checkpoint_share: float
    """(d) The share of `checkpoint_seconds` in our epoch."""


State = Mapping[str, Tensor]


class Unequal(Exception):
    """Two loops that compute the same mathematics ended with different weights."""


def measure(
    config: Config,
    data: Dataset,
    device: torch.device,
    *,
    steps: int,
    rounds: int,
) -> Case:
    """Measure one case.

    Args:
        config: the run, with a folder to work in as its `outputs`. Its λ must stay constant.
        data: the images, on `device`.
        device: the device to train on.
        steps: the number of steps that are timed together.
        rounds: the number of rounds of timing, each in forward and then in reverse order.

    Raises:
        Unequal: if our loop and the bare loop end with different weights.
    """
    run = Run(config)
    with run.open():
        trainer = Trainer(config, data, run.folder, device)
        begin = copy.deepcopy(trainer.model)
        attempt = Attempt(run, trainer)
        bare, again = (BareLoop(config, copy.deepcopy(begin), data) for _ in range(2))

        def ours(count: int) -> None:
            for _ in range(count):
                attempt.step()

        with PlainProcess(config, copy.deepcopy(begin).cpu(), data.to("cpu"), device) as plain:
            ours(1)
            bare.steps(1)
            again.steps(1)
            plain.steps(1)
            distance = _distance(trainer.model.state_dict(), plain.weights(), begin.state_dict())
            distance_to_cpu = None
            if device.type != "cpu":
                there = _after_a_step_on_the_cpu(config, data, run.folder)
                distance_to_cpu = _distance(trainer.model.state_dict(), there, begin.state_dict())
            loops = {"ours": ours, "bare": bare.steps, "again": again.steps, "plain": plain.steps}
            step = alternate(
                {name: partial(loop, steps) for name, loop in loops.items()}, rounds, device
            )
            evaluation = alternate({"ours": trainer.evaluate, "plain": plain.evaluate}, 2, device)
        if not (_equal(trainer.model, bare.model) and _equal(trainer.model, again.model)):
            raise Unequal("our loop and the bare loop ended with different weights")

        def save() -> None:
            checkpoint.save(run.folder, trainer.state_dict())

        saving = alternate({"save": save}, 2, device)
        trainer.close()
    per_step = {name: statistics.median(taken) / steps for name, taken in step.items()}
    images = len(data.test_images)
    per_evaluation = {
        name: statistics.median(taken) * CIFAR10_TEST_IMAGES / images
        for name, taken in evaluation.items()
    }
    per_save = statistics.median(saving["save"])
    epoch = CIFAR10_STEPS * per_step["ours"] + per_evaluation["ours"] + per_save
    plain_epoch = CIFAR10_STEPS * per_step["plain"] + PLAIN_EVALUATIONS * per_evaluation["plain"]
    gflop = step_flops(begin, config.batch_size, data.train_images.shape[2:]) / 1e9
    machine = machine_gflops(config, begin, data.train_images.shape[2:], rounds)
    return Case(
        precision=config.precision.name,
        batchnorm=config.batchnorm.enabled,
        step_seconds={name: per_step[name] for name in ("ours", "bare", "plain")},
        overhead=ratio(step["ours"], step["bare"]),
        noise=ratio(step["again"], step["bare"]),
        same_weights=True,
        distance_to_plain=distance,
        distance_to_cpu=distance_to_cpu,
        step_speedup=ratio(step["plain"], step["ours"]),
        evaluation_seconds=per_evaluation,
        step_with_evaluation_speedup=(5 * per_step["plain"] + per_evaluation["plain"])
        / (5 * per_step["ours"] + per_evaluation["ours"]),
        epoch_seconds={"ours": epoch, "plain": plain_epoch},
        epoch_speedup=plain_epoch / epoch,
        gflop_per_step=gflop,
        gflops=gflop / per_step["ours"],
        machine_gflops=machine,
        efficiency=gflop / per_step["ours"] / max(machine.values()),
        checkpoint_seconds=per_save,
        checkpoint_share=per_save / epoch,
    )


def _after_a_step_on_the_cpu(config: Config, data: Dataset, folder: Path) -> State:
    cpu = torch.device("cpu")
    (folder / "cpu").mkdir()
    trainer = Trainer(config, data, folder / "cpu", cpu)
    trainer.begin()
    trainer.train_step()
    trainer.close()
    return trainer.model.state_dict()


def _equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have the same parameters and buffers, bit for bit."""
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def _distance(ours: State, plain: State, begin: State) -> float:
    names = [name for name, value in begin.items() if value.is_floating_point()]
    one, other, start = (
        torch.cat([state[name].flatten().cpu() for name in names]) for state in (ours, plain, begin)
    )
    return float((one - other).norm() / (other - start).norm())
