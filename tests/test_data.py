"""Data sets: digits, options, validation images, normalisation, your own arrays."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autol2.data import dataset as data
from autol2.data.digits import Digits
from autol2.data.images import Images
from autol2.data.memory import available, size
from autol2.data.source import DataSource
from autol2.data.validation import split
from autol2.errors import UserError

from .images import KINDS, source

ASIDE = [1, 16, 18, 23, 24, 35, 37, 38]
"""Of 40 images in 4 classes, the 8 that are set aside."""


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    original = load_digits()
    digits = data.load(source("digits"))
    assert digits.classes == tuple("0123456789")
    assert digits.train_images.dtype == digits.test_images.dtype == torch.uint8
    assert digits.train_labels.dtype == digits.test_labels.dtype == torch.int64
    assert digits.train_images.shape == (1437, 3, 32, 32)
    assert digits.test_images.shape == (360, 3, 32, 32)
    assert digits.test_labels.tolist() == original.target[::5].tolist()
    rest = [index for index in range(1797) if index % 5]
    assert digits.train_labels.tolist() == original.target[rest].tolist()
    for images, originals in (
        (digits.test_images, original.images[::5]),
        (digits.train_images, original.images[rest]),
    ):
        assert torch.equal(images[:, 0], images[:, 1])
        assert torch.equal(images[:, 0], images[:, 2])
        inner = images[:, 0, 12:20, 12:20].double()
        assert (inner * 16 / 255 - torch.from_numpy(originals)).abs().max() < 0.04
        assert images.sum() == 3 * inner.sum()  # all the rest is black
    assert digits.train_images.max() == 255


def test_the_digest_is_of_contents_shapes_and_names() -> None:
    digits = data.load(source("digits"))
    # Seen once; the same on every machine as long as scikit-learn ships the same digits.
    assert digits.digest == "0b48fe3f6a49565e872e94f4b2cbf9a13b2ce3c9965a14a65d31fab89220e607"
    images = Digits().load()
    assert images.digest() == digits.digest
    for change in (
        {"classes": (*images.classes[:-1], "ten")},
        {"train_labels": images.train_labels[::-1]},
        {"test_images": images.test_images.reshape(360, 3, 16, 64)},
        {"test_images": images.test_images ^ 1},
    ):
        assert dataclasses.replace(images, **change).digest() != digits.digest


def test_to_moves_every_tensor() -> None:
    moved = data.load(source("digits")).to("meta")
    tensors = (moved.train_images, moved.train_labels, moved.test_images, moved.test_labels)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert len(moved.classes) == 10


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": float("nan")}, "data.mean must be a finite number, not nan"),
        ({"mean": [0.5, float("inf"), 0.5]}, "data.mean must be a finite number, not inf"),
        ({"mean": "half"}, "data.mean=half is not a number: give one number, or a list with"),
        ({"mean": None}, "data.mean=None is not a number"),
        ({"mean": True}, "data.mean=True is not a number"),
        ({"mean": []}, "data.mean is empty: give one number, or a list"),
        ({"mean": [[0.5]]}, r"data.mean=\[0.5\] is not a number"),
        ({"std": 0}, "data.std must be above 0, not 0"),
        ({"std": [0.5, -0.5, 0.5]}, "data.std must be above 0, not -0.5"),
        ({"std": float("nan")}, "data.std must be a finite number, not nan"),
        ({"validation": -1}, "data.validation must be at least 0|share of them below 1, not -1"),
        ({"validation": 1.5}, "data.validation is a number of images, or a share .* not 1.5"),
        ({"validation": float("nan")}, "data.validation is a number of images, .* not nan"),
        ({"validation": float("inf")}, "data.validation is a number of images, .* not inf"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        source("digits", **options)
    assert "\n" not in str(caught.value)


def test_as_many_numbers_as_channels() -> None:
    with pytest.raises(UserError, match=r"data\.std has 2 values, but the images have 3 channels"):
        data.load(source("digits", std=[0.5, 0.4]))


def test_what_counts_for_a_run() -> None:
    """Where data lie, or come from, does not; equal numbers in a list are that number."""
    assert source("digits").identity() == {
        "source": "digits",
        "name": "digits",
        "mean": 0.5,
        "std": 0.5,
    }
    assert source("cifar10", "/x", "/y", url="z").identity() == source("cifar10").identity()
    assert source("digits", mean=[0.5, 0.5, 0.5]).identity() == source("digits").identity()
    for change in ({"name": "x"}, {"mean": 0.4}, {"std": [0.5, 0.5, 0.4]}, {"validation": 0.1}):
        assert source("digits", **change).identity() != source("digits").identity()
    names = {kind: source(kind, "/x").identity()["source"] for kind in KINDS}
    assert names == {kind: kind for kind in KINDS}


def test_a_data_set_from_outside_is_called_by_its_path() -> None:
    @dataclass
    class Outside(DataSource):
        pass

    assert Outside().source == f"{__name__}.{Outside.__qualname__}"
    assert Outside(name="mine").identity()["name"] == "mine"


@pytest.mark.parametrize("unset", ["", None])
def test_where_data_are_by_default(
    unset: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Empty variables count as unset, and a relative XDG_CACHE_HOME is none."""
    for name in ("AUTOL2_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
        if unset is not None:
            monkeypatch.setenv(name, unset)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert source("cifar10").place == tmp_path / ".cache/autol2/data"
    assert source("cifar10", "").place == tmp_path / ".cache/autol2/data"
    assert source("cifar10", cache="~/c").place == tmp_path / "c/data"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert source("mnist").place == tmp_path / ".cache/autol2/data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert source("mnist").place == tmp_path / "x/autol2/data"
    monkeypatch.setenv("AUTOL2_DATA", str(tmp_path / "sets"))
    assert source("svhn", cache="/elsewhere").place == tmp_path / "sets"
    assert source("svhn", "~/mine").place == tmp_path / "mine"
    assert source("digits").place is None
    assert source("imagefolder", "").place is None


@pytest.mark.parametrize("root", ["~nobody-of-that-name/x", "a\0b"])
def test_a_folder_that_cannot_be(root: str) -> None:
    for kind in ("cifar10", "imagefolder"):
        with pytest.raises(UserError, match="is not a valid folder name: "):
            data.load(source(kind, root))
    assert source("imagefolder", root).known_digest() is None


def test_the_same_data_or_not() -> None:
    digits = source("digits")
    assert digits.holds("anything")  # scikit-learn's are what they are
    assert digits.prepare() == ""


# Validation images


def test_without_validation_images_there_are_none() -> None:
    digits = data.load(source("digits"))
    assert digits.validation_images.shape == (0, 3, 32, 32)
    assert digits.validation_labels.shape == (0,)
    assert digits.validation_images.dtype == torch.uint8
    assert digits.validation_labels.dtype == torch.int64


@pytest.mark.parametrize("validation", [0.1, 144])
def test_validation_images_come_out_of_training(validation: float) -> None:
    whole = data.load(source("digits"))
    parted = data.load(source("digits", validation=validation))
    again = data.load(source("digits", validation=validation))
    assert torch.equal(parted.validation_images, again.validation_images)
    assert len(parted.validation_images) == len(parted.validation_labels) == 144
    assert len(parted.train_images) == len(parted.train_labels) == 1437 - 144
    assert torch.equal(parted.test_images, whole.test_images)
    assert parted.digest == whole.digest

    def rows(images: torch.Tensor, labels: torch.Tensor) -> list[tuple[int, bytes]]:
        pairs = zip(labels.tolist(), images.numpy(), strict=True)
        return sorted((label, image.tobytes()) for label, image in pairs)

    assert rows(whole.train_images, whole.train_labels) == sorted(
        rows(parted.train_images, parted.train_labels)
        + rows(parted.validation_images, parted.validation_labels)
    )
    shares = parted.validation_labels.bincount() / whole.train_labels.bincount()
    assert ((shares - 0.1).abs() < 1 / whole.train_labels.bincount()).all()


def test_which_images_are_set_aside_is_fixed() -> None:
    """The same ones with every version of NumPy: runs made years apart stay comparable."""
    aside = split(np.arange(40, dtype=np.int64) % 4, 8)
    assert np.flatnonzero(aside).tolist() == ASIDE


def test_shares_of_unequal_classes() -> None:
    labels = np.repeat(np.arange(4), [1, 2, 10, 87])
    for count in (1, 2, 10, 50, 96):
        aside = split(labels, count)
        assert aside.sum() == count
        left = np.bincount(labels[~aside], minlength=4)
        assert (left >= 1).all()
        if count <= 50:
            taken = np.bincount(labels[aside], minlength=4)
            quota = np.array([1, 2, 10, 87]) * count / 100
            assert (np.abs(taken - quota) <= 1).all()
    assert split(labels, 0.25).sum() == 25


@pytest.mark.parametrize("validation", [97, 100, 10**9, 0.98, 0.001])
def test_validation_leaves_each_class_an_image(validation: float) -> None:
    labels = np.repeat(np.arange(4), [1, 2, 10, 87])
    with pytest.raises(
        UserError, match=r"data\.validation=.* from 1 to 96, so that each class keeps"
    ):
        split(labels, validation)


# Normalisation


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_papers_normalisation_to_the_bit(layout: torch.memory_format) -> None:
    digits = data.load(source("digits"))
    images = torch.arange(256, dtype=torch.uint8).repeat(12).view(4, 3, 16, 16)
    images = images.contiguous(memory_format=layout)[..., :14, :14]
    kept = images.clone()
    expected = images.contiguous(memory_format=torch.channels_last).float()
    expected = expected.div_(255).sub_(0.5).div_(0.5)
    found = digits.normalize(images)
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, kept)


def test_channels_of_their_own() -> None:
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    digits = data.load(source("digits", mean=mean, std=std))
    found = digits.normalize(digits.train_images[:8])
    for channel in range(3):
        one = digits.train_images[:8, channel].double() / 255
        expected = (one - mean[channel]) / std[channel]
        assert torch.allclose(found[:, channel].double(), expected, atol=1e-6)
    mixed = data.load(source("digits", mean=0.1, std=std)).normalize(digits.train_images[:8])
    assert torch.equal(mixed[:, 0], found[:, 0])
    moved = digits.to("meta")
    assert isinstance(moved.mean, torch.Tensor)
    assert moved.mean.device.type == "meta"


# Memory


def test_what_is_free(tmp_path: Path) -> None:
    """Of what the machine and each control group above the process leave, the least."""
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    assert available(proc, groups) is None
    (proc / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:    80 kB\n")
    assert available(proc, groups) == 80 * 1024
    (proc / "self/cgroup").write_text("0::/user/job\n")
    job = groups / "user/job"
    job.mkdir(parents=True)
    (job / "memory.max").write_text("max\n")
    (job / "memory.current").write_text("5\n")
    assert available(proc, groups) == 80 * 1024
    (job.parent / "memory.max").write_text("40000\n")
    (job.parent / "memory.current").write_text("30000\n")
    assert available(proc, groups) == 10_000
    (job.parent / "memory.stat").write_text("anon 1\ninactive_file 5000\n")
    assert available(proc, groups) == 15_000
    (proc / "self/cgroup").write_text("5:cpu,memory:/slurm/job\n")
    old = groups / "memory/slurm/job"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("1000")
    (old / "memory.usage_in_bytes").write_text("1200")
    assert available(proc, groups) == 0


def test_sizes_as_people_write_them() -> None:
    assert [size(n) for n in (0, 999, 1000, 1_550_000, 2 * 10**9, 3.4e12, 5e15)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "1.6 MB",
        "2.0 GB",
        "3.4 TB",
        "5000.0 TB",
    ]


def test_memory_that_ends_while_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Digits, "load", full)
    with pytest.raises(
        UserError, match="data=digits does not fit into memory: a data set must fit"
    ):
        data.load(source("digits"))


def test_a_device_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = data.load(source("digits"))

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.Tensor, "to", full)
    with pytest.raises(UserError, match=r"the images take 5\.5 MB and do not fit onto cuda:0: "):
        digits.to("cuda:0")


def test_a_part_is_the_first_images_of_each_class_in_their_order() -> None:
    """At least one of each; a half of five rounds to two."""
    labels = np.array([1, 0, 0, 1, 0, 2, 0, 0])
    images = np.arange(8, dtype=np.uint8)[:, None, None, None].repeat(3, 1)
    half = Images(images, labels, images[::-1], labels[::-1], ("a", "b", "c")).part(0.5)
    assert half.train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 5]
    assert half.train_labels.tolist() == [1, 0, 0, 2]
    assert half.test_images[:, 0, 0, 0].tolist() == [7, 6, 5, 3]
    assert half.test_labels.tolist() == [0, 0, 2, 1]
