"""Random flips and crops, the usual augmentation for CIFAR (He et al., 2016, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...component import option
from ...errors import require
from .augmentation import Augmentation

if TYPE_CHECKING:
    from torch import Tensor


MOST_PADDING = 1024
"""The largest padding on each side, in pixels."""


@dataclass
class FlipCrop(Augmentation):
    """Mirrors every second image, and crops each out of a padded one at a random place."""

    columns: ClassVar[int] = 3

    padding: int = option(4)
    """Pixels of padding on each side, in the data's mean colour."""

    def __post_init__(self) -> None:
        require(
            0 <= self.padding <= MOST_PADDING,
            f"augmentation.padding must be from 0 to {MOST_PADDING} pixels, not {self.padding}",
        )

    def draw(self, generator: np.random.Generator, batch: int) -> NDArray[np.float32]:
        """Draw, for each image, whether to mirror it and the first row and column of the crop."""
        mirrored = generator.integers(0, 2, (batch, 1))
        corners = generator.integers(0, 2 * self.padding + 1, (batch, 2))
        return np.concatenate([mirrored, corners], 1).astype(np.float32)

    def apply(
        self, images: Tensor, labels: Tensor, numbers: Tensor, classes: int
    ) -> tuple[Tensor, Tensor]:
        """Flip and crop (see `Augmentation.apply`); the images are returned in channels_last."""
        import torch
        from torch.nn.functional import pad

        count, _, height, width = images.shape
        mirrored, top, left = numbers[:, :3].long().unbind(1)
        places = torch.arange(max(height, width), device=images.device)
        rows = top[:, None] + places[:height]
        across = torch.where(mirrored[:, None] == 1, width - 1 - places[:width], places[:width])
        columns = left[:, None] + across
        number = torch.arange(count, device=images.device)
        padded = pad(images, (self.padding,) * 4)
        chosen = padded[number[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return chosen.permute(0, 3, 1, 2), labels
