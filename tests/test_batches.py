"""Batches, groups and checkpoints of loops that people have, and what λ makes of them."""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import cross_entropy, mse_loss, one_hot
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR

from autol2 import AutoL2, FollowLR, convert
from autol2.rules.controller import Controller
from autol2.rules.rule import Rule

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import lightning.pytorch as lightning
import transformers
from lightning.pytorch.callbacks import BackboneFinetuning
from torch.utils.data import DataLoader, TensorDataset

from autol2.integrations.batch_measure import Unmeasurable, measure_batch
from autol2.integrations.huggingface import AutoL2Callback
from autol2.integrations.lightning import AutoL2Callback as LightningCallback


def sgd(*groups: dict[str, Any], lr: float = 0.1) -> SGD:
    return SGD([{"params": [nn.Parameter(torch.ones(1))], **one} for one in groups or ({},)], lr=lr)


# ---------------------------------------------------------------- measurements


@pytest.mark.parametrize("protocol", ["corrected", "published"])
@pytest.mark.parametrize(
    "first", [(1.0, math.nan), (1.0, None), (math.nan, 50.0), (math.inf, 50.0)]
)
def test_nothing_is_better_than_what_was_not_measured(
    protocol: str, first: tuple[float, float | None]
) -> None:
    controller = Controller(Rule("combined", protocol, alpha=5))
    events = [controller.measure(*first, 1, 1).event]
    events += [controller.measure(1.0, 50.0, step, step).event for step in (2, 3)]
    assert events == ["none"] * 3
    assert controller.lambda_ == 0.1
    for step in (4, 5):  # but than what was
        controller.measure(0.5, 80.0, step, step)
    assert controller.lambda_ == pytest.approx(1.0)


def test_arrays_of_one_number_are_numbers() -> None:
    l2 = AutoL2(sgd(), measure_every=1)
    for _ in range(3):
        l2.step(np.ones(1), np.full((1, 1), 0.5), np.array([3]))
    assert l2.state_dict()["controller"]["previous"] == [1.0, 50.0]
    l2.add(np.ones(1), 0.5)
    l2.add(torch.ones(1), np.array([0.5]))
    assert l2.step().event == "none"


def test_an_epoch_with_too_few_steps_is_told_only_where_none_was_measured() -> None:
    l2 = AutoL2(sgd())
    for steps in (20, 2):
        l2.start_epoch()
        for _ in range(steps):
            l2.step(1.0, 0.5)
    l2.start_epoch()
    l2.warn_if_unmeasured()  # a warning would be an error
    l2 = AutoL2(sgd())
    l2.start_epoch()
    l2.step(1.0, 0.5)
    with pytest.warns(RuntimeWarning, match="an epoch of 1 steps is never measured"):
        l2.warn_if_unmeasured()


def test_converted_numbers_are_plain() -> None:
    for words in (("sum", "weight_decay"), ("sum", "sum")):
        assert type(convert(np.float64(5e-4), *words)) is float  # type: ignore[call-overload]
    assert type(convert(0.01, "weight_decay", "per_step", lr=np.float64(0.1))) is float


# ---------------------------------------------------------------- resuming


def resumed(before: dict[str, Any], after: dict[str, Any], method: Any = "auto_l2") -> AutoL2:
    optimizer = sgd()
    state = AutoL2(optimizer, method, **before).state_dict()
    theirs = copy.deepcopy(optimizer.state_dict())
    optimizer = sgd()
    l2 = AutoL2(optimizer, method, **after)
    optimizer.load_state_dict(theirs)
    l2.load_state_dict(state)
    return l2


@pytest.mark.parametrize(
    ("method", "before", "after"),
    [
        ("auto_l2", {}, {"lambda_max": 1}),
        ("auto_l2", {"initial_lambda": 1, "lambda_max": 0.1}, {"initial_lambda": 0.1}),
        ("fixed", {"fixed_lambda": 1e-4}, {"fixed_lambda": 1e-4, "measure_every": 7}),
        ("fixed", {"fixed_lambda": 1e-4}, {"fixed_lambda": 1e-4, "steps_per_epoch": 3}),
        (
            "auto_l2",
            {"protocol": "original", "steps_per_epoch": 10},
            {"protocol": "original", "steps_per_epoch": 50},
        ),
    ],
)
def test_what_decides_nothing_is_no_difference(
    method: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    resumed(before, after, method)


@pytest.mark.parametrize(
    ("method", "before", "after"),
    [
        ("advance", {}, {"lambda_max": 1}),
        ("auto_l2", {"raise_when_converged": 9}, {"raise_when_converged": 9, "lambda_max": 1}),
        ("auto_l2", {}, {"lambda_max": 0.05}),
        ("auto_l2", {}, {"measure_every": 7}),
        ("auto_l2", {"steps_per_epoch": 10}, {"steps_per_epoch": 50}),
    ],
)
def test_what_decides_something_is_one(
    method: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="saved"):
        resumed(before, after, method)


def test_lambda_0_of_another_rule_is_not_gone_on_with() -> None:
    """It could never move: 0 · 0.1 is 0."""
    state = Controller(Rule("fixed", "corrected")).state_dict()
    controller = Controller(Rule("auto_l2", "corrected"))
    controller.load_state_dict(state, accept_changes=True)
    assert controller.lambda_ == 0.1


@pytest.mark.parametrize("built_first", [True, False])
@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)])
def test_changed_all_parameters_are_noticed(before: bool, after: bool, built_first: bool) -> None:
    """Also where the optimizer's checkpoint has overwritten the decay that told a group apart."""
    groups = {"weight_decay": 0.01}, {"weight_decay": 0.0}
    optimizer = sgd(*groups)
    state = AutoL2(optimizer, all_parameters=before).state_dict()
    theirs = copy.deepcopy(optimizer.state_dict())
    for accepted in (False, True):
        optimizer = sgd(*groups)
        if built_first:
            l2 = AutoL2(optimizer, all_parameters=after)
        optimizer.load_state_dict(copy.deepcopy(theirs))
        if not built_first:
            l2 = AutoL2(optimizer, all_parameters=after)
        if accepted:
            l2.load_state_dict(state, accept_changes=True)
            assert l2.get_last_lambdas() == [0.1, 0.1 if after else None]
            assert optimizer.param_groups[1]["weight_decay"] == (0.2 if after else 0.0)
        else:
            before_loading = l2.get_last_lambdas()
            with pytest.raises(ValueError, match="other parameter groups decayed"):
                l2.load_state_dict(state)
            assert l2.get_last_lambdas() == before_loading


def test_a_group_with_a_decay_that_is_left_alone_spares_no_other() -> None:
    optimizer = sgd({"weight_decay": 0.01, "auto_l2": False}, {})
    assert AutoL2(optimizer).get_last_lambdas() == [None, 0.1]
    optimizer = sgd({"weight_decay": 0.01, "auto_l2": np.False_}, {"weight_decay": 0.02}, {})
    with pytest.warns(UserWarning, match="group 2, while other groups"):
        assert AutoL2(optimizer).get_last_lambdas() == [None, 0.1, None]


# ---------------------------------------------------------------- schedules


def test_looking_at_lambda_changes_nothing() -> None:
    """The learning rate moves at the end of an epoch, and λ is logged before the next step."""

    def built() -> tuple[SGD, ExponentialLR, FollowLR]:
        optimizer = sgd()
        return optimizer, ExponentialLR(optimizer, 0.5), FollowLR(optimizer, 1e-3)

    optimizer, schedule, follow = built()
    optimizer.step()
    follow.step()
    schedule.step()
    before = follow.state_dict()
    assert follow.get_last_lambda() == follow.get_last_lambdas()[0] == 2e-3
    assert follow.state_dict() == before
    states = copy.deepcopy(optimizer.state_dict()), schedule.state_dict(), follow.state_dict()
    for one, state in zip(built(), states, strict=True):
        one.load_state_dict(state)


def test_a_first_learning_rate_of_0_is_no_reference() -> None:
    with pytest.raises(ValueError, match=r"group 0 has learning rate 0, .*: give reference_lr"):
        FollowLR(sgd(lr=0.0), 1e-3)
    optimizer = sgd(lr=0.0)
    follow = FollowLR(optimizer, 1e-3, reference_lr=0.1)
    assert follow.get_last_lambda() == 1e-3
    optimizer.param_groups[0]["lr"] = 0.05
    follow.step()
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(4e-3)


# ---------------------------------------------------------------- batches of Hugging Face's


def measured(labels: Tensor, outputs: Any, model: nn.Module | None = None, **inputs: Any) -> Any:
    loss, error, count = measure_batch(
        model or nn.Linear(1, 1), {"labels": labels, **inputs}, outputs, ["labels"]
    )
    return float(loss), None if error is None else float(error), int(count)


def test_labels_beyond_the_classes() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 8)
    labels = torch.tensor([[1, 2, -1, -1], [3, 4, 5, -1]])
    own = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1)
    wrong = (logits.argmax(-1) != labels)[labels >= 0].float().mean()
    found = measured(labels, {"loss": own, "logits": logits})
    assert found == (pytest.approx(float(own)), pytest.approx(float(wrong)), 5)
    pixels, image = torch.randint(0, 3, (1, 4, 4)), torch.randn(1, 3, 4, 4)
    pixels[0, 0] = 255
    own = cross_entropy(image, pixels, ignore_index=255)
    wrong = (image.argmax(1) != pixels)[pixels < 255].float().mean()
    found = measured(pixels, {"loss": own, "logits": image})
    assert found == (pytest.approx(float(own)), pytest.approx(float(wrong)), 12)
    embeddings = {"loss": torch.tensor(1.5), "logits": torch.randn(4, 16)}
    assert measured(torch.tensor([3, 70, 9, 71]), embeddings) == (1.5, None, 4)
    with pytest.raises(Unmeasurable, match="no logits that fit the labels"):
        measured(torch.tensor([3, 70, 9, 71]), {"logits": torch.randn(4, 16)})


def test_a_loss_without_logits_weighs_its_labels() -> None:
    ignored = torch.full((2, 4), -100)
    assert measured(ignored, {"loss": torch.tensor(math.nan)})[2] == 0
    one = ignored.clone()
    one[0, 1] = 3
    assert measured(one, {"loss": torch.tensor(2.0)}) == (2.0, None, 1)
    whole = torch.ones(2, 4).long()
    items = {"num_items_in_batch": torch.tensor(32)}
    assert measured(whole, {"loss": torch.tensor(2.0 * 8 / 32)}, **items) == (2.0, None, 8)
    l2 = AutoL2(sgd(), measure_every=1)
    for labels, loss in ((ignored, math.nan), (one, 2.0), (whole, 1.0)):
        l2.add(*measured(labels, {"loss": torch.tensor(loss)}))
    l2.step()
    assert l2.state_dict()["controller"]["previous"][0] == pytest.approx((2.0 + 8) / 9)


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_one_logit_and_labels_0_and_1(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 1), torch.tensor([0.0, 1, 1, 0, 1, 0])
    wrong = ((logits[:, 0] > 0) != (labels > 0)).float().mean()
    own = bce(logits[:, 0], labels)
    expected = pytest.approx(float(own)), pytest.approx(float(wrong)), 6
    labels = labels.reshape(shape)
    for outputs in ({"loss": own, "logits": logits}, {"logits": logits}):
        assert measured(labels, outputs) == expected
        assert measured(labels.long(), outputs) == expected
    own = mse_loss(logits[:, 0], labels.reshape(6))  # a regression on labels that are 0 and 1
    for of in (labels, labels.long()):
        assert measured(of, {"loss": own, "logits": logits}) == (float(own), None, 6)


def test_labels_that_are_shares_of_classes() -> None:
    labels = one_hot(torch.tensor([0, 1, 2, 0]), 3).float()
    logits = 10 * labels - 20  # each below 0
    own = cross_entropy(logits, labels)
    assert measured(labels, {"loss": own, "logits": logits})[1] == 0.0
    own = bce(logits, labels)
    assert measured(labels, {"loss": own, "logits": logits})[1] == pytest.approx(4 / 12)


def test_a_language_model_of_ones_own_is_one() -> None:
    """With a further term in its loss, which no longer tells that labels are one place ahead."""

    class Mine(transformers.LlamaForCausalLM):
        pass

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = Mine(transformers.LlamaConfig(vocab_size=32, **sizes, **heads))
    ids = torch.randint(0, 32, (2, 8))
    logits = 9 * one_hot(ids.roll(-1, 1), 32).float()
    own = cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) + 0.3
    assert measured(ids, {"loss": own, "logits": logits}, model)[1:] == (0.0, 14)


# ---------------------------------------------------------------- trainers


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.last = nn.Embedding(8, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        scores = self.last(self.embed(x))
        return {
            "logits": scores,
            **({} if labels is None else {"loss": cross_entropy(scores, labels)}),
        }


ROWS = [{"x": place % 8, "labels": place % 2} for place in range(32)]


def trainer(folder: Path, callback: Any, net: nn.Module, kind: Any = None, **more: Any) -> Any:
    handed = {name: more.pop(name) for name in ("optimizers", "compute_loss_func") if name in more}
    args = transformers.TrainingArguments(
        str(folder),
        **{"max_steps": 4, "save_strategy": "no", "per_device_train_batch_size": 4, **more},
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    made = kind or transformers.Trainer
    return made(net, args, train_dataset=ROWS, eval_dataset=ROWS, callbacks=[callback], **handed)


def test_evaluations_are_no_part_of_a_step(tmp_path: Path) -> None:
    """A compute_loss_func is called for them, too."""

    def losses(**more: Any) -> list[float]:
        torch.manual_seed(0)
        net, callback, seen = Net(), AutoL2Callback(measure_every=1), []

        class Look(transformers.TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                assert callback.auto_l2 is not None
                seen.append(callback.auto_l2.state_dict()["controller"]["previous"][0])

        def loss_of(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
            training = net.training
            loss = cross_entropy(outputs["logits"], labels) if training else torch.tensor(100.0)
            callback.add(loss, (outputs["logits"].argmax(1) != labels).float().mean(), len(labels))
            return loss

        made = trainer(tmp_path, callback, net, compute_loss_func=loss_of, **more)
        made.add_callback(Look())
        made.train()
        return seen

    alone = losses()
    assert len(alone) == 4
    assert losses(eval_strategy="steps", eval_steps=2) == alone


def test_groups_of_an_optimizer_that_was_handed_in(tmp_path: Path) -> None:
    net = Net()
    optimizer = SGD([{"params": [net.last.weight]}, {"params": [net.last.bias]}], lr=0.01)
    callback = AutoL2Callback()
    trainer(tmp_path, callback, net, optimizers=(optimizer, None)).train()
    assert callback.auto_l2 is not None
    assert callback.auto_l2.get_last_lambdas() == [0.1, 0.1]  # as in a plain loop


@pytest.mark.parametrize("decay", [0.01, 0.0])
def test_a_trainer_with_a_rule_of_its_own_for_decay(tmp_path: Path, decay: float) -> None:
    class Spares(transformers.Trainer):
        def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
            return [one for one in super().get_decay_parameter_names(model) if "embed" not in one]

    callback = AutoL2Callback()
    trainer(tmp_path, callback, Net(), Spares, weight_decay=decay).train()
    assert callback.auto_l2 is not None
    assert callback.auto_l2.get_last_lambdas() == [0.1, None]


def test_changed_all_parameters_are_noticed_in_the_trainer(tmp_path: Path) -> None:
    def train(every: bool, steps: int, resume: bool) -> None:
        net = Net()
        groups = [
            {"params": [net.last.weight], "weight_decay": 0.01},
            {"params": [net.last.bias], "weight_decay": 0.0},
        ]
        made = trainer(
            tmp_path,
            AutoL2Callback(all_parameters=every),
            net,
            optimizers=(SGD(groups, lr=0.01), None),
            max_steps=steps,
            save_strategy="steps",
            save_steps=4,
        )
        made.train(resume_from_checkpoint=resume or None)

    train(True, 4, resume=False)
    with pytest.raises(ValueError, match="other parameter groups decayed"):
        train(False, 8, resume=True)
    train(True, 8, resume=True)


@pytest.mark.parametrize("ours_first", [True, False])
def test_a_backbone_that_is_thawed_on_the_way(
    tmp_path: Path, ours_first: bool, unheeded: None
) -> None:
    images = torch.randn(80, 4)
    data = TensorDataset(images, (images[:, 0] > 0).long())

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def training_step(self, batch: Any, index: int) -> Tensor:
            return cross_entropy(self.last(self.backbone(batch[0])), batch[1])

        def configure_optimizers(self) -> SGD:
            return SGD([one for one in self.parameters() if one.requires_grad], lr=0.01)

    def fit(epochs: int, checkpoint: Path | None) -> list[float | None]:
        callback = LightningCallback()
        thaw = BackboneFinetuning(unfreeze_backbone_at_epoch=1)
        made = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            callbacks=[callback, thaw] if ours_first else [thaw, callback],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        made.fit(Module(), DataLoader(data, batch_size=8), ckpt_path=checkpoint)
        if checkpoint is None:
            made.save_checkpoint(tmp_path / "one.ckpt")
        assert callback.auto_l2 is not None
        return callback.auto_l2.get_last_lambdas()

    fit(2, None)
    after = fit(3, tmp_path / "one.ckpt")
    assert len(after) == 2
    assert None not in after
