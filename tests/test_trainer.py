"""The loop does what the paper's equations say, measured against plain implementations of them."""

from __future__ import annotations

import csv
import math
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, max_pool2d

from autol2.config import Config
from autol2.data.dataset import Dataset, load
from autol2.models.cnn import CNN
from autol2.models.kernels.fused_cnn import FusedCNN
from autol2.recipe.optimizers.sgd import SGD
from autol2.training import network
from autol2.training.optimizer import apply_lambda, groups, learning_rate
from autol2.training.trainer import Diverged, Trainer, epoch_order

from .conftest import PROJECT, composed, few

CPU = torch.device("cpu")


def config(*overrides: str) -> Config:
    small = ["data=digits", "model.width=6", "model.hidden=10", "batch_size=64", "epochs=2"]
    return composed(*small, *overrides)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(config().data)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def trained(trainer: Trainer, steps: int) -> Trainer:
    trainer.begin()
    for _ in range(steps):
        trainer.train_step()
        if trainer.evaluation_pending:
            trainer.evaluate()
    trainer.read_back()
    trainer.close()
    return trainer


def build(config: Config, seed: int = 0) -> nn.Module:
    return network.build(config, (3, 32, 32), 10, seed, CPU)


def plain_scores(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The paper's network as section 4 writes it: convolution, norm, ReLU, pool; whole images."""
    layers = dict(model.named_children())
    x = (images / 255 - 0.5) / 0.5
    for i in ("1", "2"):
        x = layers[f"conv{i}"](x)
        x = max_pool2d(torch.relu(layers[f"norm{i}"](x) if f"norm{i}" in layers else x), 2)
    return layers["dense2"](torch.relu(layers["dense1"](x.flatten(1))))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("batchnorm", ["on", "off"])
def test_weight_decay_is_the_penalty(digits: Dataset, tmp_path: Path, batchnorm: str) -> None:
    """The trajectory is that of SGD on loss + λ·Σθ², all parameters included, in fp64."""
    lambda_, steps = 0.03, 30
    cfg = config("method=fixed", f"fixed_lambda={lambda_}", f"batchnorm={batchnorm}", "lr=0.05")
    trainer = Trainer(cfg, digits, tmp_path, CPU)
    model = build(cfg)
    model.load_state_dict(trainer.model.state_dict())
    model.double()
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg.lr)
    trained(trainer, steps)

    size = cfg.batch_size
    expected = []
    for step in range(steps):
        epoch, position = divmod(step, 23)  # 1437 images in batches of 64
        index = epoch_order(1437, 0, epoch)[position * size : (position + 1) * size]
        images, labels = digits.train_images[index].double(), digits.train_labels[index]
        scores = plain_scores(model, images)
        loss = cross_entropy(scores, labels)
        squares = sum(parameter.square().sum() for parameter in model.parameters())
        if (position + 1) % 5 == 0:
            accuracy = (scores.argmax(1) == labels).double().mean().item() * 100
            expected.append((epoch, position + 1, loss.item(), accuracy, lambda_ * squares.item()))
        optimizer.zero_grad()
        (loss + lambda_ * squares).backward()
        optimizer.step()

    # To rounding: 1e-7 of the weights' length, 3e-7 with batch-norm. Leaving the penalty out of the
    # biases alone, or a factor ½, makes a difference of over 1e-3.
    ours, plain = (
        torch.cat([parameter.detach().flatten() for parameter in one.parameters()])
        for one in (trainer.model, model)
    )
    assert float((ours - plain).norm() / plain.norm()) < 1e-4
    recorded = rows(tmp_path / "measurements.csv")
    assert len(recorded) == len(expected) == 5
    for row, (epoch, position, loss_, accuracy, penalty) in zip(recorded, expected, strict=True):
        assert (int(row["epoch"]), int(row["step"])) == (epoch, position)
        assert float(row["lambda"]) == lambda_
        assert float(row["train_loss"]) == pytest.approx(loss_, rel=1e-5)
        assert float(row["train_accuracy"]) == accuracy
        assert float(row["penalty"]) == pytest.approx(penalty, rel=1e-5)
        assert row["event"] == "none"


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("batchnorm", [True, False])
@pytest.mark.parametrize(("side", "width"), [(10, 7), (31, 7), (32, 7), (33, 7), (32, 130)])
def test_network_equals_the_plain_one(
    digits: Dataset, batchnorm: bool, side: int, width: int, fused: bool
) -> None:
    torch.manual_seed(0)
    model = CNN(width, 11).build((3, side, side), 10, batchnorm=batchnorm)
    if fused:
        model = FusedCNN(model)
    images = torch.randint(0, 256, (9, 3, side, side), dtype=torch.uint8)
    for train in (True, False):
        model.train(train)
        gradients = []
        for scores_of in (
            lambda x: model(digits.normalize(x)),
            lambda x: plain_scores(model, x),
        ):
            model.zero_grad()
            scores = scores_of(images)
            scores.square().sum().backward()
            gradients.append([scores.detach(), *(p.grad.clone() for p in model.parameters())])
        for ours, plain in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_initialization_follows_the_protocol() -> None:
    published = build(config("model.width=64", "model.hidden=500"), seed=1)
    paper = build(config("protocol=corrected", "model.width=64", "model.hidden=500"), seed=1)
    for model in (published, paper):
        for conv, fan_in in ((model.conv1, 27), (model.conv2, 576)):
            assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)
    fan_in = 64 * 36
    bound = 1 / math.sqrt(fan_in)  # PyTorch's default: uniform within ±1/√fan_in
    assert bound * 0.99 < published.dense1.weight.abs().max().item() <= bound
    assert 0 < published.dense1.bias.abs().max().item() <= bound
    assert published.conv1.bias.abs().max().item() > 0
    assert paper.dense1.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.01)
    for name, parameter in paper.named_parameters():
        assert not name.endswith("bias") or parameter.count_nonzero() == 0


def test_order_is_a_fresh_permutation_each_epoch() -> None:
    orders = [tuple(epoch_order(50, seed, epoch).tolist()) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert torch.equal(epoch_order(50, 1, 1), epoch_order(50, 1, 1))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), [(0, 23), (1, 23), (2, 23)]),
        (("evaluation.every_epochs=2",), [(1, 23), (2, 23)]),
        (
            ("evaluation.every_steps=10",),
            [(e, s) for e in range(3) for s in (10, 20, 23)],
        ),
    ],
)
def test_evaluations_happen_when_asked(
    digits: Dataset, tmp_path: Path, options: tuple[str, ...], expected: list[tuple[int, int]]
) -> None:
    trainer = trained(Trainer(config("epochs=3", *options), digits, tmp_path, CPU), 69)
    recorded = rows(tmp_path / "epochs.csv")
    assert [(int(row["epoch"]), int(row["step"])) for row in recorded] == expected
    model = trainer.model.eval()
    with torch.no_grad():
        scores = plain_scores(model, digits.test_images)
        loss = cross_entropy(scores, digits.test_labels).item()
    hits = (scores.argmax(1) == digits.test_labels).sum().item()
    assert float(recorded[-1]["test_accuracy"]) == 100 * hits / 360
    assert float(recorded[-1]["test_loss"]) == pytest.approx(loss, rel=1e-5)
    norm = nn.utils.get_total_norm([model.conv2.weight.detach()]).item()
    assert float(recorded[-1]["norm_conv2"]) == pytest.approx(norm, rel=1e-6)
    assert float(recorded[-1]["effective_lr_conv2"]) == pytest.approx(0.01 / norm**2, rel=1e-6)


def test_a_higher_learning_rate_leaves_the_decay_per_step_as_it_is() -> None:
    """lr·λ is the same with ``control.lr_factor`` and without, of the layers that it is on."""
    options = config("batchnorm=on", "control.parameters=convolutions", "control.lr_factor=4")
    model = build(options)
    optimizer = options.optimizer.build(groups(options, model), options.lr)
    apply_lambda(optimizer, 0.03)
    convolutions = {layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d)}
    for group in optimizer.param_groups:
        factor = 4 if convolutions & set(group["params"]) else 1
        assert group["lr"] == options.lr * factor
        assert group["lr"] * group["weight_decay"] == pytest.approx(options.lr * 0.06)
    assert learning_rate(optimizer) == pytest.approx(options.lr)
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize("batch", [50, 250])
def test_an_evaluation_changes_nothing_of_the_network(
    digits: Dataset, tmp_path: Path, batch: int
) -> None:
    """Batch-norm counts with its running statistics there, whatever else is in the batch."""
    options = config("batchnorm=on", f"evaluation.batch_size={batch}")
    trainer = Trainer(options, digits, tmp_path, CPU)
    trainer.begin()
    for _ in range(3):
        trainer.train_step()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.evaluate()
    trainer.close()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    trainer.model.eval()
    with torch.no_grad():
        scores = trainer.model(digits.normalize(digits.test_images))
    (row,) = rows(tmp_path / "epochs.csv")
    loss = float(cross_entropy(scores, digits.test_labels))
    assert float(row["test_loss"]) == pytest.approx(loss, rel=1e-5)
    correct = float((scores.argmax(1) == digits.test_labels).double().mean())
    assert float(row["test_accuracy"]) == pytest.approx(100 * correct, abs=0.3)


def test_train_figures_of_an_epoch_are_those_of_its_batches(
    digits: Dataset, tmp_path: Path
) -> None:
    trained(Trainer(config("method.k=1", "epochs=1"), digits, tmp_path, CPU), 23)
    sizes = [64] * 22 + [1437 - 22 * 64]
    measured = rows(tmp_path / "measurements.csv")
    (epoch,) = rows(tmp_path / "epochs.csv")
    for column in ("train_loss", "train_accuracy"):
        mean = sum(float(r[column]) * n for r, n in zip(measured, sizes, strict=True)) / 1437
        assert float(epoch[column]) == pytest.approx(mean, rel=1e-12)


def test_a_loss_that_is_not_finite_ends_the_run(digits: Dataset, tmp_path: Path) -> None:
    trainer = Trainer(config("method=fixed", "fixed_lambda=1e4", "lr=1"), digits, tmp_path, CPU)
    trainer.begin()

    def train() -> None:
        for _ in range(46):
            trainer.train_step()

    with pytest.raises(Diverged) as diverged:
        train()
    trainer.close()
    first = next(step for step, loss in enumerate(trainer.losses.tolist(), 1) if loss != loss)
    assert diverged.value.step == first
    assert diverged.value.lambda_ == 1e4
    last = rows(tmp_path / "measurements.csv")[-1]
    assert last["event"] == "diverged"
    assert first <= int(last["step"]) < first + 5


def test_lambda_changes_act_from_the_next_step(digits: Dataset, tmp_path: Path) -> None:
    cfg = config("method=auto_l2", "protocol=corrected", "lr=0.05", "method.k=1")
    trainer = Trainer(cfg, digits, tmp_path, CPU)
    trainer.begin()
    used = []
    for _ in range(40):
        used.append(trainer.optimizer.param_groups[0]["weight_decay"])
        trainer.train_step()
    trainer.close()
    recorded = [2 * float(row["lambda"]) for row in rows(tmp_path / "measurements.csv")]
    assert recorded == used
    assert len(set(used)) > 1


@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
def test_sgd_is_that_of_torch(weight_decay: float) -> None:
    torch.manual_seed(0)
    ours = [torch.randn(7, 5), torch.randn(3)]
    theirs = [parameter.clone() for parameter in ours]
    made = SGD().build([{"params": ours, "decay": 1.0}], 0.1)
    apply_lambda(made, weight_decay / 2)
    optimizers = made, torch.optim.SGD(theirs, 0.1, weight_decay=weight_decay)
    for _ in range(20):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is what is set up")
@pytest.mark.parametrize("tune", few([True, False], 1))
def test_freed_memory_is_kept_unless_told_otherwise(tmp_path: Path, tune: bool) -> None:
    """After the first step, 64 MB that are freed and taken again cost no page faults."""
    program = f"""
import ctypes, resource, sys
from pathlib import Path
from tests.test_trainer import CPU, Trainer, config, load

one = config("cpu_kernels={tune}")
trainer = Trainer(one, load(one.data), Path(sys.argv[1]), CPU)
trainer.begin()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def take():
    memory = ctypes.c_void_p(libc.malloc(2**26))
    libc.memset(memory, 1, 2**26)
    libc.free(memory)

def faults():
    take()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        take()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
trainer.train_step()
print(faults())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = map(int, done.stdout.split())
    assert before > 1000
    assert (after < 100) == tune, after
