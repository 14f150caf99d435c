"""The methods to compare with, and the controls that test why a schedule helps."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from autol2.config import Config
from autol2.data.dataset import Dataset, load
from autol2.errors import UserError
from autol2.models.initialization import select
from autol2.replay import _rule
from autol2.rules.cpr import CPR
from autol2.runs import checkpoint
from autol2.runs.identity import run_id
from autol2.train import train
from autol2.training import network
from autol2.training.trainer import Trainer, epoch_order

from .conftest import SMALL, Command, composed, few

CPU = torch.device("cpu")
STEPS_PER_EPOCH = 23  # 1437 images in batches of 64


def config(*overrides: str) -> Config:
    small = ["data=digits", "model.width=6", "model.hidden=10", "batch_size=64", "epochs=2"]
    return composed(*small, *overrides)


def build(config: Config) -> nn.Module:
    return network.build(config, (3, 32, 32), 10, 0, CPU)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(config().data)


def rows(folder: Path, name: str = "measurements") -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def advance(trainer: Trainer, steps: int) -> Trainer:
    for _ in range(steps):
        trainer.train_step()
        if trainer.evaluation_pending:
            trainer.evaluate()
    return trainer


def trained(cfg: Config, digits: Dataset, folder: Path, steps: int) -> Trainer:
    trainer = Trainer(cfg, digits, folder, CPU)
    trainer.begin()
    advance(trainer, steps).read_back()
    trainer.close()
    return trainer


def plainly(
    cfg: Config, digits: Dataset, make: type[torch.optim.Optimizer], steps: int, **settings: float
) -> nn.Module:
    """The same network, images and order, under an optimizer of torch."""
    model = build(cfg)
    model.load_state_dict(Trainer(cfg, digits, Path("unused"), CPU).model.state_dict())
    optimizer = make(model.parameters(), lr=cfg.lr, **settings)  # type: ignore[call-arg]
    model.train()
    for step in range(steps):
        epoch, position = divmod(step, STEPS_PER_EPOCH)
        index = epoch_order(1437, 0, epoch)[position * 64 : (position + 1) * 64]
        optimizer.zero_grad()
        cross_entropy(
            model(digits.normalize(digits.train_images[index])), digits.train_labels[index]
        ).backward()
        optimizer.step()
    return model


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


# -------------------------------------------------------------------- peers


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_cosine(digits: Dataset, tmp_path: Path, optimizer: str) -> None:
    """Each step is trained with DINO's schedule at its index, and that is what is recorded."""
    first, last, steps = 0.02, 0.2, 2 * STEPS_PER_EPOCH
    cfg = config(
        "method=cosine",
        f"optimizer={optimizer}",
        f"method.initial_lambda={first}",
        f"method.final_lambda={last}",
    )
    trainer = Trainer(cfg, digits, tmp_path, CPU)
    used = []
    step = trainer.optimizer.step

    def spy() -> None:
        used.append(trainer.optimizer.param_groups[0]["weight_decay"])
        step()

    trainer.optimizer.step = spy  # type: ignore[method-assign, assignment]
    trainer.begin()
    advance(trainer, steps).close()
    dino = [
        2 * last + 0.5 * (2 * first - 2 * last) * (1 + math.cos(math.pi * i / steps))
        for i in range(steps)
    ]
    assert used == pytest.approx(dino, rel=1e-12)
    measured = [4, 9, 14, 19, 27, 32, 37, 42]
    recorded = [float(row["lambda"]) for row in rows(tmp_path)]
    assert recorded == pytest.approx([dino[i] / 2 for i in measured], rel=1e-12)
    assert float(rows(tmp_path, "epochs")[-1]["lambda"]) == pytest.approx(last)


def test_decoupled_is_adamw(digits: Dataset, tmp_path: Path) -> None:
    cfg = config("method=decoupled", "fixed_lambda=0.05", "lr=0.01")
    trainer = trained(cfg, digits, tmp_path, 30)
    assert_same(trainer.model, plainly(cfg, digits, torch.optim.AdamW, 30, weight_decay=0.1))
    assert {float(row["lambda"]) for row in rows(tmp_path)} == {0.05}


def test_cpr(digits: Dataset, tmp_path: Path) -> None:
    """Weights are held at their bound; the recorded λ is that of the multipliers."""
    options = ("method.kappa_init=dependent", "method.kappa_init_param=0.5", "lr=0.003")
    cfg = config("method=cpr", *options, "epochs=6")
    start = Trainer(cfg, digits, tmp_path / "start", CPU)
    before = {name: float(weight.detach().norm() ** 2) for name, (weight,) in start.layers.items()}
    trainer = trained(cfg, digits, tmp_path, 6 * STEPS_PER_EPOCH)
    for name, (weight,) in trainer.layers.items():
        assert float(weight.detach().norm() ** 2) < 0.8 * before[name]
    recorded = rows(tmp_path)
    assert max(float(row["lambda"]) for row in recorded) > 0
    for row in recorded:
        penalty = float(row["lambda"]) * float(row["weight_norm"]) ** 2
        assert float(row["penalty"]) == pytest.approx(penalty, rel=1e-5)
    optimizer = trainer.optimizer
    assert isinstance(optimizer, torch.optim.Optimizer)
    penalty = sum(
        optimizer.state[weight]["lagmul"].item() / cfg.lr * float(weight.detach().norm() ** 2)
        for (weight,) in trainer.layers.values()
    )
    everything = sum(float(one.detach().norm() ** 2) for one in trainer.model.parameters())
    assert trainer.lambda_ == pytest.approx(penalty / everything, rel=1e-5)


def test_cpr_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pytorch_cpr" else find(name)
    )
    wanted = config("method=cpr")  # the machine that trains may have it
    with pytest.raises(UserError, match="pip install pytorch-cpr"):
        train(wanted)


@pytest.mark.parametrize(
    "options",
    few(
        [
            "method=cosine optimizer=adamw",
            "method=cpr method.kappa_init=warm_start method.kappa_init_param=10",
            "method=advance optimizer=adamw control.penalized=weights",
            "method=cosine",
            "method=decoupled",
            "method=fixed control.pulse_height=3 control.pulse_length=30",
            "method=auto_l2 control.parameters=convolutions control.lr_factor=3",
        ],
        3,
    ),
)
def test_resume_is_exact(digits: Dataset, tmp_path: Path, options: str) -> None:
    """Through a checkpoint on disk, inside an epoch and between two measurements."""
    cfg = config(*options.split(), "batchnorm=on")
    whole, half = tmp_path / "whole", tmp_path / "half"
    for folder in (whole, half):
        folder.mkdir()
    expected = trained(cfg, digits, whole, 2 * STEPS_PER_EPOCH)

    first = Trainer(cfg, digits, half, CPU)
    first.begin()
    checkpoint.save(half, advance(first, 28).state_dict())
    first.close()
    second = Trainer(cfg, digits, half, CPU)
    assert checkpoint.restore(half, second.load_state_dict, pytest.fail)
    assert second.step == 28
    advance(second, 2 * STEPS_PER_EPOCH - 28).read_back()
    second.close()
    for name in ("measurements.csv", "epochs.csv"):
        assert (half / name).read_bytes() == (whole / name).read_bytes()
    for ours, theirs in zip(second.parameters, expected.parameters, strict=True):
        assert torch.equal(ours, theirs)


# -------------------------------------------------------------------- controls


def test_selected_parameters() -> None:
    model = build(config("batchnorm=on"))
    names = {parameter: name for name, parameter in model.named_parameters()}
    convolutions = {"conv1.weight", "conv2.weight"}
    assert {names[one] for one in select(model, "convolutions")} == convolutions
    dense = {"dense1.weight", "dense2.weight"}
    assert {names[one] for one in select(model, "weights")} == convolutions | dense
    assert select(model, "all") == set(model.parameters())


@pytest.mark.parametrize("which", ["all", "weights", "convolutions"])
def test_scale(which: str) -> None:
    plain = build(config("batchnorm=on"))
    options = ("batchnorm=on", "control.scale=0.084", f"control.parameters={which}")
    scaled = build(config(*options))
    chosen = select(scaled, which)
    for before, after in zip(plain.parameters(), scaled.parameters(), strict=True):
        factor = 0.084 if after in chosen else 1.0
        torch.testing.assert_close(after, before * factor, rtol=0, atol=0)


def test_unpenalized_parameters(digits: Dataset, tmp_path: Path) -> None:
    """Biases and batch-norm's parameters follow the loss alone; the penalty leaves them out."""
    lambda_, steps = 0.05, 25
    options = ("method=fixed", f"fixed_lambda={lambda_}", "batchnorm=on")
    cfg = config(*options, "control.penalized=weights")
    trainer = trained(cfg, digits, tmp_path, steps)
    model = build(cfg)
    model.load_state_dict(Trainer(cfg, digits, tmp_path / "start", CPU).model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg.lr)
    model.train()
    for step in range(steps):
        epoch, position = divmod(step, STEPS_PER_EPOCH)
        index = epoch_order(1437, 0, epoch)[position * 64 : (position + 1) * 64]
        loss = cross_entropy(
            model(digits.normalize(digits.train_images[index])), digits.train_labels[index]
        )
        penalty = lambda_ * sum(one.square().sum() for one in select(model, "weights"))
        optimizer.zero_grad()
        (loss + penalty).backward()
        if (position + 1) % 5 == 0:
            row = next(
                r
                for r in rows(tmp_path)
                if (r["epoch"], r["step"]) == (str(epoch), str(position + 1))
            )
            assert float(row["penalty"]) == pytest.approx(float(penalty), rel=1e-4)
        optimizer.step()
    assert_same(trainer.model, model)


def test_matched_learning_rate_does_what_rescaling_does(digits: Dataset, tmp_path: Path) -> None:
    """Below batch-norm only lr/‖w‖² counts: scale 1/2 is a learning rate of 4 times."""
    losses = {}
    for name, option in {
        "plain": "control.scale=1",
        "scaled": "control.scale=0.5",
        "matched": "control.lr_factor=4",
    }.items():
        cfg = config(
            "method=fixed",
            "fixed_lambda=1e-2",
            "batchnorm=on",
            "control.parameters=convolutions",
            option,
        )
        (tmp_path / name).mkdir()
        trainer = Trainer(cfg, digits, tmp_path / name, CPU)
        for norm in (trainer.model.norm1, trainer.model.norm2):
            norm.eps = 1e-12  # what keeps batch-norm from being exactly scale-invariant
        trainer.begin()
        advance(trainer, STEPS_PER_EPOCH).read_back()
        trainer.close()
        losses[name] = [float(row["train_loss"]) for row in rows(tmp_path / name)]
    assert losses["matched"] == pytest.approx(losses["scaled"], rel=1e-4)
    assert losses["plain"] != pytest.approx(losses["scaled"], rel=1e-3)
    rates = {name: rows(tmp_path / name, "epochs")[0] for name in losses}
    for layer in ("conv1", "conv2"):
        key = f"effective_lr_{layer}"
        assert float(rates["matched"][key]) == pytest.approx(float(rates["scaled"][key]), rel=1e-3)


def test_pulse(digits: Dataset, tmp_path: Path) -> None:
    options = ("control.pulse_height=2", "control.pulse_length=12")
    cfg = config("method=fixed", "fixed_lambda=1e-4", *options)
    trained(cfg, digits, tmp_path, STEPS_PER_EPOCH)
    recorded = [(int(row["step"]), float(row["lambda"])) for row in rows(tmp_path)]
    assert recorded == [(5, 2.0), (10, 2.0), (15, 1e-4), (20, 1e-4)]
    norms = [float(row["weight_norm"]) for row in rows(tmp_path)]
    assert norms[1] / norms[0] == pytest.approx((1 - 0.01 * 2 * 2) ** 5, rel=0.02)


# -------------------------------------------------------------------- identity and refusals


def test_identity() -> None:
    """Runs differ where their numbers do, and not by options that are not used."""
    different = [
        ("method=fixed",),
        ("method=fixed", "optimizer=adamw"),
        ("method=fixed", "control.scale=0.5"),
        ("method=fixed", "control.scale=0.5", "control.parameters=convolutions"),
        ("method=fixed", "control.pulse_length=5"),
        ("method=fixed", "control.penalized=weights"),
        ("method=cosine",),
        ("method=cosine", "method.final_lambda=0.1"),
        ("method=decoupled",),
        ("method=cpr",),
        ("method=cpr", "method.kappa_init=dependent"),
    ]
    assert len({run_id(config(*options)) for options in different}) == len(different)
    for options in (
        (
            "method=cosine",
            "fixed_lambda=3",
            "alpha=9",
            "protocol.lambda_max=2",
        ),
        ("method=cpr", "fixed_lambda=3", "method.kappa_init_param=7"),
        ("method=advance", "control.parameters=weights", "control.pulse_height=7"),
        ("method=decoupled", "alpha=9", "protocol.lambda_max=2"),
    ):
        assert run_id(config(*options)) == run_id(config(options[0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("method=decoupled", "optimizer=sgd"), "needs optimizer=adamw"),
        (("method=cpr", "optimizer=sgd"), "needs optimizer=adamw"),
        (("optimizer.momentum=1",), "optimizer.momentum must lie in"),
        (("method=cpr", "method.kappa_init=best"), "not one of inflection_point"),
        (("method=cpr", "control.penalized=weights"), "chooses what it penalises"),
        (("method=advance", "control.pulse_length=3"), "needs a method with a fixed λ"),
        (("control.scale=0",), "control.scale must be from 1e-6 to 1e6, not 0"),
        (("control.lr_factor=-1",), "control.lr_factor must be from 1e-6 to 1e6, not -1"),
        (("control.pulse_height=-1",), "control.pulse_height must be"),
        (("control.parameters=some",), "not one of all, weights, convolutions"),
        (("method=cosine", "method.final_lambda=-1"), "method.final_lambda must be"),
    ],
)
def test_refusals(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(*options)


def test_peers_cannot_be_replayed(run_command: Command, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("epoch,step,lambda,train_loss,train_accuracy\n0,5,0.1,2.3,10\n")
    done = run_command("replay", f"trace={trace}", "method=cosine")
    assert done.returncode == 2
    assert "does not use measurements" in done.stderr
    assert "Traceback" not in done.stderr


# -------------------------------------------------------------------- the study


@pytest.mark.slow
def test_explain_study(run_command: Command, tmp_path: Path) -> None:
    """Composed and run, all eight arms, on digits; done again, it does nothing again."""
    arguments = ("-m", "experiment=explain", "seed=0", *SMALL, "study=explain")
    done = run_command("train", *arguments)
    assert done.returncode == 0, done.stderr
    runs = {
        path.parent.name: json.loads(path.read_text())
        for path in (tmp_path / "outputs" / "explain").glob("*/run.json")
    }
    assert len(runs) == 8
    assert {state["status"] for state in runs.values()} <= {"completed", "diverged"}
    assert all(state["config"]["batchnorm"]["enabled"] for state in runs.values())
    controls = [state["config"]["control"] for state in runs.values()]
    assert sorted(control["scale"] for control in controls).count(0.084) == 2
    assert sum(control["pulse_length"] > 0 for control in controls) == 1
    assert sum(control["lr_factor"] > 1 for control in controls) == 1
    assert sum(control["penalized"] == "weights" for control in controls) == 2
    pulse = next(name for name in runs if "pulse" in name)
    recorded = [float(row["lambda"]) for row in rows(tmp_path / "outputs" / "explain" / pulse)]
    assert recorded[:3] == [10, 10, 1e-4]
    assert "8 runs: 8 done" in run_command("train", *arguments).stdout


def test_cpr_finds_its_bound() -> None:
    """With the default, at the inflection point of the weights' norm; the same code on a GPU."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 2))
    circumstances: Any = SimpleNamespace(lr=0.01)
    optimizer, policy = CPR().build(
        circumstances,
        model,
        lambda: torch.optim.AdamW(model.parameters(), betas=(0.8, 0.9), eps=1e-6),
    )
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert optimizer.defaults["eps"] == 1e-6
    images = torch.randn(64, 10)
    for _ in range(900):
        optimizer.zero_grad()
        cross_entropy(model(images), (images[:, 0] > 0).long()).backward()
        optimizer.step()
    assert optimizer.param_groups[0]["foreach"] is True
    assert min(float(state["kappa"]) for state in optimizer.state.values()) < 1000
    assert policy.lambda_at(900) > 0


def test_a_resumed_cpr_run_knows_its_last_lambda(digits: Dataset, tmp_path: Path) -> None:
    cfg = config("method=cpr", "method.kappa_init=warm_start", "method.kappa_init_param=10")
    first = Trainer(cfg, digits, tmp_path, CPU)
    first.begin()
    checkpoint.save(tmp_path, advance(first, 28).state_dict())
    first.close()
    second = Trainer(cfg, digits, tmp_path, CPU)
    assert checkpoint.restore(tmp_path, second.load_state_dict, pytest.fail)
    second.close()
    assert second.lambda_ == first.lambda_ > 0


def test_cpr_cannot_be_replayed() -> None:
    with pytest.raises(UserError, match="does not use measurements"):
        _rule(config("method=cpr"))
