"""Loops, checkpoints and batches that were tried against `AutoL2`, and what is right with them."""

from __future__ import annotations

import copy
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import ConstantLR, ExponentialLR, ReduceLROnPlateau, SequentialLR
from torch.utils.data import DataLoader, TensorDataset

from autol2 import AutoL2, CosineWeightDecay, FollowLR, LinearWeightDecay, StepMean
from autol2.rules.lambda_scheduler import LambdaScheduler

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import lightning.pytorch as lightning
import transformers
from accelerate import Accelerator

from autol2.integrations import huggingface
from autol2.integrations.batch_measure import measure_batch
from autol2.integrations.lightning import AutoL2Callback, WeightDecayCallback


def weights(count: int = 2) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(1)) for _ in range(count)]


def two_groups(**second: Any) -> SGD:
    one, other = weights()
    return SGD([{"params": [one]}, {"params": [other], **second}], lr=0.1)


def saved(optimizer: torch.optim.Optimizer, l2: LambdaScheduler) -> tuple[Any, Any]:
    return copy.deepcopy(optimizer.state_dict()), l2.state_dict()


# ---------------------------------------------------------------- checkpoints


def test_own_settings_that_are_gone_are_refused() -> None:
    optimizer = two_groups(auto_l2={"method": "fixed", "fixed_lambda": 0.03})
    theirs, state = saved(optimizer, AutoL2(optimizer))
    optimizer = two_groups()
    l2 = AutoL2(optimizer)
    optimizer.load_state_dict(theirs)
    with pytest.raises(ValueError, match=r"settings of their own for parameter groups \[1\]"):
        l2.load_state_dict(state)


def test_the_controller_of_an_added_group_goes_on() -> None:
    def built() -> tuple[AdamW, AutoL2]:
        one, other = weights()
        optimizer = AdamW([one])
        l2 = AutoL2(optimizer, measure_every=1)
        optimizer.add_param_group({"params": [other], "auto_l2": {"initial_lambda": 0.5}})
        return optimizer, l2

    optimizer, l2 = built()
    for loss in (1, 2, 3, 3):
        l2.step(loss, 0.1)
    theirs, state = saved(optimizer, l2)
    again, restored = built()
    again.load_state_dict(theirs)
    restored.load_state_dict(state)
    assert restored.get_last_lambdas() == l2.get_last_lambdas()


def test_a_group_that_is_added_before_saving_is_saved() -> None:
    def built() -> tuple[SGD, AutoL2, nn.Parameter]:
        one, other = weights()
        optimizer = SGD([one], lr=0.1)
        return optimizer, AutoL2(optimizer), other

    optimizer, l2, other = built()
    l2.step(1.0, 0.1)
    optimizer.add_param_group({"params": [other]})
    theirs, state = saved(optimizer, l2)
    again, restored, other = built()
    again.add_param_group({"params": [other]})
    again.load_state_dict(theirs)
    restored.load_state_dict(state)
    assert restored.get_last_lambdas() == [0.1, 0.1]


@pytest.mark.parametrize(
    "changed",
    [
        lambda one: CosineWeightDecay(one, 20, initial_lambda=0.1),
        lambda one: CosineWeightDecay(one, 10, initial_lambda=0.2),
        lambda one: LinearWeightDecay(one, 10, initial_lambda=0.1),
        lambda one: FollowLR(one, 0.1),
    ],
)
def test_a_schedule_goes_on_with_changed_settings(changed: Any) -> None:
    optimizer = SGD(weights(), lr=0.1)
    l2 = CosineWeightDecay(optimizer, 10, initial_lambda=0.1)
    for _ in range(3):
        l2.step()
    theirs, state = saved(optimizer, l2)
    optimizer = SGD(weights(), lr=0.1)
    new = changed(optimizer)
    optimizer.load_state_dict(theirs)
    with pytest.raises(ValueError, match=r"accept_changes|not a state of"):
        new.load_state_dict(state)
    new.load_state_dict(state, accept_changes=True)
    assert new.last_step == 3
    assert optimizer.param_groups[0]["weight_decay"] == 2 * new.get_last_lambda()


@pytest.mark.parametrize(("before", "after", "decay"), [(True, False, 0.0), (False, True, 0.2)])
def test_groups_change_sides(before: bool, after: bool, decay: float) -> None:
    def built(all_parameters: bool) -> tuple[SGD, AutoL2]:
        one, other = weights()
        groups = [{"params": [one]}, {"params": [other], "weight_decay": 0.0}]
        optimizer = SGD(groups, lr=0.1, weight_decay=1e-4)
        return optimizer, AutoL2(optimizer, all_parameters=all_parameters)

    optimizer, l2 = built(before)
    theirs, state = saved(optimizer, l2)
    optimizer, l2 = built(after)
    optimizer.load_state_dict(theirs)
    with pytest.raises(ValueError, match="other parameter groups decayed"):
        l2.load_state_dict(state)
    l2.load_state_dict(state, accept_changes=True)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, decay]


def test_a_fixed_lambda_is_watched_too() -> None:
    optimizer = SGD(weights(), lr=0.1)
    l2 = AutoL2(optimizer, "fixed", fixed_lambda=1e-3)
    optimizer.load_state_dict(SGD(weights(), lr=0.1, weight_decay=0.5).state_dict())
    for _ in range(4):
        l2.step()
    with pytest.raises(RuntimeError, match="weight_decay is"):
        l2.step()


def test_published_without_its_epochs_says_so_after_resuming() -> None:
    optimizer = SGD(weights(), lr=0.1)
    l2 = AutoL2(optimizer, protocol="published", steps_per_epoch=10)
    theirs, state = saved(optimizer, l2)
    optimizer = SGD(weights(), lr=0.1)
    l2 = AutoL2(optimizer, protocol="published")
    optimizer.load_state_dict(theirs)
    l2.load_state_dict(state, accept_changes=True)
    with pytest.raises(RuntimeError, match="steps_per_epoch"):
        l2.step(1.0, 0.5)


def test_a_state_that_lacks_something_names_it() -> None:
    optimizer = SGD(weights(), lr=0.1)
    l2 = AutoL2(optimizer)
    state = l2.state_dict()
    del state["epoch_step"]
    with pytest.raises(ValueError, match="missing epoch_step"):
        l2.load_state_dict(state)


def test_a_schedules_state_is_none_of_a_rules() -> None:
    optimizer = SGD(weights(), lr=0.1)
    state = CosineWeightDecay(optimizer, 10, initial_lambda=0.3).state_dict()
    l2 = AutoL2(optimizer)
    before = l2.state_dict()
    with pytest.raises(ValueError, match="missing controller"):
        l2.load_state_dict(state, accept_changes=True)
    assert l2.state_dict() == before


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize("flag", [0, 1, None, "no", "off"])
def test_a_flag_that_is_none(flag: object) -> None:
    with pytest.raises(ValueError, match="it must be True, False or a dictionary"):
        AutoL2(two_groups(auto_l2=flag))


def test_numpys_false_is_false() -> None:
    assert AutoL2(two_groups(auto_l2=np.False_)).get_last_lambdas() == [0.1, None]


@pytest.mark.parametrize("flag", [np.False_, {"initial_lambda": np.float32(0.5)}])
def test_numpys_flags_leave_the_optimizers_checkpoint_plain(flag: Any, tmp_path: Path) -> None:
    optimizer = two_groups(auto_l2=flag)
    AutoL2(optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    torch.load(tmp_path / "optimizer.pt", weights_only=True)


def test_all_parameters_is_a_truth_value() -> None:
    with pytest.raises(ValueError, match="all_parameters must be True, False or None"):
        AutoL2(two_groups(), all_parameters="no")  # type: ignore[arg-type]


def test_a_decay_of_whole_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot hold fractions"):
        AutoL2(SGD(weights(), lr=0.1, weight_decay=torch.tensor(1)))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [-8, float("nan")])
def test_counts_are_counts(count: float) -> None:
    with pytest.raises(ValueError, match="count must be the number of"):
        AutoL2(SGD(weights(), lr=0.1)).add(1.0, 0.2, count)


@pytest.mark.parametrize("value", [np.ones(3), [1.0], 1j, "1", torch.ones(2)])
@pytest.mark.parametrize("name", ["loss", "error"])
def test_a_vector_is_refused_at_the_first_step(name: str, value: object) -> None:
    l2 = AutoL2(SGD(weights(), lr=0.1))
    given: dict[str, Any] = {"loss": 1.0, "error": 0.1, name: value}
    with pytest.raises(ValueError, match=f"{name} must be one number"):
        l2.step(**given)


# ---------------------------------------------------------------- schedulers of schedulers


def test_sequential_schedules_begin_at_their_first_lambda() -> None:
    optimizer = SGD(weights(), lr=0.1)
    ConstantLR(optimizer, 1.0)
    first = LinearWeightDecay(optimizer, 4, initial_lambda=0.0, final_lambda=0.4)
    second = CosineWeightDecay(optimizer, 4, initial_lambda=0.4)
    chain = SequentialLR(optimizer, [first, second], [4])
    seen = []
    for _ in range(7):
        seen.append(optimizer.param_groups[0]["weight_decay"] / 2)
        optimizer.step()
        chain.step()
    assert seen[:4] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    expected = CosineWeightDecay(SGD(weights(), lr=0.1), 4, initial_lambda=0.4)
    for value in seen[4:]:
        assert value == pytest.approx(expected.get_last_lambda())
        expected.step()


def test_accelerate_takes_what_is_built_on_a_prepared_optimizer() -> None:
    accelerator = Accelerator(cpu=True)
    model = nn.Linear(2, 1)
    model, optimizer = accelerator.prepare(model, SGD(model.parameters(), lr=0.1))
    l2 = accelerator.prepare(AutoL2(optimizer))
    for _ in range(3):
        accelerator.backward(model(torch.ones(1, 2)).sum())
        optimizer.step()
        l2.step(1.0, 0.1)
    assert l2.scheduler.last_step == 3


# ---------------------------------------------------------------- Lightning


class Net(lightning.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.decays: list[float] = []
        self.apart = False

    def training_step(self, batch: Any, index: int) -> Tensor:
        self.decays.append(self.trainer.optimizers[0].param_groups[0]["weight_decay"])
        return cross_entropy(self.layer(batch[0]), batch[1]) + index

    def configure_optimizers(self) -> SGD:
        parts = [[self.layer.weight], [self.layer.bias]] if self.apart else [self.parameters()]
        return SGD([{"params": part} for part in parts], lr=0.01)


def loader() -> DataLoader[Any]:
    images = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(images, (images[:, 0] > 0).long()), batch_size=8)


def trainer(callback: WeightDecayCallback | None, epochs: int = 1, **more: Any) -> Any:
    quiet = ("enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[callback] if callback else [],
        **dict.fromkeys(quiet, False),
        **more,
    )


@pytest.mark.parametrize("method", ["auto_l2", "fixed"])
def test_a_checkpoint_without_the_callback_trains_on(
    tmp_path: Path, unheeded: None, method: Any
) -> None:
    plain = trainer(None)
    plain.fit(Net(), loader())
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    net, callback = Net(), AutoL2Callback(method, fixed_lambda=1e-3)
    trainer(callback, 2).fit(net, loader(), ckpt_path=tmp_path / "plain.ckpt")
    assert set(net.decays) == ({2e-3} if method == "fixed" else {0.2})


def test_a_fit_without_anything_to_do_keeps_lambda(tmp_path: Path, unheeded: None) -> None:
    net, callback = Net(), AutoL2Callback(measure_every=1, cooldown=0.01)
    fits = trainer(callback)
    fits.fit(net, loader())
    assert callback.auto_l2 is not None
    reached = callback.auto_l2.get_last_lambda()
    assert reached < 0.1
    fits.fit(net, loader())
    assert callback.auto_l2.get_last_lambda() == reached
    fits.save_checkpoint(tmp_path / "after.ckpt")
    fits.fit_loop.max_epochs = 2
    fits.fit(net, loader())
    assert net.decays[5] == 2 * reached
    trainer(AutoL2Callback(measure_every=1, cooldown=0.01), 2).fit(
        Net(), loader(), ckpt_path=tmp_path / "after.ckpt"
    )


def test_a_second_fit_with_other_groups_can_be_accepted(unheeded: None) -> None:
    net, callback = Net(), AutoL2Callback(measure_every=1, accept_changes=True)
    fits = trainer(callback)
    fits.fit(net, loader())
    net.apart = True
    fits.fit_loop.max_epochs = 2
    fits.fit(net, loader())
    assert callback.auto_l2 is not None
    assert callback.auto_l2.last_step == 10


class Following(Net):
    """Whose learning rate falls whenever a validation, within the epoch or at its end, is over."""

    def __init__(self, as_scheduler: Any = None) -> None:
        super().__init__()
        self.as_scheduler = as_scheduler
        self.pushes: list[float] = []

    def training_step(self, batch: Any, index: int) -> Tensor:
        group = self.trainer.optimizers[0].param_groups[0]
        self.pushes.append(group["lr"] * group["weight_decay"])
        return super().training_step(batch, index)

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("loss", 1.0)

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        if self.as_scheduler is not None:
            rates = ExponentialLR(optimizer, 0.5)
            schedules = [rates, self.as_scheduler(optimizer)]
            return [optimizer], [{"scheduler": one, "interval": "step"} for one in schedules]
        rates = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=10.0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": rates,
                "monitor": "loss",
                "interval": "step",
                "strict": False,
            },
        }


SCHEDULES: dict[str, Any] = {
    "cosine": lambda optimizer: CosineWeightDecay(optimizer, 8, initial_lambda=0.1),
    "linear": lambda optimizer: LinearWeightDecay(optimizer, 8, initial_lambda=0.1),
    "follow lr": lambda optimizer: FollowLR(optimizer, 0.1),
}


def expected(make: Any, steps: int, decay: float = 0.5) -> list[float]:
    """``weight_decay`` in a plain loop."""
    optimizer = SGD(weights(), lr=0.01)
    rates, schedule, found = ExponentialLR(optimizer, decay), make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["weight_decay"])
        optimizer.step()
        rates.step()
        schedule.step()
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_in_configure_optimizers(name: str, unheeded: None) -> None:
    net = Following(SCHEDULES[name])
    trainer(None, 2).fit(net, loader())
    assert net.decays == pytest.approx(expected(SCHEDULES[name], 10))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_schedules_in_accelerate(name: str, accumulate: int, tmp_path: Path) -> None:
    """The same as in a plain loop, over a checkpoint too."""
    seen = []
    for half in range(2):
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        bare = nn.Linear(2, 1)
        optimizer = SGD(bare.parameters(), lr=0.01)
        rates, schedule = ExponentialLR(optimizer, 0.5), SCHEDULES[name](optimizer)
        model, optimizer, rates, schedule = accelerator.prepare(bare, optimizer, rates, schedule)
        if half:
            accelerator.load_state(str(tmp_path / "half"))
        for _ in range(4 * accumulate):
            with accelerator.accumulate(model):
                accelerator.backward(model(torch.ones(1, 2)).sum())
                if accelerator.sync_gradients:
                    seen.append(optimizer.param_groups[0]["weight_decay"])
                optimizer.step()
                rates.step()
                schedule.step()
                optimizer.zero_grad()
        accelerator.save_state(str(tmp_path / "half"))
    assert seen == pytest.approx(expected(SCHEDULES[name], 8))


def test_lr_times_lambda_is_constant_in_lightning(unheeded: None) -> None:
    net, callback = Following(), WeightDecayCallback(SCHEDULES["follow lr"])
    fits = trainer(callback, 2, val_check_interval=2)
    fits.fit(net, loader(), loader())
    assert fits.optimizers[0].param_groups[0]["lr"] < 0.01
    assert net.pushes == pytest.approx([0.002] * 10)


# ---------------------------------------------------------------- Hugging Face


def tiny(config: type, model: type, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = model(config(vocab_size=32, **more))
    return made


LLAMA = {
    **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "num_key_value_heads": 2},
}
BART = {
    **{"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "decoder_ffn_dim": 16},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16},
}


def llava() -> nn.Module:
    text = transformers.LlamaConfig(vocab_size=32, **LLAMA)
    vision = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=31)
    torch.manual_seed(0)
    return transformers.LlavaForConditionalGeneration(config)


@pytest.mark.parametrize(
    "made",
    [
        llava,
        lambda: tiny(transformers.LlamaConfig, transformers.LlamaForCausalLM, **LLAMA),
        lambda: tiny(
            transformers.BartConfig, transformers.BartForCausalLM, is_encoder_decoder=False, **BART
        ),
        lambda: tiny(
            transformers.XLNetConfig,
            transformers.XLNetLMHeadModel,
            d_model=16,
            n_layer=1,
            n_head=2,
            d_inner=16,
        ),
    ],
    ids=["llava", "llama", "bart", "xlnet"],
)
def test_the_error_is_that_of_the_models_own_alignment(made: Any) -> None:
    """A model that knows its few sequences by heart makes no errors."""
    model = made()
    ids = torch.arange(8)[None] + torch.tensor([[3], [9]])
    optimizer = AdamW(model.parameters(), lr=0.02)
    for _ in range(150):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    inputs = {"input_ids": ids, "labels": ids}
    measured, error, _ = measure_batch(model, inputs, model(**inputs), ["labels"])
    assert float(measured) < 0.1
    assert error is not None
    assert float(error) < 0.1


class Own(nn.Module):
    """A regression, or what else `loss` makes of it."""

    def __init__(self, outputs: int, loss: Any) -> None:
        super().__init__()
        self.layer, self.loss = nn.Linear(4, outputs), loss

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        scores = self.layer(x)
        found = {"logits": scores}
        return found if self.loss is None else {**found, "loss": self.loss(scores, labels)}


def squared(scores: Tensor, labels: Tensor) -> Tensor:
    return mse_loss(scores.squeeze(-1), labels.float())


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        (3, torch.randn(5, 3) * 10),
        (1, torch.tensor([1, 2, 3, 4, 5])),
    ],
)
def test_no_error_is_invented_for_a_regression(outputs: int, labels: Tensor) -> None:
    model, inputs = Own(outputs, squared), {"x": torch.randn(5, 4), "labels": labels}
    loss, error, count = measure_batch(model, inputs, model(**inputs), ["labels"])
    assert error is None
    assert torch.isclose(loss, squared(model.layer(inputs["x"]), labels))
    assert int(count) == 5


def test_targets_that_are_no_labels_need_a_loss() -> None:
    model, inputs = Own(3, None), {"x": torch.randn(5, 4), "labels": torch.randn(5, 3)}
    with pytest.raises(ValueError, match="no loss"):
        measure_batch(model, inputs, model(**inputs), ["labels"])


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 32

    def __getitem__(self, at: int) -> dict[str, Tensor]:
        x = torch.randn(4, generator=torch.Generator().manual_seed(at))
        return {"x": x, "labels": (x[0] > 0).long()}


def hugging(model: nn.Module, callback: Any, folder: Path, kind: Any = None, **more: Any) -> Any:
    arguments = transformers.TrainingArguments(
        str(folder),
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        num_train_epochs=1,
        per_device_train_batch_size=4,
        disable_tqdm=True,
        **more,
    )
    return (kind or transformers.Trainer)(
        model, arguments, train_dataset=Rows(), eval_dataset=Rows(), callbacks=[callback]
    )


class LooksFirst(transformers.Trainer):
    """Predicts in evaluation mode, and without labels, before it trains."""

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        model.eval()
        with torch.no_grad():
            model(**inputs)
        model.train()
        return model(**inputs)["loss"]


def test_another_forward_pass_before_the_training_one(tmp_path: Path) -> None:
    callback = huggingface.AutoL2Callback(measure_every=1)
    hugging(Own(2, cross_entropy), callback, tmp_path, LooksFirst).train()
    assert callback.auto_l2 is not None
    assert callback.auto_l2.last_step == 8


def test_a_measure_that_returns_something_else_is_told(tmp_path: Path) -> None:
    class Bare(huggingface.AutoL2Callback):
        def measure(self, inputs: Any, outputs: Any) -> Any:
            return outputs["loss"]

    with pytest.raises(ValueError, match="the mean loss, the mean error"):
        hugging(Own(2, cross_entropy), Bare(measure_every=1), tmp_path).train()


class Pushes(huggingface.WeightDecayCallback):
    """Keeps lr and ``weight_decay`` of each step."""

    def __init__(self, make: Any) -> None:
        super().__init__(make)
        self.seen: list[tuple[float, float]] = []

    def on_pre_optimizer_step(self, *_: Any, **given: Any) -> None:
        group = given["optimizer"].param_groups[0]
        self.seen.append((group["lr"], group["weight_decay"]))


@pytest.mark.parametrize(
    "rates",
    [
        {"lr_scheduler_type": "linear", "warmup_steps": 3},
        {
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "lr_scheduler_kwargs": {"patience": 0, "threshold": 10.0},
            "eval_strategy": "steps",
            "eval_steps": 2,
            "metric_for_best_model": "loss",
        },
    ],
    ids=["warm-up", "plateau"],
)
def test_lr_times_lambda_is_constant_in_hugging_face(tmp_path: Path, rates: Any) -> None:
    callback = Pushes(SCHEDULES["follow lr"])
    model = Own(2, cross_entropy)
    hugging(model, callback, tmp_path, learning_rate=0.1, **rates).train()
    assert len({lr for lr, _ in callback.seen}) >= 4
    assert [lr * decay for lr, decay in callback.seen if lr] == pytest.approx(
        [0.02] * sum(lr > 0 for lr, _ in callback.seen)
    )


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_schedules_in_hugging_face(tmp_path: Path, name: str) -> None:
    callback = Pushes(SCHEDULES[name])
    hugging(Own(2, cross_entropy), callback, tmp_path).train()
    assert [decay for _, decay in callback.seen] == pytest.approx(expected(SCHEDULES[name], 8))


class Seen(huggingface.AutoL2Callback):
    """Keeps what it measures: the step, and of how many samples."""

    def __init__(self) -> None:
        super().__init__(measure_every=3)
        self.seen: list[tuple[int, int]] = []

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def measure(self, inputs: Any, outputs: Any) -> Any:
        found = super().measure(inputs, outputs)
        assert self.auto_l2 is not None
        self.seen.append((self.auto_l2.last_step, int(found[2])))
        return found


class Classifier(Own):
    """Takes what a Trainer hands to a wrapper."""

    def __init__(self) -> None:
        super().__init__(2, cross_entropy)

    def forward(self, x: Tensor, labels: Tensor, **_: Any) -> dict[str, Tensor]:
        return super().forward(x, labels)


def by_arguments(model: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    return model, {"torch_compile": True, "torch_compile_backend": "eager"}


def in_place(model: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    model.compile(backend="eager")
    return model, {}


def wrapped(model: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    compiled: Any = torch.compile(model, backend="eager")
    return compiled, {"label_names": ["labels"], "remove_unused_columns": False}


@pytest.mark.parametrize("compiled", [by_arguments, in_place, wrapped])
def test_a_compiled_model_is_compiled_once(tmp_path: Path, compiled: Any) -> None:
    """As without the callback, and though two trainings follow each other."""
    torch._dynamo.reset()
    counters.clear()
    model, arguments = compiled(Classifier())
    arguments["gradient_accumulation_steps"] = 2
    hugging(model, transformers.TrainerCallback(), tmp_path, **arguments).train()
    alone = copy.deepcopy(dict(counters))
    assert alone["stats"]["unique_graphs"] == 1
    callback = Seen()
    trainer = hugging(model, callback, tmp_path, **arguments)
    for _ in range(2):
        trainer.train()
    assert callback.seen == [(0, 4), (0, 4), (2, 4), (2, 4)] * 2
    assert dict(counters) == alone


class Replicas(nn.Module):
    """``nn.DataParallel``, as it works on two GPUs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Any) -> dict[str, Tensor]:
        found: list[dict[str, Tensor]] = []

        def run(at: int) -> None:
            replica: Any = self.module._replicate_for_data_parallel()
            found.append(replica(**{name: one.chunk(2)[at] for name, one in inputs.items()}))

        threads = [threading.Thread(target=run, args=(at,)) for at in range(2)]
        for thread in threads:
            thread.start()
            thread.join()
        gathered = {name: [one[name] for one in found] for name in found[0]}
        return {"loss": torch.stack(gathered["loss"]), "logits": torch.cat(gathered["logits"])}


def test_replicas_are_measured_as_one_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn, "DataParallel", Replicas)
    callback = Seen()
    trainer = hugging(Own(2, cross_entropy), callback, tmp_path)
    trainer.args._n_gpu = 2
    trainer.train()
    assert callback.seen == [(step, 2) for step in (0, 0, 2, 2, 5, 5)]
    assert not trainer.model._forward_hooks


def test_means_of_batches_on_several_devices() -> None:
    """On the first one's device, without any of them: PyTorch pretends to have two GPUs."""
    with FakeTensorMode():
        one, other = (torch.empty((), device=f"cuda:{n}") for n in range(2))
        with pytest.raises(RuntimeError, match="same device"):
            one + other
        mean = StepMean()
        mean.add(one, one, 3)
        mean.add(other, other, torch.empty((), device="cuda:1"))
        mean.add(other, None, torch.tensor(2))
        sums = mean._sums(mean._batches)
    assert (sums.device, sums.shape) == (one.device, (4,))


@pytest.mark.parametrize(("before", "after"), [({}, {"auto_l2": False}), ({"auto_l2": False}, {})])
def test_a_changed_flag_is_noticed_on_resume(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any]
) -> None:
    """The Trainer loads the checkpoint's groups, flags and all, before the callback sees them."""

    def train(flags: dict[str, Any], epochs: int, resume: bool) -> Any:
        model = Own(2, cross_entropy)
        parts = [{"params": [model.layer.weight]}, {"params": [model.layer.bias], **flags}]
        optimizer = SGD(parts, lr=0.01)
        arguments = transformers.TrainingArguments(
            str(tmp_path),
            use_cpu=True,
            report_to=[],
            save_strategy="epoch",
            num_train_epochs=epochs,
            per_device_train_batch_size=4,
            disable_tqdm=True,
        )
        callback = huggingface.AutoL2Callback(all_parameters=True)
        transformers.Trainer(
            model,
            arguments,
            train_dataset=Rows(),
            callbacks=[callback],
            optimizers=(optimizer, None),  # type: ignore[arg-type]
        ).train(resume_from_checkpoint=resume or None)

    train(before, 1, False)
    with pytest.raises(ValueError, match="other parameter groups decayed"):
        train(after, 2, True)


def apart(layer: nn.Linear) -> SGD:
    return SGD(
        [
            {"params": [layer.weight], "auto_l2": {"initial_lambda": 0.01}},
            {"params": [layer.bias], "auto_l2": {"method": "fixed", "fixed_lambda": 0.3}},
        ],
        lr=0.1,
    )


class Apart(Net):
    def configure_optimizers(self) -> SGD:
        return apart(self.layer)


def test_groups_with_settings_of_their_own_in_the_trainers(tmp_path: Path, unheeded: None) -> None:
    settings: Any = {"measure_every": 1, "cooldown": 0}
    in_both: Any = AutoL2Callback(**settings), huggingface.AutoL2Callback(**settings)
    trainer(in_both[0]).fit(Apart(), loader())
    model = Own(2, lambda scores, labels: cross_entropy(scores, labels) + len(in_both[1].seen))
    in_both[1].seen = []
    trained = hugging(model, in_both[1], tmp_path, max_steps=5)
    trained.optimizer = apart(model.layer)
    model.layer.register_forward_hook(lambda *_: in_both[1].seen.append(None))
    trained.train()
    for one in in_both:
        assert one.auto_l2.get_last_lambdas() == pytest.approx([1e-5, 0.3])
