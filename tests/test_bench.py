"""The bench measures what it says, and refuses to compare what is not the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from autol2.bench import case
from autol2.bench.__main__ import BenchConfig, pictures
from autol2.bench.limits import step_flops
from autol2.bench.reference import BareLoop, PlainCNN
from autol2.bench.timing import ratio
from autol2.cli.command import CONF
from autol2.config import Config, parse_as
from autol2.training import network

from .conftest import Command

CPU = torch.device("cpu")
SMALL = (
    "model.width=4",
    "model.hidden=8",
    "batch_size=16",
    "images=100",
    "test_images=50",
    "steps=2",
    "rounds=1",
    "age=40",
    "short_runs=2",
    "threads=1",
)


def small(folder: Path, *overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("bench", [*SMALL, f"outputs={folder}", *overrides])
    (one,) = parse_as(BenchConfig, cfg).cases()
    return one


@pytest.mark.slow
def test_bench_measures_everything(run_command: Command, tmp_path: Path) -> None:
    done = run_command("bench", *SMALL)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "outputs" / "bench" / "bench.json").read_text())
    assert figures["environment"]["threads"] == 1
    cases = figures["cases"]
    assert [(one["precision"], one["batchnorm"]) for one in cases] == [
        ("fp32", False),
        ("bf16", False),
        ("fp32", True),
        ("bf16", True),
    ]
    for one in cases:
        assert one["same_weights"] is True
        assert one["distance_to_plain"] < (1e-3 if one["precision"] == "fp32" else 0.5)
        assert set(one["step_seconds"]) == {"ours", "bare", "plain"}
        positive = ("overhead", "noise", "step_speedup", "step_with_evaluation_speedup")
        positive += ("epoch_speedup", "gflops", "efficiency", "checkpoint_share")
        assert all(one[name] > 0 for name in positive)
        run = one["run"]
        assert sum(run["shares"].values()) == pytest.approx(1)
        assert all(share >= 0 for share in run["shares"].values())
        assert run["steps"] == 90  # 1,437 digits in batches of 16
        assert 50e6 < run["peak_bytes"] < 50e9
        assert f"{one['step_speedup']:.2f}" in done.stdout
    assert set(figures["growth"]) == {
        "step",
        "evaluation",
        "measurement",
        "record",
        "run in a study",
        "study read, per run",
    }
    assert all(late < 10 for late in figures["growth"].values())
    assert figures["short"]["runs"] == 2
    assert figures["short"]["sweep"] > 1
    assert f"a command each {figures['short']['commands']:.2f}" in done.stdout


@pytest.mark.slow
def test_loops_that_differ_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare loop with another λ is not the same mathematics, and bench notices."""

    class Wrong(BareLoop):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            self.optimizer.param_groups[0]["weight_decay"] *= 1.001

    config = small(tmp_path, "precisions=[fp32]", "batchnorms=[false]")
    monkeypatch.setattr(case, "BareLoop", Wrong)
    with pytest.raises(case.Unequal, match="different weights"):
        case.measure(config, pictures(100, 20, CPU), CPU, steps=2, rounds=1)


@pytest.mark.parametrize("batchnorm", [False, True])
def test_operations_are_counted_right(tmp_path: Path, batchnorm: bool) -> None:
    """The formula gives what PyTorch counts in a step.

    With batch-norm, that is of the plain network: ours does a little more for the statistics.
    """
    config = small(tmp_path, "precisions=[fp32]", f"batchnorms=[{batchnorm}]")
    model = network.build(config, (3, 32, 32), 10, 0, CPU)
    images = torch.zeros(6, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        scores = PlainCNN(model)(images) if batchnorm else model(images)
        cross_entropy(scores, torch.arange(6)).backward()
    assert step_flops(model, 6, (32, 32)) == counter.get_total_flops()


def test_ratio_is_paired() -> None:
    """A machine that is slow for a while slows both, and drops out."""
    assert ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == 2.0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("rounds=0",), "rounds must be at least 1"),
        (("precisions=[fp8]",), "precision=fp8 is not one of"),
        (("precisions=[tf32]", "device=cpu"), "precision=tf32 needs an NVIDIA GPU"),
    ],
)
def test_mistakes_are_told_in_a_line(
    run_command: Command, tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    done = run_command("bench", *SMALL, *overrides)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()
