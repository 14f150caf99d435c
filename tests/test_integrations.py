"""The callbacks in the real trainers, on digits: what they measure, and resuming."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from autol2 import AutoL2

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import lightning.pytorch as lightning
import transformers

from autol2.integrations import huggingface
from autol2.integrations import lightning as in_lightning
from autol2.rules.step_mean import StepMean

DIGITS = load_digits()
IMAGES = torch.tensor(DIGITS.images, dtype=torch.float32)[:640] / 16
LABELS = torch.tensor(DIGITS.target)[:640]
SETTINGS: dict[str, Any] = {"alpha": 5, "cooldown": 0.01, "initial_lambda": 0.01}


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_mean_over_batches() -> None:
    mean = StepMean()
    mean.add(torch.tensor(1.0), 0.5)
    mean.add(torch.tensor(3.0), torch.tensor(0.0, dtype=torch.float64))
    assert mean.take() == (2.0, 0.25, 2.0)
    mean.add(7.0, 1.0)
    assert mean.take() == (7.0, 1.0, 1.0)


# -------------------------------------------------------------------- Lightning


class Digits(lightning.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self, *, error: bool = True, manual: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.error, self.automatic_optimization = error, not manual
        self.seen: list[tuple[float, float]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Tensor]:
        scores = self.model(batch[0])
        loss = cross_entropy(scores, batch[1])
        error = (scores.argmax(1) != batch[1]).float().mean()
        self.seen.append((loss.item(), error.item()))
        return {"loss": loss, "error": error} if self.error else {"loss": loss}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(
    module: Digits,
    callback: object,
    folder: Path,
    epochs: int,
    *,
    accumulate: int = 1,
    **where: Any,
) -> Any:
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[callback],
        accumulate_grad_batches=accumulate,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=32)
    trainer.fit(module, loader, **where)
    return trainer


@pytest.mark.parametrize("protocol", ["corrected", "published"])
def test_lightning_decides_as_a_plain_loop(tmp_path: Path, protocol: Any) -> None:
    """The same λ at each step as AutoL2 fed with the means over the batches of each step."""
    module = Digits()
    callback = in_lightning.AutoL2Callback("combined", protocol=protocol, **SETTINGS)
    trainer = fit(module, callback, tmp_path, 3, accumulate=2)
    assert callback.auto_l2 is not None
    assert len(module.seen) == 60
    assert callback.auto_l2.last_step == trainer.global_step == 30

    plain = AutoL2(
        torch.optim.SGD(Digits().parameters(), lr=0.1),
        "combined",
        protocol=protocol,
        steps_per_epoch=10,
        **SETTINGS,
    )
    for first, second in zip(module.seen[::2], module.seen[1::2], strict=True):
        means = torch.tensor([first, second]).mean(0)
        plain.step(means[0], means[1])
    ours, expected = callback.auto_l2.state_dict(), plain.state_dict()
    assert ours["controller"]["count"] == expected["controller"]["count"] == 6
    assert ours["controller"]["lambda"] == expected["controller"]["lambda"]
    assert ours["controller"]["minimum"] == pytest.approx(expected["controller"]["minimum"])
    logged = float(trainer.callback_metrics["l2_lambda"])
    assert logged == pytest.approx(plain.get_last_lambda())


def test_lightning_resumes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="autol2")
    whole, whole_callback = Digits(), in_lightning.AutoL2Callback("combined", **SETTINGS)
    fit(whole, whole_callback, tmp_path, 6)
    steps = [int(r.getMessage().split()[1][:-1]) for r in caplog.records if r.name == "autol2"]
    assert min(steps) < 60 < max(steps)  # λ moves before and after
    half = in_lightning.AutoL2Callback("combined", **SETTINGS)
    trainer = fit(Digits(), half, tmp_path, 3)
    assert trainer.global_step == 60
    trainer.save_checkpoint(tmp_path / "half.ckpt")

    resumed, callback = Digits(), in_lightning.AutoL2Callback("combined", **SETTINGS)
    fit(resumed, callback, tmp_path, 6, ckpt_path=tmp_path / "half.ckpt")
    assert callback.auto_l2 is not None
    assert whole_callback.auto_l2 is not None
    assert callback.auto_l2.state_dict() == whole_callback.auto_l2.state_dict()
    assert same(resumed, whole)


def test_lightning_refusals(tmp_path: Path) -> None:
    error = in_lightning.MisconfigurationException
    with pytest.raises(error, match="automatic optimization"):
        fit(Digits(manual=True), in_lightning.AutoL2Callback(), tmp_path, 1)
    with pytest.raises(ValueError, match="alpha must be"):
        fit(Digits(), in_lightning.AutoL2Callback(alpha=-1), tmp_path, 1)


# -------------------------------------------------------------------- Hugging Face


def resnet() -> Any:
    torch.manual_seed(0)
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            num_channels=1,
            num_labels=10,
            embedding_size=8,
            hidden_sizes=[8, 16],
            depths=[1, 1],
            layer_type="basic",
        )
    )


EXAMPLES = [
    {"pixel_values": image.unsqueeze(0), "labels": int(label)}
    for image, label in zip(IMAGES, LABELS, strict=True)
]


def hugging(callback: object, folder: Path, **arguments: Any) -> Any:
    arguments = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **arguments,
    }
    return transformers.Trainer(
        model=resnet(),
        args=transformers.TrainingArguments(output_dir=str(folder), **arguments),
        train_dataset=EXAMPLES,
        callbacks=[callback],
    )


class Recording(huggingface.AutoL2Callback):
    """Keeps what it measures."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.seen: dict[int, list[Tensor]] = {}

    def measure(self, inputs: Any, outputs: Any) -> Any:
        loss, error, count = super().measure(inputs, outputs)
        assert error is not None
        assert count == 16
        assert self.auto_l2 is not None
        self.seen.setdefault(self.auto_l2.last_step, []).append(torch.stack([loss, error]))
        return loss, error, count


@pytest.mark.parametrize("protocol", ["corrected", "published"])
def test_hugging_face_decides_as_a_plain_loop(tmp_path: Path, protocol: Any) -> None:
    callback = Recording("combined", protocol=protocol, **SETTINGS)
    trainer = hugging(callback, tmp_path)
    trainer.train()
    assert callback.auto_l2 is not None
    measured = [step for step in range(60) if step == 0 or step % 5 == 4]
    assert list(callback.seen) == measured  # and no other forward pass was looked at
    assert not trainer.model._forward_hooks
    assert callback.auto_l2.last_step == trainer.state.global_step == 60
    plain = AutoL2(
        torch.optim.SGD(resnet().parameters(), lr=0.1),
        "combined",
        protocol=protocol,
        steps_per_epoch=20,
        **SETTINGS,
    )
    for step in range(60):
        pair = callback.seen.get(step, [torch.zeros(2)] * 2)
        plain.step(*torch.stack(pair).double().mean(0))
    ours, expected = callback.auto_l2.state_dict(), plain.state_dict()
    assert ours["controller"] == expected["controller"]
    assert plain.get_last_lambda() != SETTINGS["initial_lambda"]
    decays = {
        weight.dim() > 1: group["weight_decay"]
        for group in trainer.optimizer.param_groups
        for weight in group["params"]
    }
    assert decays == {True: 2 * plain.get_last_lambda(), False: 0.0}


@pytest.mark.parametrize("restore", [True, False])
def test_hugging_face_resumes_within_an_epoch(tmp_path: Path, restore: bool) -> None:
    def train(folder: str, **where: Any) -> tuple[huggingface.AutoL2Callback, Any]:
        callback = huggingface.AutoL2Callback("combined", protocol="published", **SETTINGS)
        trainer = hugging(
            callback,
            tmp_path / folder,
            save_strategy="steps",
            save_steps=27,
            restore_callback_states_from_checkpoint=restore,
        )
        trainer.train(**where)
        found = [
            one
            for one in trainer.callback_handler.callbacks
            if isinstance(one, huggingface.AutoL2Callback)
        ]
        assert len(found) == 1
        return found[0], trainer

    whole, whole_trainer = train("whole")
    resumed, trainer = train(
        "resumed", resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-27")
    )
    assert whole.auto_l2 is not None
    assert resumed.auto_l2 is not None
    assert resumed.auto_l2.state_dict() == whole.auto_l2.state_dict()
    assert same(trainer.model, whole_trainer.model)


def test_hugging_face_refusals(tmp_path: Path) -> None:
    plain = transformers.TrainerCallback()
    hugging(plain, tmp_path, save_strategy="steps", save_steps=10, max_steps=10).train()
    with pytest.raises(ValueError, match="the checkpoint holds no state of AutoL2Callback"):
        hugging(huggingface.AutoL2Callback(), tmp_path, max_steps=20).train(
            resume_from_checkpoint=True
        )
    with pytest.raises(ValueError, match="no labels to compute one from"):
        hugging(huggingface.AutoL2Callback(), tmp_path, label_smoothing_factor=0.1).train()
    everything = huggingface.AutoL2Callback("fixed", fixed_lambda=0.1, all_parameters=True)
    trainer = hugging(everything, tmp_path, max_steps=1)
    trainer.train()
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.2, 0.2]
