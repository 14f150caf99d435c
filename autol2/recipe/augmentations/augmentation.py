"""`Augmentation`, the base class of the config group ``augmentation``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...component import Component

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Augmentation(Component):
    """A random change to a batch of training images, in two parts.

    `draw` generates a step's random numbers on the CPU, with a generator that is seeded by the
    run's seed and the step. `apply` is tensor code on the device that uses these numbers and draws
    none. Therefore the numbers are bit for bit the same on any device, in a resumed run and with a
    CUDA graph.
    """

    columns: ClassVar[int] = 0
    """The number of random numbers per image."""

    def draw(self, generator: np.random.Generator, batch: int) -> NDArray[np.float32]:
        """Draw the random numbers of one step: float32 [batch, columns]."""
        return np.empty((batch, self.columns), np.float32)

    def apply(
        self, images: Tensor, labels: Tensor, numbers: Tensor, classes: int
    ) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            images: normalised, float32 [N, C, H, W].
            labels: int64 [N].
            numbers: the result of `draw`, float32 [N, columns], on the same device.
            classes: number of classes.

        Returns:
            The images, float32 [N, C, H, W], and the targets: int64 [N] or, if images are mixed,
            the share of each class, float32 [N, classes].
        """
        return images, labels


def generator(seed: int, step: int) -> np.random.Generator:
    """Return the random generator of a step, counted from 0 over the whole run."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step])))
