"""Data sets: digits, options, validation images, normalisation, your own arrays."""

from __future__ import annotations

import dataclasses

import torch

from autol2.data import dataset as data
from autol2.data.digits import Digits

from .images import source


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
