"""A recorded step is the step: here all but the CUDA graph, which bench compares on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from autol2.config import Config
from autol2.data.dataset import Dataset, load
from autol2.training.graph import Record, RecordedGradients, _equal, rehearse
from autol2.training.trainer import Trainer

from .conftest import composed, few

CPU = torch.device("cpu")
STEPS = 75
"""More than three epochs of 23 steps, the last of which is smaller."""


def config(*overrides: str) -> Config:
    small = ["data=digits", "model.width=6", "model.hidden=10", "batch_size=64", "epochs=4"]
    return composed(*small, *overrides)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(config().data)


def recorder(parameters: Sequence[nn.Parameter]) -> Record:
    """What `record_cuda_graph` does, less the graph: gradients lie where they first did."""

    def record(work: Callable[[], None], changes: Sequence[Tensor]) -> Callable[[], None]:
        rehearse(work, changes)
        kept = [parameter.grad for parameter in parameters]

        def repeat() -> None:
            work()
            for place, parameter in zip(kept, parameters, strict=True):
                assert place is not None
                assert parameter.grad is not None
                place.copy_(parameter.grad)
                parameter.grad = place

        return repeat

    return record


def trained(trainer: Trainer) -> Trainer:
    trainer.begin()
    for _ in range(STEPS):
        trainer.train_step()
        if trainer.evaluation_pending:
            trainer.evaluate()
    trainer.read_back()
    trainer.close()
    return trainer


@pytest.mark.parametrize("batchnorm", ["on", "off"])
@pytest.mark.parametrize("method", few(["advance", "fixed", "cosine"], 1))
@pytest.mark.parametrize("precision", few(["fp32", "bf16"], 1))
def test_recorded_step_gives_the_same_bits(
    digits: Dataset, tmp_path: Path, method: str, batchnorm: str, precision: str
) -> None:
    """λ moves, figures are noted and both batch sizes come, through tensors that stay."""
    cfg = config(f"method={method}", f"batchnorm={batchnorm}", f"precision={precision}")
    plain, recorded = (tmp_path / name for name in ("plain", "recorded"))
    plain.mkdir()
    recorded.mkdir()
    one, other = Trainer(cfg, digits, plain, CPU), Trainer(cfg, digits, recorded, CPU)
    step = RecordedGradients(
        other._gradients,
        other.parameters,
        other.changing,
        pytest.fail,
        recorder(other.parameters),
    )
    other.gradients = step
    trained(one)
    trained(other)
    theirs = other.model.state_dict()
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    for name in ("measurements.csv", "epochs.csv"):
        assert (plain / name).read_bytes() == (recorded / name).read_bytes()
    rows = (plain / "measurements.csv").read_text().splitlines()
    assert method == "fixed" or len({row.split(",")[2] for row in rows[1:]}) > 1  # λ did move
    assert sorted(step._recordings) == [1437 % 64, 64]


class Seen(TorchDispatchMode):
    """Collects the names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "recipe",
    [
        ("batchnorm=on",),
        ("batchnorm=off",),
        ("augmentation=flip_crop_mixup", "loss.label_smoothing=0.1"),
    ],
)
def test_step_never_waits_for_the_device(
    digits: Dataset, tmp_path: Path, recipe: tuple[str, ...]
) -> None:
    """None of its operators has a result that Python, or the next one's shape, must wait for."""
    trainer = Trainer(config(*recipe, "precision=bf16"), digits, tmp_path, CPU)
    waiting = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}
    with Seen() as seen:
        trainer._gradients(torch.arange(64), trainer._drawn(64), torch.tensor([3]))
    assert "aten::convolution_backward" in seen.names
    assert not seen.names & waiting
    with Seen() as seen:
        float(trainer.losses[3])
    assert seen.names & waiting  # it would have been noticed


def test_equal_is_equal_bit_for_bit_but_for_nan() -> None:
    nan, inf = float("nan"), float("inf")
    assert _equal(torch.tensor([nan, inf, 1.0]), torch.tensor([nan, inf, 1.0]))
    assert not _equal(torch.tensor([nan]), torch.tensor([0.0]))
    assert not _equal(torch.tensor([inf]), torch.tensor([torch.finfo().max]))
    assert not _equal(torch.tensor([-inf]), torch.tensor([inf]))
    assert not _equal(torch.zeros(1), torch.zeros(2))
    assert _equal(torch.arange(3), torch.arange(3))
