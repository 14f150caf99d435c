"""The data set: labelled images as tensors that fit on the device whole.

Where they come from is `DataConfig.source`'s business; see `autol2.data.cifar10` and
`autol2.data.imagefolder` for two of the three. Pixels stay bytes here; the model normalises them.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config import DataConfig
from . import cifar10, imagefolder
from .images import Images

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Dataset:
    """A training and a test set of labelled colour images, as tensors on one device."""

    train_images: torch.Tensor
    """uint8 [N, 3, H, W]: red, green, blue, 0 to 255, not normalised."""
    train_labels: torch.Tensor
    """int64 [N]: indices into `classes`."""
    test_images: torch.Tensor
    """uint8 [M, 3, H, W], as `train_images`."""
    test_labels: torch.Tensor
    """int64 [M], as `train_labels`."""
    classes: tuple[str, ...]
    """The names of the classes."""
    validation_images: torch.Tensor
    """uint8 [K, 3, H, W], as `train_images`; K is 0 where none were set aside."""
    validation_labels: torch.Tensor
    """int64 [K], as `train_labels`."""
    mean: tuple[float, ...]
    """Taken off the pixels, which are scaled to [0, 1]: one number, or one a channel."""
    std: tuple[float, ...]
    """What they are divided by then; likewise."""
    digest: str
    """SHA-256 (64 hexadecimal digits) of contents, shapes and class names; the same data have the
    same digest on any machine, from whatever source."""

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [N, C, H, W], in channels_last, of uint8 `images` [N, C, H, W]."""
        import torch

        x = images.contiguous(memory_format=torch.channels_last).float().div_(255)
        if len(self.mean) == len(self.std) == 1:
            return x.sub_(self.mean[0]).div_(self.std[0])
        mean, std = (
            torch.tensor(one, device=x.device).view(1, -1, 1, 1) for one in (self.mean, self.std)
        )
        return x.sub_(mean).div_(std)

    def to(self, device: torch.device | str) -> Dataset:
        """The same data set on `device`."""
        return replace(
            self,
            validation_images=self.validation_images.to(device),
            validation_labels=self.validation_labels.to(device),
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )


def load(config: DataConfig) -> Dataset:
    """The data set that `config` names, on the CPU.

    Raises:
        UserError: it is not there, not complete or not what it should be; nothing was written.
    """
    import torch

    if config.source == "imagefolder":
        images, digest = imagefolder.load(config.root, config.cache)
    else:
        images = digits() if config.source == "digits" else cifar10.load(config.root, config.url)
        digest = images.digest()
    return Dataset(
        torch.from_numpy(images.train_images),
        torch.from_numpy(images.train_labels),
        torch.from_numpy(images.test_images),
        torch.from_numpy(images.test_labels),
        images.classes,
        torch.empty((0, *images.train_images.shape[1:]), dtype=torch.uint8),
        torch.empty(0, dtype=torch.int64),
        (config.mean,),
        (config.std,),
        digest,
    )


def known_digest(config: DataConfig) -> str | None:
    """`Dataset.digest` of what `load` would return, where that is known without loading it.

    That is so for an image folder that was decoded before. Does not import torch.
    """
    if config.source != "imagefolder":
        return None
    return imagefolder.known_digest(config.root, config.cache)


def digits() -> Images:
    """The 1,797 handwritten digits that scikit-learn carries; every fifth is a test image.

    Their 8×8 pixels of 0 to 16 become 0 to 255, in the middle of 32×32 black ones, three times
    over for red, green and blue.
    """
    # Importing scikit-learn for its `load_digits` would take longer than a short run's training.
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    table = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    small = np.rint(table[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = np.zeros((len(small), 3, 32, 32), np.uint8)
    images[:, :, 12:20, 12:20] = small[:, None]
    labels = table[:, 64].astype(np.int64)
    test = np.arange(len(small)) % 5 == 0
    return Images(
        images[~test],
        labels[~test],
        images[test],
        labels[test],
        tuple(map(str, range(10))),
    )
