"""Augmentation, optimizer, learning rate schedule and loss: the parts of a recipe, each alone."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from autol2.component import Component
from autol2.errors import UserError
from autol2.recipe.augmentations.augmentation import Augmentation, generator
from autol2.recipe.augmentations.flip_crop import FlipCrop
from autol2.recipe.augmentations.flip_crop_mixup import FlipCropMixup
from autol2.recipe.augmentations.none import NoAugmentation
from autol2.recipe.losses import CrossEntropy
from autol2.recipe.lr_schedules.constant import Constant
from autol2.recipe.lr_schedules.cosine import Cosine
from autol2.recipe.lr_schedules.lr_schedule import LRSchedule
from autol2.recipe.lr_schedules.step import Step
from autol2.recipe.optimizers.adamw import AdamW
from autol2.recipe.optimizers.sgd import SGD

# ---------------------------------------------------------------- augmentation


def batch(count: int = 6, side: tuple[int, int] = (8, 5)) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, *side, generator=draw), torch.arange(count) % 4


def augmented(one: Augmentation, seed: int, step: int, count: int = 6) -> tuple[Tensor, Tensor]:
    images, labels = batch(count)
    numbers = torch.from_numpy(one.draw(generator(seed, step), count))
    assert numbers.shape == (count, one.columns)
    assert numbers.dtype == torch.float32
    return one.apply(images, labels, numbers, 4)


def test_none_changes_nothing() -> None:
    images, labels = batch()
    same, as_well = augmented(NoAugmentation(), 0, 0)
    assert torch.equal(same, images)
    assert torch.equal(as_well, labels)


def test_flip_crop_is_a_mirrored_window_of_the_padded_image() -> None:
    one = FlipCrop(padding=2)
    images, labels = batch(64)
    numbers = torch.from_numpy(one.draw(generator(1, 2), 64))
    found, same = one.apply(images, labels, numbers, 4)
    assert torch.equal(same, labels)
    padded = nn.functional.pad(images, (2, 2, 2, 2))
    for place, (mirrored, top, left) in enumerate(numbers.int().tolist()):
        window = padded[place, :, top : top + 8, left : left + 5]
        assert torch.equal(found[place], window.flip(-1) if mirrored else window)
    assert set(numbers[:, 0].tolist()) == {0.0, 1.0}
    assert set(numbers[:, 1:].flatten().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_mixup_blends_images_and_labels_alike() -> None:
    one = FlipCropMixup(padding=0)
    images, labels = batch()
    numbers = torch.from_numpy(one.draw(generator(0, 0), 6))
    numbers[:, 0] = 0  # nothing is mirrored
    found, targets = one.apply(images, labels, numbers, 4)
    for place, weight in enumerate(numbers[:, 3].tolist()):
        other = 5 - place
        blend = weight * images[place] + (1 - weight) * images[other]
        assert torch.allclose(found[place], blend, atol=1e-6)
        expected = torch.zeros(4)
        expected[labels[place]] += weight
        expected[labels[other]] += 1 - weight
        assert torch.allclose(targets[place], expected, atol=1e-6)
    assert torch.allclose(targets.sum(1), torch.ones(6))
    assert ((numbers[:, 3] > 0) & (numbers[:, 3] < 1)).all()


def test_mixups_weights_follow_the_beta_distribution() -> None:
    for alpha in (0.2, 1.0, 8.0):
        weights = FlipCropMixup(alpha=alpha).draw(generator(0, 0), 20_000)[:, 3]
        assert weights.mean() == pytest.approx(0.5, abs=0.02)
        assert weights.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


@pytest.mark.parametrize("one", [FlipCrop(), FlipCropMixup()])
def test_numbers_depend_on_seed_and_step_alone(one: Augmentation) -> None:
    first = {place: augmented(one, *place) for place in itertools.product((0, 1), (0, 1, 2**40))}
    for place, (images, targets) in reversed(list(first.items())):
        again, as_well = augmented(one, *place)
        assert torch.equal(images, again)
        assert torch.equal(targets, as_well)
    for one_place, other in itertools.combinations(first, 2):
        assert not torch.equal(first[one_place][0], first[other][0])


def test_numbers_are_the_same_on_any_machine() -> None:
    """Written down once: a run that is resumed elsewhere goes on with the same images."""
    numbers = FlipCropMixup().draw(generator(3, 1000), 2)
    assert numbers.tolist() == [
        [1.0, 5.0, 6.0, 0.9984461069107056],
        [1.0, 3.0, 6.0, 0.5935440063476562],
    ]


# ---------------------------------------------------------------- optimizer


def weights() -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(*shape, generator=draw)) for shape in ((4, 3), (4,))]


def stepped(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: int) -> None:
    for step in range(steps):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 0.1 * (step + 1))
        optimizer.step()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(), lambda p: torch.optim.SGD(p, 0.1)),
        (SGD(0.9), lambda p: torch.optim.SGD(p, 0.1, 0.9)),
        (SGD(0.9, True), lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True)),
        (AdamW(), lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0)),
        (
            AdamW([0.8, 0.9], 1e-4),
            lambda p: torch.optim.AdamW(p, 0.1, (0.8, 0.9), 1e-4, weight_decay=0),
        ),
    ],
)
def test_optimizers_are_torchs(ours, theirs) -> None:
    one, other = weights(), weights()
    stepped(ours.build([{"params": one}], 0.1), one, 3)
    stepped(theirs(other), other, 3)
    for mine, yours in zip(one, other, strict=True):
        assert torch.equal(mine, yours)


def test_neutral_options_are_no_part_of_the_identity() -> None:
    assert SGD().identity() == {"name": "sgd"}
    assert SGD(0.9).identity() == {"name": "sgd", "momentum": 0.9}
    assert Constant().identity() == {"name": "constant"}
    assert Cosine(0.1).identity() == {"name": "cosine", "warmup": 0.1}
    assert NoAugmentation().identity() == {"name": "none"}
    assert FlipCrop().identity() == {"name": "flip_crop", "padding": 4}
    assert CrossEntropy().identity() == {"name": "cross_entropy"}
    assert AdamW().identity() == {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8}
    assert Step().identity()["milestones"] == [0.3, 0.6, 0.9]


# ---------------------------------------------------------------- learning rate


def rates(schedule: LRSchedule, steps: int, lr: float = 0.2) -> list[float]:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr)
    scheduler = schedule.build(optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        parameter.grad = torch.zeros(1)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return found


def test_constant() -> None:
    assert Constant().build(torch.optim.SGD(weights(), 0.1), 10) is None
    assert rates(Constant(), 5) == [0.2] * 5


def test_cosine() -> None:
    expected = [0.1 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert rates(Cosine(), 8) == pytest.approx(expected)
    expected = [0.02 + 0.09 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert rates(Cosine(final=0.1), 8) == pytest.approx(expected)


def test_step() -> None:
    expected = [0.2] * 3 + [0.04] * 3 + [0.008] * 3 + [0.0016]
    assert rates(Step(), 10) == pytest.approx(expected)
    assert rates(Step(milestones=[0.5], factor=0.1), 4) == pytest.approx([0.2, 0.2, 0.02, 0.02])


@pytest.mark.parametrize("schedule", [Constant(0.2), Cosine(0.2), Step(0.2)])
def test_warmup_rises_in_equal_steps_to_lr(schedule: LRSchedule) -> None:
    found = rates(schedule, 20)
    assert found[:5] == pytest.approx([0.04, 0.08, 0.12, 0.16, 0.2])
    assert max(found) == pytest.approx(0.2)
    if isinstance(schedule, Constant):
        assert found[5:] == pytest.approx([0.2] * 15)
    elif isinstance(schedule, Cosine):
        expected = [0.1 * (1 + math.cos(math.pi * step / 16)) for step in range(16)]
        assert found[4:] == pytest.approx(expected)
    else:
        assert found[4:] == pytest.approx([0.2] * 2 + [0.04] * 6 + [0.008] * 6 + [0.0016] * 2)


@pytest.mark.parametrize("schedule", [Constant(0.3), Cosine(0.1, 0.1), Step(0.25), Cosine()])
@pytest.mark.parametrize("stop", [1, 3, 6, 7, 17])
def test_resumed_anywhere_gives_the_same_rates(schedule: LRSchedule, stop: int) -> None:
    def trained(first: int, last: int, state: tuple | None) -> tuple[list[float], tuple]:
        parameter = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], 0.2, 0.9)
        scheduler = schedule.build(optimizer, 20)
        assert scheduler is not None
        if state is not None:
            optimizer.load_state_dict(state[0])
            scheduler.load_state_dict(state[1])
        found = []
        for _ in range(first, last):
            found.append(optimizer.param_groups[0]["lr"])
            parameter.grad = torch.zeros(1)
            optimizer.step()
            scheduler.step()
        return found, (optimizer.state_dict(), scheduler.state_dict())

    whole, _ = trained(0, 20, None)
    begun, state = trained(0, stop, None)
    resumed, _ = trained(stop, 20, state)
    assert begun + resumed == whole


# ---------------------------------------------------------------- loss


def test_cross_entropy() -> None:
    draw = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(5, 4, generator=draw), torch.tensor([0, 1, 2, 3, 1])
    logs = scores.log_softmax(1)
    plain = -logs[torch.arange(5), labels].mean()
    assert torch.equal(CrossEntropy()(scores, labels), nn.functional.cross_entropy(scores, labels))
    assert CrossEntropy()(scores, labels) == pytest.approx(float(plain))
    smooth = 0.9 * plain - 0.1 * logs.mean()
    assert float(CrossEntropy(0.1)(scores, labels)) == pytest.approx(float(smooth))
    shares = torch.rand(5, 4, generator=draw)
    soft = -(shares * logs).sum(1).mean()
    assert float(CrossEntropy()(scores, shares)) == pytest.approx(float(soft))
    assert CrossEntropy().scale(10) == 1
    assert CrossEntropy(loss_scale="mean_over_classes").scale(10) == 0.1


# ---------------------------------------------------------------- what makes no sense


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FlipCrop(-1), "augmentation.padding"),
        (lambda: FlipCropMixup(alpha=0.0), "augmentation.alpha"),
        (lambda: FlipCropMixup(alpha=math.nan), "augmentation.alpha"),
        (lambda: SGD(1.0), "optimizer.momentum"),
        (lambda: SGD(-0.1), "optimizer.momentum"),
        (lambda: SGD(math.nan), "optimizer.momentum"),
        (lambda: SGD(0.0, True), "add optimizer.momentum=0.9"),
        (lambda: AdamW([0.9]), "optimizer.betas"),
        (lambda: AdamW([0.9, 1.0]), "optimizer.betas"),
        (lambda: AdamW(eps=0.0), "optimizer.eps"),
        (lambda: Constant(5.0), "share of training"),
        (lambda: Constant(-0.1), "share of training"),
        (lambda: Cosine(0.0, 2.0), "lr_schedule.final"),
        (lambda: Step(milestones=[0.6, 0.3]), "lr_schedule.milestones"),
        (lambda: Step(milestones=[30.0, 60.0]), "lr_schedule.milestones"),
        (lambda: Step(0.4), "must end before"),
        (lambda: Step(factor=0.0), "lr_schedule.factor"),
        (lambda: CrossEntropy(1.0), "loss.label_smoothing"),
        (lambda: CrossEntropy(loss_scale="sum"), "loss.loss_scale=sum is not one of mean"),
    ],
)
def test_refused(build, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_every_option_says_what_it_is() -> None:
    """Its class and its fields have a docstring; the name is that of its file."""
    for one in (SGD, AdamW, Constant, Cosine, Step, FlipCrop, FlipCropMixup, CrossEntropy):
        assert issubclass(one, Component)
        assert one.__doc__
        assert not one.__doc__.startswith(f"{one.__name__}(")
