"""One precision, with or without batch-norm: our step beside the ways to compare it with."""

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
"""Of an epoch of the paper: steps, and images of an evaluation."""
PLAIN_EVALUATIONS = CIFAR10_STEPS // 5
"""Of an epoch: evaluations of the authors' code, one every 5 steps."""


@dataclass(frozen=True)
class Case:
    """What was measured. Seconds are medians, ratios are medians of ratios."""

    precision: str
    batchnorm: bool
    step_seconds: dict[str, float]
    """A step of `ours`, the `bare` loop, and the authors' `plain` way (in fp32, NCHW)."""
    overhead: float
    """(a) Our step over the bare loop's."""
    noise: float
    """The bare loop's step over that of another just like it: 1 but for noise."""
    same_weights: bool
    """Whether ours and both bare loops ended with the same weights, bit for bit."""
    distance_to_plain: float
    """‖θ_ours − θ_plain‖ / ‖θ_plain − θ_start‖ after one step: sums reordered, bf16's rounding."""
    distance_to_cpu: float | None
    """On a GPU: the same to our own step on the CPU."""
    step_speedup: float
    """(b) The plain step over ours."""
    evaluation_seconds: dict[str, float]
    """An evaluation of 10,000 images, `ours` and `plain`, from a smaller number of them."""
    step_with_evaluation_speedup: float
    """(b) Both evaluating the test set every 5 steps: the plain time over ours."""
    epoch_seconds: dict[str, float]
    epoch_speedup: float
    """(b) An epoch of the paper's job: 391 plain steps and 78 plain evaluations over 391 of our
    steps, one evaluation and one checkpoint."""
    gflop_per_step: float
    """See `limits.step_flops`."""
    gflops: float
    """(c) Billions of these a second in our step."""
    machine_gflops: dict[str, float]
    """The same of this machine's own convolutions and matrix product (see `limits`)."""
    efficiency: float
    """(c) Our step's over the machine's best."""
    checkpoint_seconds: float
    checkpoint_share: float
    """Of an epoch with its evaluation."""


State = Mapping[str, Tensor]


class Unequal(Exception):
    """Two ways that are the same mathematics ended with different weights."""


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
        config: precision, batch-norm, model, batch size, and a folder to work in as its `outputs`;
            its λ must not move.
        data: the images, on `device`.
        device: where to train.
        steps: steps at a time.
        rounds: of timing, each forwards and backwards.

    Raises:
        Unequal: our loop and the bare loop differ.
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
