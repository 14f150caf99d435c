"""Runs with other networks and recipes: stopped anywhere, recorded, and equal to plain loops."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autol2.config import Config
from autol2.data.dataset import Dataset, load
from autol2.errors import UserError
from autol2.recipe.augmentations.augmentation import generator
from autol2.runs.identity import identity, run_id
from autol2.training import network
from autol2.training.graph import Record, RecordedGradients, rehearse
from autol2.training.network import layers
from autol2.training.trainer import Trainer, epoch_order

from .conftest import composed

CPU = torch.device("cpu")
WRN = ("model=wrn", "model.depth=10", "model.width=1")
CUSTOM = ("model=custom", "model.target=tests.own_network:small")
RECIPES: dict[str, tuple[str, ...]] = {
    "wrn": (
        *WRN,
        "lr_schedule=cosine",
        "lr_schedule.warmup=0.2",
        "optimizer.momentum=0.9",
        "augmentation=flip_crop_mixup",
        "loss.label_smoothing=0.1",
    ),
    "custom": (*CUSTOM, "optimizer=adamw", "lr_schedule=step", "augmentation=flip_crop"),
    "mlp": (
        "model=mlp",
        "model.widths=[9]",
        "optimizer.momentum=0.8",
        "optimizer.nesterov=true",
        "lr_schedule.warmup=0.5",
    ),
    "original": (
        *CUSTOM,
        "protocol=original",
        "method.measure_every=4",
        "method.cooldown=0.01",
        "optimizer.momentum=0.9",
        "augmentation=flip_crop_mixup",
        "loss.loss_scale=mean_over_classes",
    ),
}


def config(*overrides: str) -> Config:
    small = ["data=digits", "batch_size=16", "epochs=3", "lr=0.05", "method.measure_every=2"]
    return composed(*small, *overrides)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """71 digits of 8×8 pixels, so that an epoch's last batch is smaller."""
    whole = load(config().data)
    inner = slice(None), slice(None), slice(12, 20), slice(12, 20)
    return replace(
        whole,
        train_images=whole.train_images[inner][:71].contiguous(),
        train_labels=whole.train_labels[:71],
        test_images=whole.test_images[inner][:20].contiguous(),
        test_labels=whole.test_labels[:20],
    )


def go_on(trainer: Trainer, until: int | None = None) -> None:
    while True:
        if trainer.evaluation_pending:
            trainer.evaluate()
        if trainer.step == (trainer.steps if until is None else until):
            break
        trainer.train_step()


def outcome(trainer: Trainer) -> dict[str, bytes]:
    trainer.read_back()
    trainer.close()
    weights = {name: one.numpy().tobytes() for name, one in trainer.model.state_dict().items()}
    for name in ("measurements.csv", "epochs.csv"):
        weights[name] = (trainer.folder / name).read_bytes()
    return weights


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def made(config: Config, data: Dataset, folder: Path) -> Trainer:
    folder.mkdir(parents=True)
    trainer = Trainer(config, data, folder, CPU)
    trainer.begin()
    return trainer


@pytest.mark.parametrize("recipe", RECIPES)
def test_stopped_at_any_step_gives_the_same_bits(
    digits: Dataset, tmp_path: Path, recipe: str
) -> None:
    cfg = config(*RECIPES[recipe])
    whole = made(cfg, digits, tmp_path / "whole")
    go_on(whole)
    expected = outcome(whole)
    assert len(set(expected["measurements.csv"].decode().splitlines())) > 4
    stopped = made(cfg, digits, tmp_path / "stopped")
    for step in (1, 2, 4, 5, 6, 8, 9, 13, 15):
        go_on(stopped, step)
        kept = io.BytesIO()
        torch.save(stopped.state_dict(), kept)
        if step < 15:
            stopped.train_step()  # which is lost
        stopped.flush()
        stopped.close()
        torch.manual_seed(step)  # another process begins anywhere
        kept.seek(0)
        stopped = Trainer(cfg, digits, stopped.folder, CPU)
        stopped.load_state_dict(torch.load(kept, weights_only=True))
    go_on(stopped)
    assert outcome(stopped) == expected


def recorder(parameters: Sequence[Tensor]) -> Record:
    """What `record_cuda_graph` does, less the graph: the gradients stay where they were first."""

    def record(work: Callable[[], None], changes: Sequence[Tensor]) -> Callable[[], None]:
        rehearse(work, changes)
        kept = [one.grad for one in parameters]

        def repeat() -> None:
            work()
            for one, memory in zip(parameters, kept, strict=True):
                memory.copy_(one.grad)

        return repeat

    return record


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recorded_step_gives_the_same_bits(digits: Dataset, tmp_path: Path, recipe: str) -> None:
    """Augmentation and dropout draw anew at each step, through tensors that stay."""
    cfg = config(*RECIPES[recipe])
    plain = made(cfg, digits, tmp_path / "plain")
    recorded = made(cfg, digits, tmp_path / "recorded")
    recorded.gradients = RecordedGradients(
        recorded._gradients,
        recorded.parameters,
        recorded.changing,
        pytest.fail,
        recorder(recorded.parameters),
    )
    state = torch.get_rng_state()
    go_on(plain)
    torch.set_rng_state(state)
    go_on(recorded)
    assert outcome(recorded) == outcome(plain)


def test_the_step_is_that_of_a_plain_loop(digits: Dataset, tmp_path: Path) -> None:
    """Momentum, cosine, mixup, label smoothing and the penalty, written down again."""
    cfg = config(*RECIPES["wrn"], "method=fixed", "fixed_lambda=0.01")
    trainer = made(cfg, digits, tmp_path / "run")
    model = network.build(cfg, (3, 8, 8), 10, 0, CPU)
    model.load_state_dict(trainer.model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    model.train()
    for step in range(15):
        epoch, position = divmod(step, 5)
        index = epoch_order(71, 0, epoch)[position * 16 : (position + 1) * 16]
        images = (digits.train_images[index].float() / 255 - 0.5) / 0.5
        drawn = torch.from_numpy(cfg.augmentation.draw(generator(0, step), len(index)))
        images, targets = cfg.augmentation.apply(images, digits.train_labels[index], drawn, 10)
        rising = (step + 1) / 4 if step < 3 else (1 + math.cos(math.pi * (step - 3) / 12)) / 2
        optimizer.param_groups[0]["lr"] = 0.05 * rising
        loss = cross_entropy(model(images), targets, label_smoothing=0.1)
        penalty = sum((one**2).sum() for one in model.parameters())
        optimizer.zero_grad()
        (loss + 0.01 * penalty).backward()
        optimizer.step()
        go_on(trainer, step + 1)
        assert float(trainer.losses[position]) == pytest.approx(float(loss.detach()), rel=1e-4)
        assert trainer.lrs[position] == pytest.approx(0.05 * rising)
    for mine, plain in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(mine, plain, rtol=1e-3, atol=1e-5)


def test_the_learning_rate_is_in_the_records(digits: Dataset, tmp_path: Path) -> None:
    trainer = made(config(*RECIPES["wrn"]), digits, tmp_path / "run")
    go_on(trainer)
    trainer.close()
    expected = [0.05 * (s + 1) / 4 for s in range(3)]
    expected += [0.025 * (1 + math.cos(math.pi * s / 12)) for s in range(12)]
    for row in rows(trainer.folder / "measurements.csv"):
        step = 5 * int(row["epoch"]) + int(row["step"])
        assert float(row["lr"]) == pytest.approx(expected[step - 1])
    for row in rows(trainer.folder / "epochs.csv"):
        lr = expected[5 * int(row["epoch"]) + 4]
        assert float(row["lr"]) == pytest.approx(lr)
        assert float(row["effective_lr_dense"]) == pytest.approx(lr / float(row["norm_dense"]) ** 2)


def test_loss_scale_makes_the_gradient_of_the_loss_smaller(digits: Dataset, tmp_path: Path) -> None:
    """With 10 classes the step is that of a tenth of lr and ten times λ: their product stays."""
    scaled = config("model=mlp", "lr=1", "fixed_lambda=1e-3", "method=fixed")
    scaled = replace(scaled, loss=replace(scaled.loss, loss_scale="mean_over_classes"))
    plain = config("model=mlp", "lr=0.1", "fixed_lambda=1e-2", "method=fixed")
    one = made(scaled, digits, tmp_path / "one")
    other = made(plain, digits, tmp_path / "other")
    go_on(one)
    go_on(other)
    for mine, theirs in zip(one.parameters, other.parameters, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6)
    assert one.last_loss == pytest.approx(other.last_loss, rel=1e-4)  # recorded without the scale


# ---------------------------------------------------------------- protocol original


def test_original_measures_before_the_update_from_the_first_step_on(
    digits: Dataset, tmp_path: Path
) -> None:
    """Steps 0, 4, 8, … of the run, across epochs of 5; the new λ is that of the same step."""
    cfg = config(*RECIPES["original"], "epochs=12")
    trainer = made(cfg, digits, tmp_path / "run")
    decays: dict[int, float] = {}
    update = trainer.optimizer.step

    def noted(*arguments: object) -> object:
        decays[trainer.step] = trainer.optimizer.param_groups[0]["weight_decay"]
        return update(*arguments)

    trainer.optimizer.step = noted  # type: ignore[method-assign,assignment]
    go_on(trainer)
    trainer.close()
    found = rows(trainer.folder / "measurements.csv")
    steps = [5 * int(row["epoch"]) + int(row["step"]) - 1 for row in found]
    assert steps == list(range(0, 60, 4))
    lambda_, least, most, last, loss, accuracy = 0.1, math.inf, -math.inf, 0, 0.0, 0.0
    for number, row in enumerate(found):
        assert float(row["lambda"]) == pytest.approx(lambda_)
        before, correct_before = loss, accuracy
        loss, accuracy = float(row["train_loss"]), float(row["train_accuracy"])
        worse = least <= min(loss, before) or most >= max(accuracy, correct_before)
        if number >= 2 and steps[number] > 0.01 / lambda_ + last and worse:
            lambda_, last = lambda_ / 10, steps[number]
        elif number >= 1:
            least, most = min(least, before), max(most, correct_before)
        assert decays[steps[number]] == pytest.approx(2 * lambda_)
    assert lambda_ < 0.1  # it did decay


# ---------------------------------------------------------------- identity and names


def test_neutral_recipes_are_no_part_of_the_identity() -> None:
    plain = identity(config())
    assert not {"augmentation", "lr_schedule", "loss"} & plain.keys()
    assert plain["optimizer"] == {"name": "sgd"}
    one = identity(config(*RECIPES["wrn"]))
    assert one["lr_schedule"] == {"name": "cosine", "warmup": 0.2}
    assert one["augmentation"]["name"] == "flip_crop_mixup"
    assert one["loss"] == {"name": "cross_entropy", "label_smoothing": 0.1}
    ids = {run_id(config(*words)) for words in [(), *RECIPES.values()]}
    assert len(ids) == 5


def test_names_of_runs_say_what_is_unusual() -> None:
    name = run_id(config(*RECIPES["wrn"], "method=fixed"))
    assert name.startswith("fixed-0.0005-wrn-flip_crop_mixup-cosine-bn-s0-")
    assert run_id(config(*CUSTOM, "method=fixed")).startswith("fixed-0.0005-custom-s0-")


def test_batchnorm_is_on_for_residual_networks_unless_asked() -> None:
    assert config(*WRN).batchnorm.enabled
    assert not config(*WRN, "batchnorm=off").batchnorm.enabled
    assert config("model=resnet18").batchnorm.enabled
    assert not config("model=mlp").batchnorm.enabled
    with pytest.raises(UserError, match="model=mlp does not support batchnorm=on: leave it out"):
        config("model=mlp", "batchnorm=on")


def normalized(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A network whose scores are normalised, each over the batch."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes), nn.BatchNorm1d(classes))


def test_a_last_batch_of_one_image(digits: Dataset, tmp_path: Path) -> None:
    """Of 71 images in tens; batch-norm has a single value there. It is said before training."""
    words = "model=custom", f"model.target={__name__}:normalized"
    with pytest.raises(UserError, match=r"last batch of an epoch is a single image.* than 10 "):
        made(config(*words, "batch_size=10"), digits, tmp_path / "tens")
    made(config(*words, "batch_size=16"), digits, tmp_path / "sixteens").close()
    made(config(*WRN, "batch_size=10"), digits, tmp_path / "wide").close()


# ---------------------------------------------------------------- layers


def test_layers_are_grouped_when_they_are_many() -> None:
    with torch.device("meta"):
        names = {
            words: list(layers(config(*words).model.build((3, 32, 32), 10, batchnorm=batchnorm)))
            for words, batchnorm in (
                (("model=cnn",), False),
                (("model=wrn",), True),
                (("model=resnet18",), True),
                (("model=mlp", "model.widths=[5,5]"), False),
            )
        }
    assert list(names.values()) == [
        ["conv1", "conv2", "dense1", "dense2"],
        ["conv", "group1", "group2", "group3", "dense"],
        ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"],
        ["1", "3", "5"],
    ]
    flat = nn.Sequential(*(nn.Linear(2, 2) for _ in range(17)))
    assert list(layers(flat)) == ["0-2", "3-5", "6-8", "9-11", "12-14", "15-16"]
    assert sum(map(len, layers(flat).values())) == 17


def test_a_groups_norm_is_the_mean_square_of_its_layers(digits: Dataset, tmp_path: Path) -> None:
    trainer = made(config("model=wrn", "model.depth=16", "model.width=1"), digits, tmp_path / "run")
    go_on(trainer, 5)
    trainer.close()
    (row,) = rows(trainer.folder / "epochs.csv")
    squares = [float((one**2).sum()) for one in trainer.layers["group2.0"]]
    assert len(squares) == 3  # two, and a shortcut
    mean = sum(squares) / 3
    assert float(row["norm_group2.0"]) ** 2 == pytest.approx(mean, rel=1e-5)
    assert float(row["effective_lr_group2.0"]) == pytest.approx(0.05 / mean, rel=1e-5)


# ---------------------------------------------------------------- subset


def test_a_subset_has_the_same_share_of_each_class() -> None:
    whole, some = load(config().data), load(config("data.subset=0.1").data)
    for part in ("train", "test"):
        labels, few = getattr(whole, f"{part}_labels"), getattr(some, f"{part}_labels")
        assert few.bincount().tolist() == [round(0.1 * n) for n in labels.bincount().tolist()]
        first = [int((labels == label).nonzero()[0]) for label in range(10)]
        images = getattr(whole, f"{part}_images")[first]
        theirs = [int((few == label).nonzero()[0]) for label in range(10)]
        assert torch.equal(getattr(some, f"{part}_images")[theirs], images)
    assert some.digest == whole.digest  # of all that is there
    assert identity(config("data.subset=0.1"))["data"]["subset"] == 0.1
    assert "subset" not in identity(config())["data"]


@pytest.mark.parametrize("share", ["0", "1.5", "-1", "nan"])
def test_a_share_that_makes_no_sense(share: str) -> None:
    with pytest.raises(UserError, match=r"try data\.subset=0\.05"):
        config(f"data.subset={share}")
