"""An augmentation of one's own: each image brighter or darker."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autol2.recipe.augmentations.augmentation import Augmentation


@dataclass
class Brightness(Augmentation):
    """Adds a random number to all pixels of an image."""

    width: float = 0.1
    """Standard deviation of that number."""

    name = "brightness"

    def draw(self, generator: np.random.Generator, batch: int) -> NDArray[np.float32]:
        """See `Augmentation`."""
        return generator.normal(0.0, self.width, (batch, 1)).astype(np.float32)

    def apply(
        self, images: Tensor, labels: Tensor, numbers: Tensor, classes: int
    ) -> tuple[Tensor, Tensor]:
        """See `Augmentation`."""
        return images + numbers[:, :, None, None], labels
