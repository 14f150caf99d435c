"""`Augmentation`: what every option of the config group ``augmentation`` is derived from."""

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

    `draw` makes a step's random numbers, on the CPU, from a generator seeded by the run's seed and
    the step; `apply` is tensor code on the device that does what these say and draws nothing. So
    the device, a resumed run and a recorded CUDA graph change no bit of what is drawn.
    """

    columns: ClassVar[int] = 0
    """Random numbers an image."""

    def draw(self, generator: np.random.Generator, batch: int) -> NDArray[np.float32]:
        """The random numbers of one step: float32 [batch, columns]."""
        return np.empty((batch, self.columns), np.float32)

    def apply(
        self, images: Tensor, labels: Tensor, numbers: Tensor, classes: int
    ) -> tuple[Tensor, Tensor]:
        """Change a batch.

        Args:
            images: normalised, float32 [N, C, H, W].
            labels: int64 [N].
            numbers: what `draw` returned, float32 [N, columns], on the same device.
            classes: number of classes.

        Returns:
            The images, float32 [N, C, H, W], and the targets: int64 [N], or the share of each
            class, float32 [N, classes], where images are mixed.
        """
        return images, labels


def generator(seed: int, step: int) -> np.random.Generator:
    """The generator of a step's random numbers, the step counted from 0 over the whole run."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step])))
