"""Mirroring, shifting and mixup (Zhang et al., 2018, "mixup: beyond empirical risk minimization").

Each image is blended with another one of its batch, and so are their labels. As in the authors'
code, one weight, drawn from Beta(α, α), holds for the whole batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...component import option
from ...errors import require
from .flip_crop import FlipCrop

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class FlipCropMixup(FlipCrop):
    """Flip and crop, then mixup; the targets are shares of classes."""

    columns: ClassVar[int] = FlipCrop.columns + 2

    alpha: float = option(1.0)
    """α of Beta(α, α), which the weight of an image's blend is drawn from; 1 is uniform."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            math.isfinite(self.alpha) and self.alpha > 0,
            f"augmentation.alpha must be above 0, not {self.alpha:g}: augmentation=flip_crop does "
            f"without mixup",
        )

    def draw(self, generator: np.random.Generator, batch: int) -> NDArray[np.float32]:
        """As flip_crop; then each image's partner in the batch, and the weight of the image."""
        moved = super().draw(generator, batch)
        partner = generator.permutation(batch)[:, None]
        weight = np.full((batch, 1), generator.beta(self.alpha, self.alpha))
        return np.concatenate([moved, partner, weight], 1).astype(np.float32)

    def apply(
        self, images: Tensor, labels: Tensor, numbers: Tensor, classes: int
    ) -> tuple[Tensor, Tensor]:
        """See `Augmentation.apply`."""
        from torch.nn.functional import one_hot

        images, labels = super().apply(images, labels, numbers, classes)
        partner, weight = numbers[:, 3].long(), numbers[:, 4]
        targets = one_hot(labels, classes).float()
        return (
            images[partner].lerp(images, weight[:, None, None, None]),
            targets[partner].lerp(targets, weight[:, None]),
        )
