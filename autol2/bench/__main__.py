"""Measure how fast it is here: ``python -m autol2.bench``.

Prints a table and writes ``<outputs>/bench/bench.json``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from .. import hardware
from ..cli import command
from ..config import BatchnormConfig, Config, PrecisionConfig, UserError, parse_as
from ..data import Dataset
from ..files import to_json, write_atomically
from .case import Case, measure


@dataclass
class BenchConfig(Config):
    """The knobs of the command: those of a run, and its own."""

    precisions: list[str] = field(default_factory=lambda: ["fp32", "bf16"])
    """What to measure; tf32 needs a GPU."""
    batchnorms: list[bool] = field(default_factory=lambda: [False, True])
    """With batch-norm, without, or both."""
    images: int = 50_000
    """Training images that lie in memory."""
    test_images: int = 1_000
    """Test images, from whose evaluation that of 10,000 is worked out."""
    steps: int = 5
    """Steps at a time."""
    rounds: int = 4
    """How often every way has its turn, forwards and then backwards."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("images", "test_images", "steps", "rounds"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")

    def cases(self) -> Iterator[Config]:
        """The runs to measure."""
        knobs = {knob.name: getattr(self, knob.name) for knob in fields(Config)}
        for batchnorm in self.batchnorms:
            for precision in self.precisions:
                yield replace(
                    Config(**knobs),
                    batchnorm=BatchnormConfig(batchnorm),
                    precision=PrecisionConfig(precision),
                )


@command("bench")
def main(cfg: DictConfig) -> int:
    """The Hydra entry point."""
    bench(parse_as(BenchConfig, cfg))
    return 0


def bench(config: BenchConfig) -> None:
    """Measure, show and write down.

    Raises:
        UserError: a precision that the device cannot do, or a folder that cannot be written.
        Unequal: what should be the same mathematics is not.
    """
    console = Console(highlight=False, soft_wrap=True)
    cases = list(config.cases())
    for case in cases:
        device = hardware.prepare(case)
    data = pictures(config.images, config.test_images, device)
    measured = []
    with tempfile.TemporaryDirectory(prefix="autol2-bench-") as folder:
        for case in cases:
            hardware.prepare(case)
            console.print(_words(case))
            measured.append(
                measure(
                    replace(case, outputs=folder),
                    data,
                    device,
                    steps=config.steps,
                    rounds=config.rounds,
                )
            )
    figures = {
        "environment": hardware.environment(device),
        "cases": [asdict(one) for one in measured],
    }
    path = Path(config.outputs) / "bench" / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_json(figures).encode())
    show(console, measured)
    console.print(f"{path}")


def pictures(train: int, test: int, device: torch.device) -> Dataset:
    """Random images and labels of CIFAR-10's shape."""
    generator = torch.Generator().manual_seed(0)

    def some(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return images, torch.randint(10, (count,), generator=generator)

    classes = tuple(map(str, range(10)))
    return Dataset(*some(train), *some(test), classes, digest="").to(device)


def show(console: Console, cases: list[Case]) -> None:
    """Print the cases side by side."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for case in cases:
        batchnorm = "batch-norm" if case.batchnorm else "no batch-norm"
        table.add_column(f"{case.precision}\n{batchnorm}", justify="right")
    lines: dict[str, Any] = {
        "step, ms": lambda case: f"{1e3 * case.step_seconds['ours']:.0f}",
        "(a) over a bare loop": lambda case: f"{case.overhead:.3f}",
        "    noise: bare over bare": lambda case: f"{case.noise:.3f}",
        "(b) the plain way over ours: a step": lambda case: f"{case.step_speedup:.2f}",
        "    5 steps and an evaluation": lambda case: f"{case.step_with_evaluation_speedup:.1f}",
        "    an epoch of the whole job": lambda case: f"{case.epoch_speedup:.1f}",
        "    distance of the weights": lambda case: f"{case.distance_to_plain:.1e}",
        "(c) GFLOP/s": lambda case: f"{case.gflops:.0f}",
        "    of the machine's best": lambda case: f"{case.efficiency:.0%}",
        "(d) checkpoint, of an epoch": lambda case: f"{case.checkpoint_share:.2%}",
    }
    for name, line in lines.items():
        table.add_row(name, *map(line, cases))
    console.print(table)


def _words(case: Config) -> str:
    return f"{case.precision.name}, batch-norm {'on' if case.batchnorm.enabled else 'off'}"


ConfigStore.instance().store(name="bench_schema", node=BenchConfig)

if __name__ == "__main__":
    main()
