"""The callbacks in the real trainers, on digits: what they measure, and resuming."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from autol2 import AutoL2, CosineWeightDecay

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import lightning.pytorch as lightning
import transformers

from autol2.integrations import huggingface
from autol2.integrations import lightning as in_lightning
from autol2.integrations import measured as measured_example
from autol2.integrations.batch_measure import Unmeasurable, measure_batch
from autol2.rules.step_mean import StepMean

from .conftest import PROJECT, few

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


@pytest.mark.parametrize("protocol", few(["corrected", "published"], 1))
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


@pytest.mark.parametrize("restore", few([True, False], 1))
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


def test_hugging_face_says_what_is_missing(tmp_path: Path) -> None:
    """Labels that the Trainer takes away can be handed in by hand."""

    def loss_func(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        loss = cross_entropy(outputs["logits"], labels)
        if add:
            callback.add(loss, (outputs["logits"].argmax(-1) != labels).float().mean(), len(labels))
        return loss

    for add in (False, True):
        callback = huggingface.AutoL2Callback()
        trainer = hugging(callback, tmp_path, max_steps=6)
        trainer.compute_loss_func = loss_func
        if add:
            trainer.train()
            assert callback.auto_l2 is not None
            assert callback.auto_l2.state_dict()["controller"]["count"] == 1
        else:
            with pytest.raises(ValueError, match=r"Call the callback's add\(loss, error\)"):
                trainer.train()
        assert not trainer.model._forward_hooks


def test_hugging_face_leaves_no_hook_behind(tmp_path: Path) -> None:
    class Stop(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    trainer = hugging(huggingface.AutoL2Callback(), tmp_path)
    trainer.add_callback(Stop())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not trainer.model._forward_hooks


def test_hugging_face_restores_the_users_callback(tmp_path: Path) -> None:
    arguments = {"save_strategy": "steps", "save_steps": 6, "max_steps": 6}
    hugging(huggingface.AutoL2Callback("combined", **SETTINGS), tmp_path, **arguments).train()
    saved = (tmp_path / "checkpoint-6" / "trainer_state.json").read_text()
    assert "Infinity" not in saved
    assert "NaN" not in saved
    arguments |= {"max_steps": 8, "restore_callback_states_from_checkpoint": True}
    callback = huggingface.AutoL2Callback("combined", **SETTINGS)
    hugging(callback, tmp_path, **arguments).train(resume_from_checkpoint=True)
    assert callback.auto_l2 is not None
    assert callback.auto_l2.last_step == 8
    for settings, message in (
        ({"all_parameters": True}, "other parameter groups decayed"),
        ({"alpha": 7}, "alpha=5, not 7"),
    ):
        changed: dict[str, Any] = {**SETTINGS, **settings}
        callback = huggingface.AutoL2Callback("combined", **changed)
        with pytest.raises(ValueError, match=message):
            hugging(callback, tmp_path, **arguments).train(resume_from_checkpoint=True)
    accepting = huggingface.AutoL2Callback("combined", accept_changes=True, **changed)
    hugging(accepting, tmp_path, **arguments).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_hugging_face_spares_what_the_trainer_spares(tmp_path: Path, weight_decay: float) -> None:
    """T5's relative biases are 2-D, but belong to its group without decay."""
    config = transformers.T5Config(
        vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, pad_token_id=0,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config)
    examples = [{"input_ids": [1, 2, 3], "labels": [n % 9 + 1, 2]} for n in range(8)]
    callback = huggingface.AutoL2Callback("fixed", fixed_lambda=0.3)
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            str(tmp_path), max_steps=1, weight_decay=weight_decay, use_cpu=True, report_to="none",
            save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=examples,
        callbacks=[callback],
    )  # fmt: skip
    trainer.train()
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.6, 0.0]
    spared = trainer.optimizer.param_groups[1]["params"]
    assert max(weight.dim() for weight in spared) == 2


def test_one_process_of_its_own_is_not_reduced_over_others(tmp_path: Path) -> None:
    """A process group that is there for something else is none of the Trainer's."""
    callback = huggingface.AutoL2Callback("fixed", fixed_lambda=0.1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    try:
        hugging(callback, tmp_path, max_steps=1).train()
    finally:
        torch.distributed.destroy_process_group()
    assert isinstance(callback.auto_l2, AutoL2)
    assert callback.auto_l2.sync is False


@pytest.mark.filterwarnings("ignore")  # of torch's own, on a CPU
def test_hugging_face_does_not_spare_what_fsdp_has_flattened(tmp_path: Path) -> None:
    """Its parameters are 1-D, and have no names that the Trainer would know."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    try:
        config = transformers.BertConfig(
            vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=8,
        )  # fmt: skip
        model = transformers.BertForSequenceClassification(config)
        wrapped = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
        for names in (wrapped, model):  # the Trainer's own may be either
            optimizer = torch.optim.AdamW(wrapped.parameters(), weight_decay=0.0)
            assert {one.dim() for one in optimizer.param_groups[0]["params"]} == {1}
            huggingface._mark_groups(optimizer, names)
            AutoL2(optimizer, "fixed", fixed_lambda=0.3, all_parameters=False)
            assert optimizer.param_groups[0]["weight_decay"] == 0.6
    finally:
        torch.distributed.destroy_process_group()


def test_hugging_face_spares_swins_tables_of_relative_positions(tmp_path: Path) -> None:
    """They are 2-D, and the Trainer gives them no decay, since "bias" is in their names."""
    config = transformers.SwinConfig(
        image_size=8, patch_size=2, embed_dim=8, depths=[1], num_heads=[2], window_size=2,
        num_labels=2,
    )  # fmt: skip
    model = transformers.SwinForImageClassification(config)
    examples = [{"pixel_values": torch.randn(3, 8, 8), "labels": n % 2} for n in range(4)]
    for folder, weight_decay in (("without", 0.0), ("with", 0.1)):
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                str(tmp_path / folder), max_steps=1, weight_decay=weight_decay, use_cpu=True,
                report_to="none", save_strategy="no", disable_tqdm=True,
            ),
            train_dataset=examples,
            callbacks=[huggingface.AutoL2Callback("fixed", fixed_lambda=0.3)],
        )  # fmt: skip
        trainer.train()
        decayed, spared = trainer.optimizer.param_groups
        assert (decayed["weight_decay"], spared["weight_decay"]) == (0.6, 0.0)
        tables = {id(one) for name, one in model.named_parameters() if "position" in name}
        assert tables
        assert (tables & set(map(id, decayed["params"]))) == set(), "ours and the Trainer's differ"


# -------------------------------------------------------------------- what a batch comes to


class Task(nn.Module):
    """A model of one's own, with the class's name and configuration that its task asks for."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = transformers.PretrainedConfig(**config)


def batch(
    logits: Tensor, labels: Tensor, loss: Tensor | None = None, model: nn.Module | None = None,
    **named: Any,
) -> tuple[float, float | None, float]:  # fmt: skip
    outputs = {"loss": loss, "logits": logits}
    if model is None:
        model = Task()
        model.config.problem_type = None
    measured = measure_batch(model, {"labels": labels, **named}, outputs, ["labels"])
    return tuple(None if one is None else float(one) for one in measured)  # type: ignore[return-value]


OWN = torch.tensor(0.69)


def test_tasks() -> None:
    logits = torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
    # several labels a sample: the share of wrong entries
    several = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert batch(logits, several, OWN) == pytest.approx((0.69, 2 / 6, 2))
    own = nn.functional.binary_cross_entropy_with_logits(logits, several)
    assert batch(logits, several) == pytest.approx((float(own), 2 / 6, 2))
    # a regression, of one or more numbers
    assert batch(torch.zeros(4, 1), torch.arange(4.0), OWN) == (pytest.approx(0.69), None, 4)
    regression = Task(problem_type="regression")
    assert batch(logits, several, OWN, regression)[1] is None
    # one logit
    one = torch.tensor([[2.0], [-2.0], [2.0], [-2.0]])
    assert batch(one, torch.tensor([1, 0, 0, 0]), OWN) == pytest.approx((0.69, 0.25, 4))
    # classes, tokens, pixels
    labels = torch.tensor([0, 2])
    assert batch(logits, labels, OWN)[1:] == (0.5, 2)
    tokens = torch.tensor([[0, -100], [-100, -100]])
    scores = torch.tensor([[[2.0, 1.0], [0.0, 9.0]]]).repeat(2, 1, 1)
    assert batch(scores, tokens, OWN) == pytest.approx((0.69, 0.0, 1))
    assert batch(scores, torch.full((2, 2), -100), torch.tensor(torch.nan))[2] == 0
    pixels = torch.zeros(1, 4, 4, dtype=torch.int64)
    pixels[0, 2:] = 255
    maps = torch.tensor([[[[0.0]], [[1.0]]]]).expand(1, 2, 2, 2)
    segmentation = Task(semantic_loss_ignore_index=255)
    assert batch(maps, pixels, OWN, segmentation) == pytest.approx((0.69, 1.0, 8))
    # what is not known: the model's loss alone
    assert batch(torch.zeros(2, 7, 5), torch.zeros(2, 3, dtype=torch.int64), OWN)[1] is None


def test_a_causal_model_predicts_the_next_token() -> None:
    class Causal(Task):
        loss_type = "ForCausalLM"

    labels = torch.tensor([[3, 0, 1, -100]])
    logits = 9 * nn.functional.one_hot(torch.tensor([[0, 1, 2, 2]]), 4).float()
    assert batch(logits, labels, OWN, Causal()) == pytest.approx((0.69, 0.0, 2))


def test_a_loss_that_is_divided_by_the_whole_steps_labels() -> None:
    logits, labels = torch.zeros(2, 4), torch.tensor([1, 2])
    own = float(cross_entropy(logits, labels))
    divided = torch.tensor(own * 2 / 10)  # 10 labels in the step, 2 of them here
    assert batch(logits, labels, divided, num_items_in_batch=10)[0] == pytest.approx(own)
    assert batch(logits, labels, torch.tensor(own), num_items_in_batch=10)[0] == pytest.approx(own)


def test_forms_of_outputs() -> None:
    logits, labels = torch.zeros(2, 4), torch.tensor([0, 2])
    for outputs, loss in (
        ((OWN, logits), 0.69),
        ((logits,), float(cross_entropy(logits, labels))),
        (logits, float(cross_entropy(logits, labels))),
        ({"loss": OWN, "scores": logits}, 0.69),
    ):
        for names in (["labels"], ["targets"]):
            measured = measure_batch(Task(), {names[0]: labels}, outputs, names)
            assert float(measured[0]) == pytest.approx(loss)
    with pytest.raises(Unmeasurable, match="no loss among the model's outputs"):
        measure_batch(Task(), {"labels": labels}, {"scores": logits}, ["labels"])
    with pytest.raises(Unmeasurable, match=r"no labels .* called with x \(labels are called lab"):
        measure_batch(Task(), {"x": labels}, {"logits": logits}, ["labels"])
    answers = {"start_positions": labels, "end_positions": labels}
    assert measure_batch(Task(), answers, {"loss": OWN}, list(answers))[1] is None


# -------------------------------------------------------------------- schedules, in both


def test_schedules_in_the_trainers(tmp_path: Path) -> None:
    def make(optimizer: torch.optim.Optimizer) -> CosineWeightDecay:
        return CosineWeightDecay(optimizer, 20, initial_lambda=0.1)

    in_both: Any = in_lightning.WeightDecayCallback(make), huggingface.WeightDecayCallback(make)
    fit(Digits(error=False), in_both[0], tmp_path, 1)
    hugging(in_both[1], tmp_path, max_steps=20).train()
    for one in in_both:
        assert one.scheduler.last_step == 20
        assert one.scheduler.get_last_lambda() == pytest.approx(0)


# -------------------------------------------------------------------- more on Lightning


class Skipping(Digits):
    """Returns nothing for every third batch, and no error."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)["loss"]
        return None if batch_idx % 3 == 2 else loss


def test_lightning_skips_and_looks_at_the_loss_alone(tmp_path: Path) -> None:
    callback = in_lightning.AutoL2Callback(measure_every=1)
    fit(Skipping(), callback, tmp_path, 1)
    assert callback.auto_l2 is not None
    state = callback.auto_l2.state_dict()
    assert (state["last_step"], state["controller"]["count"]) == (20, 14)
    assert state["controller"]["previous"][1] == "nan"


def test_lightning_checks_the_first_batch(tmp_path: Path) -> None:
    class Wrong(Digits):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Tensor]:
            return {**super().training_step(batch, batch_idx), "error": self.wrong}

    for wrong, message in (
        (torch.zeros(32), "error must be one number, not a tensor of shape"),
        (torch.tensor(37.5), "from 0 to 1, not 37.5"),
    ):
        module = Wrong()
        module.wrong = wrong
        with pytest.raises(ValueError, match=message):
            fit(module, in_lightning.AutoL2Callback(), tmp_path, 1)
        assert len(module.seen) == 1


def test_lightning_fits_again(tmp_path: Path) -> None:
    module, callback = Digits(), in_lightning.AutoL2Callback("combined", **SETTINGS)
    trainer = fit(module, callback, tmp_path, 2)
    assert callback.auto_l2 is not None
    first = callback.auto_l2.state_dict()
    trainer.fit_loop.max_epochs = 3
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*checkpoint.*")
        trainer.fit(module, DataLoader(TensorDataset(IMAGES, LABELS), batch_size=32))
    assert callback.auto_l2.last_step == trainer.global_step == 60
    assert callback.auto_l2.state_dict()["controller"]["count"] > first["controller"]["count"]


def test_lightning_takes_it_as_a_scheduler(tmp_path: Path) -> None:
    class Scheduled(Digits):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Tensor]:
            step = super().training_step(batch, batch_idx)
            self.l2.add(step["loss"], step["error"])
            return step

        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            self.l2 = AutoL2(optimizer, "combined", **SETTINGS)
            scheduler = {"scheduler": self.l2, "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": scheduler}

    module, callback = Scheduled(), in_lightning.AutoL2Callback("combined", **SETTINGS)
    trainer = fit(module, lightning.Callback(), tmp_path, 3)
    trainer.save_checkpoint(tmp_path / "scheduled.ckpt")
    other = Digits()
    fit(other, callback, tmp_path, 3)
    assert callback.auto_l2 is not None
    assert module.l2.get_last_lambda() == callback.auto_l2.get_last_lambda()
    assert same(module, other)
    resumed = Scheduled()
    fit(resumed, lightning.Callback(), tmp_path, 3, ckpt_path=tmp_path / "scheduled.ckpt")
    assert resumed.l2.state_dict() == module.l2.state_dict()


# -------------------------------------------------------------------- README's measured example


def measured_rows() -> list[list[str]]:
    text = (PROJECT / "autol2" / "integrations" / "README.md").read_text(encoding="utf-8")
    _, found = text.split("python -m autol2.integrations.measured\n")
    lines = [line for line in found.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_measured_examples_rows() -> None:
    rows = [line.strip("|").split("|") for line in measured_example.rows(seeds=1, epochs=1)]
    assert [[cell.strip() for cell in row[:2]] for row in rows] == [
        row[:2] for row in measured_rows()
    ]


@pytest.mark.slow
def test_the_measured_example_is_reproduced() -> None:
    optimizer, settings = "SGD, lr 0.1, momentum 0.9", list(measured_example.SETTINGS)
    shown = measured_rows()
    first = [row[0] for row in shown].index(optimizer)
    for setting, row in zip(settings, shown[first:], strict=False):
        runs = [measured_example.train(optimizer, setting, seed, 30) for seed in range(2)]
        assert row[1] == setting
        assert sum(run.norm for run in runs) / 2 == pytest.approx(float(row[3]), rel=0.05)
        assert sum(run.held_out for run in runs) / 2 == pytest.approx(float(row[2]), abs=1.5)
        assert len(runs[0].changes) == len(row[4].split(",")) - (not row[4])
