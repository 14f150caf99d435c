"""Flips, crops and mixup (Zhang et al., 2018, "mixup: beyond empirical risk minimization").

Each image of a batch and its label are blended with those at the opposite position of the batch.
Each image has its own weight, drawn from Beta(α, α), as in the released code of Auto L2.
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

    columns: ClassVar[int] = FlipCrop.columns + 1

    alpha: float = option(1.0)
    """α of Beta(α, α), the distribution of an image's weight in its blend; 1 is uniform."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            math.isfinite(self.alpha) and self.alpha > 0,
            f"augmentation.alpha must be above 0, not {self.alpha:g}: augmentation=flip_crop does "
            f"without mixup",
        )

    def draw(self, generator: np.random.Generator, batch: int) -> NDArray[np.float32]:
        """Draw the numbers of flip_crop, and the weight of each image."""
        moved = super().draw(generator, batch)
        weights = generator.beta(self.alpha, self.alpha, (batch, 1)).astype(np.float32)
        return np.concatenate([moved, weights], 1)

    def apply(
        self, images: Tensor, labels: Tensor, numbers: Tensor, classes: int
    ) -> tuple[Tensor, Tensor]:
        """Flip, crop and mix (see `Augmentation.apply`)."""
        import torch

        images, labels = super().apply(images, labels, numbers, classes)
        weight = numbers[:, 3]
        # one_hot would read the labels' values on a CPU.
        targets = (labels[:, None] == torch.arange(classes, device=labels.device)).float()
        return (
            images.flip(0).lerp(images, weight[:, None, None, None]),
            targets.flip(0).lerp(targets, weight[:, None]),
        )
