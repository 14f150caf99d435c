"""`AutoL2` in a plain training loop: what it does to each optimizer, resuming, refusals."""

from __future__ import annotations

import csv
import gzip
import inspect
import io
import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from autol2 import AutoL2, CosineWeightDecay, FollowLR, LambdaScheduler, LinearWeightDecay
from autol2.rules.auto_l2 import Settings
from autol2.rules.convert import convert
from autol2.rules.rule import METHODS, PROTOCOLS
from autol2.rules.step_mean import StepMean

from .conftest import SHARED


def parameters(count: int = 2) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [
        nn.Parameter(torch.randn(3, dtype=torch.float64, generator=generator)) for _ in range(count)
    ]


def task_loss(weights: list[nn.Parameter]) -> Tensor:
    return sum((weight.sin() * (i + 1)).sum() for i, weight in enumerate(weights))  # type: ignore[return-value]


def decay(optimizer: Optimizer) -> list[float]:
    return [float(group["weight_decay"]) for group in optimizer.param_groups]


def plain(lr: float = 0.1) -> SGD:
    return SGD(parameters(), lr=lr)


# -------------------------------------------------------------------- what λ means


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, lr=0.1),
        lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: Adam(p, lr=0.1),
        lambda p: RMSprop(p, lr=0.1),
    ],
    ids=["SGD", "momentum", "Adam", "RMSprop"],
)
def test_coupled_optimizers_descend_the_penalised_loss(
    make: Callable[[list[nn.Parameter]], Optimizer],
) -> None:
    lambda_ = 0.3
    ours, theirs = parameters(), parameters()
    our_optimizer, their_optimizer = make(ours), make(theirs)
    AutoL2(our_optimizer, "fixed", fixed_lambda=lambda_)
    for _ in range(20):
        our_optimizer.zero_grad()
        task_loss(ours).backward()
        our_optimizer.step()
        their_optimizer.zero_grad()
        squares = sum(weight.square().sum() for weight in theirs)
        (task_loss(theirs) + lambda_ * squares).backward()
        their_optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_decoupled_optimizers_shrink_the_weights_first() -> None:
    lambda_, lr = 0.3, 0.1
    ours, theirs = parameters(), parameters()
    our_optimizer = AdamW(ours, lr=lr)
    their_optimizer = Adam(theirs, lr=lr)
    AutoL2(our_optimizer, "fixed", fixed_lambda=lambda_)
    for _ in range(20):
        for weights, optimizer in ((ours, our_optimizer), (theirs, their_optimizer)):
            optimizer.zero_grad()
            task_loss(weights).backward()
            if optimizer is their_optimizer:
                with torch.no_grad():
                    torch._foreach_mul_(theirs, 1 - lr * 2 * lambda_)
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_conventions() -> None:
    """One step of plain SGD without a loss takes the same share off, however it is written."""
    lr, lambda_ = 0.1, 0.3
    start = parameters(1)[0]
    share = convert(lambda_, "sum", "per_step", lr)
    expected = start.detach() * (1 - share)
    for convention, penalty in (
        ("sum", lambda weight, strength: strength * weight.square().sum()),
        ("half", lambda weight, strength: strength * weight.norm() ** 2 / 2),
    ):
        weight = parameters(1)[0]
        penalty(weight, convert(share, "per_step", convention, lr)).backward()  # type: ignore[arg-type, no-untyped-call]
        torch.testing.assert_close(weight - lr * weight.grad, expected)
    for kind in (SGD, AdamW):
        weight = parameters(1)[0]
        weight.grad = torch.zeros_like(weight)
        kind([weight], lr=lr, weight_decay=convert(lambda_, "sum", "weight_decay")).step()
        torch.testing.assert_close(weight.detach(), expected)
    assert convert(0.7, "half", "half") == 0.7
    with pytest.raises(ValueError, match="learning rate"):
        convert(1, "sum", "per_step")
    with pytest.raises(ValueError, match="not one of sum, half"):
        convert(1, "sum", "l2")  # type: ignore[arg-type]


# -------------------------------------------------------------------- when it measures


@pytest.mark.parametrize("trace", ["advance_bn_second_attempt", "threshold5_bn"])
def test_published_recordings(trace: str) -> None:
    """Fed with what was recorded, the published rule sets the recorded λ at every measurement."""
    path = SHARED / "traces" / f"{trace}.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    method = "threshold" if trace.startswith("threshold") else "advance"
    optimizer = plain(lr=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        l2 = AutoL2(optimizer, method, alpha=5, protocol="published", steps_per_epoch=391)  # type: ignore[arg-type]
        events, step = 0, 0
        with gzip.open(path, "rt") as file:
            for row in csv.DictReader(file):
                measured = int(row["epoch"]) * 391 + int(row["step"])
                while step < measured - 1:
                    step += 1
                    assert l2.step(math.nan, math.nan).event == "none"
                assert l2.get_last_lambda() == pytest.approx(float(row["lambda"]), rel=1e-9)
                error = 1 - float(row["train_accuracy"]) / 100
                events += l2.step(float(row["train_loss"]), error).event != "none"
                step += 1
                if step > 5 * 391:
                    break
    assert l2.last_step == step
    assert events >= 3
    assert decay(optimizer) == [2 * l2.get_last_lambda()]


class Unread:
    """A number that must not be asked for."""

    def __float__(self) -> float:
        raise AssertionError("loss and error were read at a step that is not measured")


def test_only_every_kth_step_is_read() -> None:
    """But for the first, which is checked."""
    l2 = AutoL2(plain(), measure_every=3)
    l2.step(1.0, 0.5)
    for number in range(4):
        for _ in range(2 if number else 1):
            assert l2.step(Unread(), Unread()).reason == "measured every 3 steps"
        l2.step(torch.tensor(1.0, requires_grad=True), torch.tensor(0.5))
    assert l2.last_step == 12


@pytest.mark.parametrize("marks", [True, False])
def test_epochs(marks: bool) -> None:
    """Measurements are counted within an epoch: of 7 steps the third and the sixth."""
    l2 = AutoL2(plain(), "advance", measure_every=3, steps_per_epoch=None if marks else 7)
    l2._checked = True
    for _ in range(3):
        if marks:
            l2.start_epoch()
        for position in range(1, 8):
            measured = position % 3 == 0
            number: Any = 0.5 if measured else Unread()
            reason = l2.step(number, number).reason
            assert (reason != "measured every 3 steps") == measured


def test_bounds_and_event() -> None:
    l2 = AutoL2(plain(), "advance", measure_every=1, lambda_max=0.5, lambda_min=0.04, cooldown=0)
    losses = [4.0, 3.0, 2.0, 1.0, *(float(n) for n in range(2, 8))]
    decisions = [l2.step(loss, 0.5) for loss in losses]
    assert [d.event for d in decisions if d.event != "none"] == ["raised", "decayed", "decayed"]
    raised = next(d for d in decisions if d.event == "raised")
    assert raised.lambda_ == 0.5
    assert "loss 3" in raised.reason
    assert l2.get_last_lambda() == 0.04
    assert AutoL2(plain(), lambda_max=None).state_dict()["controller"]["rule"]["lambda_max"] == 10


@pytest.mark.parametrize(
    ("method", "protocol"),
    [(m, p) for m in METHODS for p in PROTOCOLS if p != "original" or m in ("fixed", "auto_l2")],
)
def test_nan_is_never_an_improvement(method: Any, protocol: Any) -> None:
    if protocol == "original" and method not in ("fixed", "auto_l2"):
        pytest.skip("there is no such rule")
    l2 = AutoL2(
        plain(1e-3), method, protocol=protocol, measure_every=1, steps_per_epoch=99, cooldown=0
    )
    for loss, error in [(2.0, 0.9), *[(math.nan, math.nan), (math.inf, 0.9)] * 5]:
        assert l2.step(loss, error).event != "raised"


# -------------------------------------------------------------------- parameter groups


def test_groups() -> None:
    """Opted out, added later, and with a weight decay in a tensor that they share."""
    first, second, third = parameters(3)
    optimizer = SGD(
        [{"params": [first]}, {"params": [second], "auto_l2": False}],
        lr=0.1,
        weight_decay=torch.tensor(0.25),
    )
    l2 = AutoL2(optimizer, measure_every=1, initial_lambda=0.1)
    assert decay(optimizer) == [pytest.approx(0.2), 0.25]
    held = optimizer.param_groups[0]["weight_decay"]
    optimizer.add_param_group({"params": [third], "weight_decay": 1.0})
    for loss in (1.0, 2.0, 3.0, 4.0):
        l2.step(loss, 0.5)
    assert l2.get_last_lambda() == pytest.approx(0.01)
    assert decay(optimizer) == [pytest.approx(0.02), 0.25, pytest.approx(0.02)]
    assert optimizer.param_groups[0]["weight_decay"] is held


# -------------------------------------------------------------------- beside other things


class Training:
    """A small real training: digits, two layers, everything seeded."""

    def __init__(self, make: Callable[[Iterator[nn.Parameter]], Optimizer], **settings: Any):
        digits = load_digits()
        self.images = torch.tensor(digits.images, dtype=torch.float32).flatten(1) / 16
        self.labels = torch.tensor(digits.target)
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.optimizer = make(self.model.parameters())
        self.l2 = AutoL2(self.optimizer, "combined", alpha=5, cooldown=0.01, **settings)
        self.events: list[str] = []

    def step(self, number: int) -> tuple[Tensor, Tensor]:
        batch = torch.arange(number * 32, (number + 1) * 32) % len(self.images)
        scores = self.model(self.images[batch])
        loss = cross_entropy(scores, self.labels[batch])
        self.optimizer.zero_grad()
        return loss, (scores.argmax(1) != self.labels[batch]).float().mean()

    def train(self, first: int, last: int) -> Training:
        for number in range(first, last):
            loss, error = self.step(number)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.events.append(self.l2.step(loss, error).event)
        return self

    def save(self) -> dict[str, Any]:
        buffer = io.BytesIO()
        state = {"m": self.model, "o": self.optimizer, "l2": self.l2}
        torch.save({key: value.state_dict() for key, value in state.items()}, buffer)  # type: ignore[attr-defined]
        buffer.seek(0)
        loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
        return loaded


def momentum(weights: Iterator[nn.Parameter]) -> Optimizer:
    return SGD(weights, lr=0.1, momentum=0.9)


@pytest.mark.parametrize("make", [momentum, lambda p: AdamW(p, lr=3e-3)], ids=["SGD", "AdamW"])
@pytest.mark.parametrize("wrapped_first", [True, False])
def test_resume_is_exact(
    make: Callable[[Iterator[nn.Parameter]], Optimizer], wrapped_first: bool
) -> None:
    whole = Training(make).train(0, 200)
    half = Training(make).train(0, 83)
    state = half.save()
    assert {"decayed", "raised"} <= set(whole.events)
    assert set(whole.events[83:]) > {"none"}

    resumed = Training(make)
    resumed.model.load_state_dict(state["m"])
    resumed.optimizer.load_state_dict(state["o"])
    if not wrapped_first:
        resumed.l2 = AutoL2(resumed.optimizer, "combined", alpha=5, cooldown=0.01)
    resumed.l2.load_state_dict(state["l2"])
    resumed.train(83, 200)
    assert half.events + resumed.events == whole.events
    assert resumed.l2.state_dict() == whole.l2.state_dict()
    for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_disagreeing_states_are_refused() -> None:
    trained = Training(momentum).train(0, 60)
    state = trained.save()
    assert trained.l2.get_last_lambda() != 0.1

    fresh = Training(momentum)  # the optimizer's state was forgotten
    before = fresh.l2.state_dict()
    with pytest.raises(ValueError, match="load the optimizer's state first"):
        fresh.l2.load_state_dict(state["l2"])
    assert fresh.l2.state_dict() == before

    fresh.optimizer.load_state_dict(state["o"])  # now the controller's is
    with pytest.raises(RuntimeError, match="load AutoL2's state"):
        fresh.train(0, 5)

    other = Training(momentum, decay_factor=0.5)
    other.optimizer.load_state_dict(state["o"])
    with pytest.raises(ValueError, match="another rule"):
        other.l2.load_state_dict(state["l2"])
    other = Training(momentum, measure_every=7)
    with pytest.raises(ValueError, match="measure_every=5, not 7"):
        other.l2.load_state_dict(state["l2"])
    with pytest.raises(ValueError, match="not a state of AutoL2"):
        other.l2.load_state_dict(state["o"])


def test_learning_rate_scheduler() -> None:
    training = Training(momentum)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(training.optimizer, 60)
    for number in range(60):
        training.train(number, number + 1)
        scheduler.step()
        assert decay(training.optimizer) == [2 * training.l2.get_last_lambda()]
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    assert training.l2.get_last_lambda() != 0.1


def test_grad_scaler_and_compiled_step() -> None:
    """The same as without them, to the bit: scaling is by a power of two."""
    alone = Training(momentum).train(0, 40)
    scaled = Training(momentum)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)  # type: ignore[attr-defined]
    compiled = Training(momentum)
    compiled_step = torch.compile(compiled.optimizer.step, backend="eager")
    for number in range(40):
        loss, error = scaled.step(number)
        scaler.scale(loss).backward()
        scaler.step(scaled.optimizer)
        scaler.update()
        scaled.l2.step(loss, error)
        loss, error = compiled.step(number)
        loss.backward()  # type: ignore[no-untyped-call]
        compiled_step()
        compiled.l2.step(loss, error)
    assert alone.l2.get_last_lambda() != 0.1
    assert scaled.l2.state_dict() == alone.l2.state_dict()
    if torch.__version__ >= (2, 11):  # torch 2.6 compiles a step that rounds elsewhere
        assert compiled.l2.state_dict() == alone.l2.state_dict()
    assert compiled.l2.get_last_lambda() == alone.l2.get_last_lambda()
    for one in (scaled, compiled):
        for ours, theirs in zip(one.model.parameters(), alone.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


# -------------------------------------------------------------------- what a step is made of


def test_means_are_weighted_by_what_was_counted() -> None:
    """1 and 99 tokens; a batch that counts nothing weighs nothing, NaN though it be."""
    mean = StepMean()
    for as_tensor in (False, True):
        for loss, error, count in ((0.5, 0.0, 1), (2.5, 0.8, 99), (math.nan, math.nan, 0)):
            if as_tensor:
                mean.add(torch.tensor(loss), torch.tensor(error), torch.tensor(count))
            else:
                mean.add(loss, error, count)
        assert mean.take() == (pytest.approx(2.48), pytest.approx(0.792), 100)
    mean.add(1.0)
    mean.add(3.0, 0.5)
    assert mean.take() == (2.0, 0.5, 2)  # an error that one batch lacks
    mean.add(math.nan, None, 0)
    loss, error, count = mean.take()
    assert (math.isnan(loss), error, count) == (True, None, 0)


def test_added_batches_decide_as_their_mean() -> None:
    one, other = (AutoL2(plain(), measure_every=1, cooldown=0) for _ in range(2))
    for number in range(12):
        losses = (2.0 + number, 4.0 + number)
        one.add(losses[0], 0.5, 1)
        one.add(losses[1], 0.1, 3)
        decision = one.step()
        assert decision == other.step(losses[0] / 4 + losses[1] * 3 / 4, 0.2)
    assert one.get_last_lambda() < 1e-3


def test_a_step_without_anything_counted_is_passed_over() -> None:
    l2 = AutoL2(plain(), measure_every=1)
    l2.add(math.nan, math.nan, 0)
    assert l2.step().reason == "nothing was counted"
    assert l2.state_dict()["controller"]["count"] == 0
    with pytest.warns(RuntimeWarning, match="without a loss and nothing was added"):
        AutoL2(plain(), measure_every=1).step()


@pytest.mark.parametrize("error", [None, math.nan, torch.tensor(math.nan)])
def test_the_loss_alone(error: Any) -> None:
    l2 = AutoL2(plain(), measure_every=1, cooldown=0)
    for loss in (1.0, 2.0, 3.0):
        decision = l2.step(loss, error)
    assert decision.event == "decayed"
    for _ in range(3):
        assert l2.step(0.5).event == "none"  # a better loss; no tie of errors


def test_losses_below_zero() -> None:
    l2 = AutoL2(plain(), "threshold", alpha=5, measure_every=1)
    assert [l2.step(loss).event for loss in (-10, -10, -10.1)] == ["none"] * 3


@pytest.mark.parametrize("error", [-1.2e-07, 1.0000001, np.float32(1.0000001)])
def test_rounding_is_no_error(error: float) -> None:
    l2 = AutoL2(plain(), measure_every=1)
    l2.step(1.0, error)
    _, accuracy = l2.state_dict()["controller"]["minimum"]
    l2.step(1.0, error)
    _, accuracy = l2.state_dict()["controller"]["minimum"]
    assert accuracy in (0.0, 100.0)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (1.0, 37.5, "from 0 to 1, not 37.5"),
        (1.0, -0.1, "from 0 to 1, not -0.1"),
        (1.0, torch.tensor(1.1), "from 0 to 1, not 1.1"),
        (1.0, torch.zeros(32), r"error must be one number, not a tensor of shape \[32\]"),
        (torch.zeros(2, 3), 0.5, r"loss must be one number, not a tensor of shape \[2, 3\]"),
    ],
)
def test_the_first_step_is_checked(loss: Any, error: Any, message: str) -> None:
    """Though the fifth is the first that is measured."""
    with pytest.raises(ValueError, match=message):
        AutoL2(plain()).step(loss, error)


def test_numpys_numbers() -> None:
    optimizer = plain()
    l2 = AutoL2(
        optimizer,
        "combined",
        alpha=np.float32(5),
        measure_every=np.int64(1),
        steps_per_epoch=np.int32(7),
        initial_lambda=np.float64(0.1),
        cooldown=np.float32(0),
    )
    for loss in (1, 2, 3):
        decision = l2.step(np.float32(loss), np.float64(0.5), np.int64(3))
    assert decision.event == "decayed"
    assert type(optimizer.param_groups[0]["weight_decay"]) is float
    state = {"o": optimizer.state_dict(), "l2": l2.state_dict()}
    json.dumps(state["l2"], allow_nan=False)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    l2.load_state_dict(torch.load(buffer, weights_only=True)["l2"])
    with pytest.raises(ValueError, match="measure_every must be a whole number"):
        AutoL2(plain(), measure_every=2.5)  # type: ignore[arg-type]


def test_original_measures_the_first_step() -> None:
    l2 = AutoL2(plain(), protocol="original", steps_per_epoch=4)
    assert l2.measure_every == 10
    due = []
    for number in range(31):
        due += [number] if l2.due else []
        l2.step(1.0, 0.5)
    assert due == [0, 10, 20, 30]
    assert l2.get_last_lambda() == pytest.approx(0.01)  # at 20: ties


# -------------------------------------------------------------------- resuming elsewhere


def test_epochs_of_another_length_are_refused() -> None:
    l2 = AutoL2(plain(), steps_per_epoch=10, measure_every=1)
    for _ in range(7):
        l2.step(1.0, 0.5)
    for given in (5, None):
        other = AutoL2(plain(), steps_per_epoch=given, measure_every=1)
        with pytest.raises(ValueError, match=f"steps_per_epoch=10, not {given}"):
            other.load_state_dict(l2.state_dict())
        assert other.last_step == 0
    other = AutoL2(plain(), steps_per_epoch=5, measure_every=1)
    other.optimizer.load_state_dict(l2.optimizer.state_dict())
    other.load_state_dict(l2.state_dict(), accept_changes=True)
    clocks = []
    for _ in range(7):
        clocks.append(other._clock)
        other.step(1.0, 0.5)
    assert max(clocks) <= 5
    assert other.last_step == 14


def test_other_groups_are_refused() -> None:
    """A checkpoint of the optimizer brings its flags along; ours decide."""

    def build(flag: bool) -> AutoL2:
        one, two = parameters()
        groups = [{"params": [one]}, {"params": [two], "auto_l2": flag}]
        return AutoL2(SGD(groups, lr=0.1))

    saved, other = build(True), build(False)
    other.optimizer.load_state_dict(saved.optimizer.state_dict())
    with pytest.raises(ValueError, match=r"\[True, True\], not \[True, False\]"):
        other.load_state_dict(saved.state_dict())
    other.load_state_dict(saved.state_dict(), accept_changes=True)
    assert other.get_last_lambdas() == [0.1, None]


# -------------------------------------------------------------------- more on parameter groups


@pytest.mark.parametrize("all_parameters", [None, False, True])
def test_groups_without_decay_beside_others(all_parameters: bool | None) -> None:
    one, two, three = parameters(3)
    optimizer = SGD(
        [{"params": [one], "weight_decay": 0.1}, {"params": [two]}, {"params": [three]}], lr=0.1
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        AutoL2(optimizer, all_parameters=all_parameters)
    expected = [0.2, 0.2, 0.2] if all_parameters else [0.2, 0.0, 0.0]
    assert decay(optimizer) == expected
    messages = [str(one.message) for one in caught]
    if all_parameters is None:
        assert len(messages) == 1
        assert "parameter group 1 and 2" in messages[0]
        assert "all_parameters=True" in messages[0]
        assert caught[0].filename == __file__
    else:
        assert messages == []
    assert decay(plain_with(AutoL2)) == [0.2]  # none has any: all are meant


def plain_with(kind: Callable[[Optimizer], object]) -> Optimizer:
    optimizer = plain()
    kind(optimizer)
    return optimizer


def test_a_controller_of_ones_own() -> None:
    one, two, three = parameters(3)
    optimizer = SGD(
        [
            {"params": [one]},
            {"params": [two], "auto_l2": {"method": "fixed", "fixed_lambda": 0.3}},
            {"params": [three], "auto_l2": {"decay_factor": 0.5}},
        ],
        lr=0.1,
    )
    l2 = AutoL2(optimizer, measure_every=1)
    for loss in (1.0, 2.0, 3.0):
        decision = l2.step(loss, 0.5)
    assert decision.lambda_ == pytest.approx(0.01)
    assert l2.get_last_lambdas() == pytest.approx([0.01, 0.3, 0.05])
    assert decay(optimizer) == pytest.approx([0.02, 0.6, 0.1])
    state, saved = json.loads(json.dumps(l2.state_dict())), optimizer.state_dict()
    resumed = AutoL2(optimizer, measure_every=1)
    optimizer.load_state_dict(saved)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == l2.state_dict()
    with pytest.raises(ValueError, match="a group has no setting alfa; choose from"):
        AutoL2(SGD([{"params": [one], "auto_l2": {"alfa": 1}}]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_decay_in_a_tensor_passes_its_own_check(dtype: torch.dtype) -> None:
    optimizer = SGD(parameters(), lr=0.1, weight_decay=torch.tensor(0.1, dtype=dtype))
    l2 = AutoL2(optimizer, measure_every=1, cooldown=0)
    for loss in range(1, 6):
        l2.step(float(loss), 0.5)
    saved = l2.state_dict(), optimizer.state_dict()
    resumed = AutoL2(optimizer, measure_every=1, cooldown=0)
    optimizer.load_state_dict(saved[1])
    resumed.load_state_dict(saved[0])


def test_groups_that_lack_something() -> None:
    for without, message in ((None, "weight_decay=None in parameter group 0"),):
        optimizer = plain()
        optimizer.param_groups[0]["weight_decay"] = without
        with pytest.raises(ValueError, match=message):
            AutoL2(optimizer)
    optimizer = plain()
    optimizer.param_groups[0]["lr"] = None  # as Adafactor's relative steps
    AutoL2(optimizer, measure_every=1).step(1.0, 0.5)
    del optimizer.param_groups[0]["lr"]
    AutoL2(optimizer, measure_every=1).step(1.0, 0.5)
    with pytest.raises(ValueError, match="learning rate"):
        convert(0.1, "sum", "per_step", 0)
    assert convert(0.1, "sum", "half", 0) == 0.2


def test_an_interval_longer_than_an_epoch() -> None:
    with pytest.raises(ValueError, match="an epoch of 3 steps is never measured with measure_ev"):
        AutoL2(plain(), steps_per_epoch=3)
    l2 = AutoL2(plain())
    l2.start_epoch()
    for _ in range(3):
        l2.step(1.0, 0.5)
    with pytest.warns(RuntimeWarning, match="an epoch of 3 steps is never measured"):
        l2.start_epoch()


# -------------------------------------------------------------------- as a scheduler


def test_it_passes_for_a_learning_rate_scheduler() -> None:
    optimizer = plain(lr=0.3)
    for one in (AutoL2(optimizer), FollowLR(plain(lr=0.3), 0.1)):
        assert isinstance(one, torch.optim.lr_scheduler.LRScheduler)
        assert one.get_last_lr() == [0.3]
    assert optimizer.param_groups[0]["lr"] == 0.3


def test_accelerate_prepares_it(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    weights = parameters()
    optimizer, l2 = accelerator.prepare(
        *(lambda one: (one, AutoL2(one, measure_every=1)))(SGD(weights, lr=0.1))
    )
    # Its wrapper calls step() once for each process after a step of the optimizer.
    monkeypatch.setitem(accelerate.state.AcceleratorState._shared_state, "num_processes", 2)
    for loss in (1.0, 2.0, 3.0):
        task_loss(weights).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        l2.step(loss, 0.5)
    assert l2.scheduler.last_step == 3
    assert l2.scheduler.get_last_lambda() == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda o: CosineWeightDecay(o, 4, initial_lambda=0.4), [0.4, 0.341421, 0.2, 0.058579, 0]),
        (
            lambda o: LinearWeightDecay(o, 4, initial_lambda=0.1, final_lambda=0.5),
            [0.1, 0.2, 0.3, 0.4, 0.5],
        ),
        (lambda o: FollowLR(o, 0.1), [0.1, 0.2, 0.4, 0.8, 1.6]),
    ],
    ids=["cosine", "linear", "follow lr"],
)
def test_schedules(
    make: Callable[[Optimizer], LambdaScheduler], expected: list[float], tmp_path: Path
) -> None:
    def build() -> tuple[Optimizer, Any, LambdaScheduler]:
        optimizer = SGD(parameters(), lr=0.1)
        halving = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return optimizer, halving, make(optimizer)

    optimizer, rates, schedule = build()
    for number, lambda_ in enumerate(expected):
        assert schedule.get_last_lambda() == pytest.approx(lambda_, abs=1e-6)
        assert decay(optimizer) == [2 * schedule.get_last_lambda()]
        if isinstance(schedule, FollowLR):
            assert optimizer.param_groups[0]["lr"] * lambda_ == pytest.approx(0.01)
        if number == 2:
            states = [one.state_dict() for one in (optimizer, rates, schedule)]
            json.dumps(states[2], allow_nan=False)
            optimizer, rates, schedule = build()
            for one, state in zip((optimizer, rates, schedule), states, strict=True):
                one.load_state_dict(state)
        optimizer.step()
        rates.step()
        schedule.step(1.0)
    other = CosineWeightDecay(plain(), 9, initial_lambda=0.4)
    with pytest.raises(ValueError, match=r"not a state of|saved with"):
        other.load_state_dict(schedule.state_dict())


def test_follow_lr_keeps_lambda_at_a_rate_of_zero() -> None:
    optimizer = plain(lr=0.1)
    schedule = FollowLR(optimizer, 0.1)
    for rate, expected in ((0.05, 0.2), (0.0, 0.2), (0.1, 0.1)):
        optimizer.param_groups[0]["lr"] = rate
        schedule.step()
        assert schedule.get_last_lambda() == pytest.approx(expected)


# -------------------------------------------------------------------- warnings and refusals


def test_momentum_adds_up() -> None:
    """lr·weight_decay/(1 - momentum) = 0.1 · 1.2 / 0.1."""
    with pytest.warns(RuntimeWarning, match=r"lr·weight_decay/\(1 - momentum\) = 1.2 is") as caught:
        AutoL2(SGD(parameters(), lr=0.1, momentum=0.9), initial_lambda=0.6)
    assert caught[0].filename == __file__  # the caller's line
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AutoL2(SGD(parameters(), lr=0.1, momentum=0.9), initial_lambda=0.4)
        AutoL2(SGD(parameters(), lr=0.1), initial_lambda=4)
        AutoL2(AdamW(parameters(), lr=0.1), initial_lambda=4)


def test_warns_once_when_weights_flip() -> None:
    with pytest.warns(RuntimeWarning, match=r"multiplies the weights by -1,"):
        l2 = AutoL2(plain(lr=0.1), measure_every=1, initial_lambda=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            l2.step(1.0, 0.5)
        optimizer = plain(lr=0.1)
        l2 = AutoL2(optimizer, measure_every=2, initial_lambda=1)
    optimizer.param_groups[0]["lr"] = 0.5  # as a warm-up would
    l2.step(1.0, 0.5)
    with pytest.warns(RuntimeWarning, match=r"lr·weight_decay = 1 "):
        l2.step(1.0, 0.5)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: AutoL2(torch.optim.LBFGS(parameters())), "LBFGS has no weight_decay"),
        (lambda: AutoL2(SGD([{"params": parameters(), "auto_l2": False}])), "nothing to do"),
        (lambda: AutoL2(plain(), measure_every=0), "measure_every must be at least 1"),
        (lambda: AutoL2(plain(), steps_per_epoch=0), "steps_per_epoch must be"),
        (lambda: AutoL2(plain(), alpha=-1), "alpha must be"),
        (lambda: AutoL2(plain(), "autol2"), "method must be one of"),  # type: ignore[arg-type]
        (lambda: AutoL2(plain(), measure_every=1).step(1.0, 37.5), "from 0 to 1, not 37.5"),
    ],
)
def test_refusals(attempt: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attempt()


def test_published_wants_epochs() -> None:
    with pytest.raises(RuntimeError, match=r"steps_per_epoch=len\(loader\)"):
        AutoL2(plain(), protocol="published").step(1.0, 0.5)


def test_settings_are_the_arguments() -> None:
    arguments = inspect.signature(AutoL2).parameters
    assert list(Settings.__annotations__) == list(arguments)[2:]


def average(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    mean = StepMean()
    mean.add(torch.tensor(1.0 + rank), 0.25 * rank)
    assert mean.take() == (1.5, 0.125, 2.0)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_measure_the_same(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(average, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]


def test_import_is_light() -> None:
    code = (
        "import sys; from autol2 import AutoL2\n"
        "print(*{'hydra', 'omegaconf', 'pandas', 'torchvision', 'submitit'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    code = (
        "import sys, autol2; assert 'torch' not in sys.modules\n"
        "from autol2 import Rule, replay; from autol2 import replay as again\n"
        "assert callable(replay) and again is replay and autol2.replay is replay"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
