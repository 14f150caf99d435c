"""Measure how fast training is on this machine: ``python -m autol2.bench``.

The command prints a table and writes ``<outputs>/bench/bench.json``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from ..cli.command import command
from ..config import (
    BatchnormConfig,
    Config,
    PrecisionConfig,
    as_schema,
    parse_as,
)
from ..data.dataset import Dataset
from ..errors import UserError
from ..models.cnn import CNN
from ..storage.files import to_json, write_atomically
from ..training import hardware
from .case import Case, measure
from .growth import measure_growth
from .short_runs import ShortRuns, measure_short
from .whole_run import WholeRun, measure_whole


@dataclass
class BenchConfig(Config):
    """The options of the command, in addition to those of a run."""

    precisions: list[str] = field(default_factory=lambda: ["fp32", "bf16"])
    """Precisions to measure; tf32 needs a GPU."""
    batchnorms: list[bool] = field(default_factory=lambda: [False, True])
    """Whether to measure with batch-norm, without it, or both."""
    images: int = 50_000
    """Number of training images in memory."""
    test_images: int = 1_000
    """Number of test images; the time to evaluate 10,000 is extrapolated from them."""
    steps: int = 5
    """Number of steps that are timed together."""
    rounds: int = 4
    """How often each variant is measured, in forward and then in reverse order."""
    age: int = 2_000
    """Number of steps after which the time of a step is compared with that of the first steps."""
    short_runs: int = 20
    """Number of runs of about a second in a sweep; a quarter as many run as separate commands."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("images", "test_images", "steps", "rounds", "age", "short_runs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")

    def cases(self) -> Iterator[Config]:
        """Yield the configuration of each run to measure."""
        options = {option.name: getattr(self, option.name) for option in fields(Config)}
        for batchnorm in self.batchnorms:
            for precision in self.precisions:
                yield replace(
                    Config(**options),
                    batchnorm=BatchnormConfig(batchnorm),
                    precision=PrecisionConfig(precision),
                )


@command("bench")
def main(cfg: DictConfig) -> int:
    """Run the benchmark that the configuration describes."""
    bench(parse_as(BenchConfig, cfg))
    return 0


def bench(config: BenchConfig) -> None:
    """Measure all cases, print the results, and write them to ``bench.json``.

    Raises:
        UserError: if the device does not support a precision, or the folder cannot be written.
        Unequal: if two loops that compute the same mathematics end with different weights.
    """
    console = Console(highlight=False, soft_wrap=True)
    cases = list(config.cases())
    for case in cases:
        device = hardware.prepare(case)
    data = pictures(config.images, config.test_images, device)
    path = Path(config.outputs) / "bench" / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    measured, wholes = [], []
    with tempfile.TemporaryDirectory(prefix="autol2-bench-") as folder:
        for case in cases:
            console.print(f"measuring {_words(case)}")
            hardware.prepare(case)
            inside = replace(case, outputs=folder)
            measured.append(measure(inside, data, device, steps=config.steps, rounds=config.rounds))
            wholes.append(measure_whole(case))
        console.print("measuring growth")
        small = replace(inside, model=CNN(4, 8), batch_size=8)
        some = pictures(100, 20, device)
        growth = measure_growth(small, some, device, config.age, 5 * config.rounds)
    console.print("measuring short runs")
    short = measure_short(config.short_runs, -(-config.short_runs // 4), config.device)
    figures = {
        "environment": hardware.environment(device),
        "config": asdict(config),
        "cases": [
            {**asdict(case), "run": asdict(whole)}
            for case, whole in zip(measured, wholes, strict=True)
        ],
        "growth": growth,
        "short": asdict(short),
    }
    write_atomically(path, to_json(figures).encode())
    show(console, measured, wholes, growth, short)
    console.print(f"\n{path}")


def pictures(train: int, test: int, device: torch.device) -> Dataset:
    """Create a data set of random images and labels with the shape of CIFAR-10.

    Args:
        train: the number of training images.
        test: the number of test images.
        device: where to put the images.
    """
    generator = torch.Generator().manual_seed(0)

    def some(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return images, torch.randint(10, (count,), generator=generator)

    classes = tuple(map(str, range(10)))
    return Dataset(*some(train), *some(test), classes, *some(0), mean=0.5, std=0.5, digest="").to(
        device
    )


def show(
    console: Console,
    cases: list[Case],
    wholes: list[WholeRun],
    growth: dict[str, float],
    short: ShortRuns,
) -> None:
    """Print the cases side by side, how the cost grows over time, and the cost of short runs."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for case in cases:
        batchnorm = "batch-norm" if case.batchnorm else "no norm"
        table.add_column(f"{case.precision}\n{batchnorm}", justify="right", no_wrap=True)
    lines: dict[str, Callable[[Case], str]] = {
        "our step, ms": lambda case: f"{1e3 * case.step_seconds['ours']:.3g}",
        "(a) ours / bare loop": lambda case: f"{case.overhead:.3f}",
        "    noise: bare / bare": lambda case: f"{case.noise:.3f}",
        "(b) plain / ours: step": lambda case: f"{case.step_speedup:.2f}",
        "    with evaluations": lambda case: f"{case.step_with_evaluation_speedup:.2f}",
        "    whole epoch": lambda case: f"{case.epoch_speedup:.1f}",
        "    weights differ by": lambda case: f"{case.distance_to_plain:.0e}",
        "(c) GFLOP/s": lambda case: f"{case.gflops:.0f}",
        "    of machine's best": lambda case: f"{case.efficiency:.0%}",
        "(d) save / epoch": lambda case: f"{case.checkpoint_share:.2%}",
    }
    if cases[0].distance_to_cpu is not None:
        lines["    weights on the CPU differ by"] = lambda case: f"{case.distance_to_cpu:.0e}"
    for name, line in lines.items():
        table.add_row(name, *map(line, cases))
    for part in wholes[0].shares:
        table.add_row(
            f"    run: {part.replace('_', '-')}", *(f"{whole.shares[part]:.1%}" for whole in wholes)
        )
    table.add_row("(e) peak memory, GB", *(f"{whole.peak_bytes / 1e9:.2f}" for whole in wholes))
    console.print(table)
    console.print(
        "\n(f) late / early: " + ", ".join(f"{name} {value:.2f}" for name, value in growth.items())
    )
    console.print(
        f"(g) {short.runs} runs of a second, over what they train: a sweep {short.sweep:.2f}, "
        f"a command each {short.commands:.2f}"
    )


def _words(case: Config) -> str:
    return f"{case.precision.name}, batch-norm {'on' if case.batchnorm.enabled else 'off'}"


ConfigStore.instance().store(name="bench_schema", node=as_schema(BenchConfig))

if __name__ == "__main__":
    main()
