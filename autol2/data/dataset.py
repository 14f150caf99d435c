"""A data set: labelled images as tensors that fit on the device as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, require
from .images import PassedOver
from .memory import WAY_OUT, size
from .source import DataSource
from .validation import split


@dataclass(frozen=True)
class Dataset:
    """A training, a validation and a test set of labelled images, as tensors on one device."""

    train_images: Tensor
    """uint8 [N, C, H, W], 0 to 255, not normalised; for C = 3 the channels are red, green and
    blue."""
    train_labels: Tensor
    """int64 [N]: indices into `classes`."""
    test_images: Tensor
    """uint8 [M, C, H, W], like `train_images`."""
    test_labels: Tensor
    """int64 [M], like `train_labels`."""
    classes: tuple[str, ...]
    """The names of the classes."""
    validation_images: Tensor
    """uint8 [V, C, H, W], taken from the training images; V is 0 by default."""
    validation_labels: Tensor
    """int64 [V], like `train_labels`."""
    mean: float | Tensor
    """The value that `normalize` subtracts: one number, or float32 [C, 1, 1]."""
    std: float | Tensor
    """The value that `normalize` then divides by: one number, or float32 [C, 1, 1]."""
    digest: str
    """SHA-256 (64 hexadecimal digits) of contents, shapes and class names, before validation images
    are held out. The same data have the same digest on any machine and from any source."""
    passed_over: PassedOver = field(default_factory=dict)
    """For each folder, the number of ignored files of each kind that are not images."""

    def to(self, device: torch.device | str) -> Dataset:
        """Copy the data set to `device`.

        Raises:
            UserError: it does not fit there.
        """
        tensors: dict[str, Any] = {
            name: value for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        try:
            return replace(self, **{name: value.to(device) for name, value in tensors.items()})
        except torch.OutOfMemoryError:
            needed = sum(value.nbytes for value in tensors.values())
            raise UserError(
                f"the images take {size(needed)} and do not fit onto {device}: {WAY_OUT}"
            ) from None

    def normalize(self, images: Tensor) -> Tensor:
        """Return ``(pixel / 255 - mean) / std`` for `images`, as float32 in channels_last.

        Args:
            images: uint8 [B, C, H, W] on the data set's device; they are not modified.
        """
        x = images.contiguous(memory_format=torch.channels_last).float()
        return x.div_(255).sub_(self.mean).div_(self.std)


def load(source: DataSource) -> Dataset:
    """Load the data set that `source` describes, on the CPU.

    Raises:
        UserError: it is missing, incomplete, invalid or too large for memory. Nothing was written.
    """
    try:
        images = source.load()
        digest = images.digest()
        if source.subset < 1:
            images = images.part(source.subset)
        aside = split(images.train_labels, source.validation)
        some = bool(aside.any())
        train_images = images.train_images[~aside] if some else images.train_images
        train_labels = images.train_labels[~aside] if some else images.train_labels
        return Dataset(
            torch.from_numpy(train_images),
            torch.from_numpy(train_labels),
            torch.from_numpy(images.test_images),
            torch.from_numpy(images.test_labels),
            images.classes,
            torch.from_numpy(images.train_images[aside]),
            torch.from_numpy(images.train_labels[aside]),
            _channels("data.mean", source.mean, images.train_images.shape[1]),
            _channels("data.std", source.std, images.train_images.shape[1]),
            digest,
            images.passed_over,
        )
    except MemoryError as error:
        needed = f" ({error})" if str(error) else ""  # NumPy's message contains the size
        raise UserError(f"data={source.name} does not fit into memory{needed}: {WAY_OUT}") from None


def _channels(option: str, value: float | list[float], channels: int) -> float | Tensor:
    if not isinstance(value, list):
        return value
    require(
        len(value) == channels,
        f"{option} has {len(value)} values, but the images have {channels} channels",
    )
    return torch.tensor(value, dtype=torch.float32)[:, None, None]
