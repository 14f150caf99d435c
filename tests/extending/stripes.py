"""A data set of one's own: stripes that lie or stand, in noise."""

from dataclasses import dataclass

import numpy as np

from autol2.component import option
from autol2.data.images import Images
from autol2.data.source import DataSource


@dataclass
class Stripes(DataSource):
    """Stripes that lie or stand, in noise."""

    count: int = 256
    """Training images; there are a quarter as many to test with."""
    workers: int = option(1, no_effect="how fast the images are made")
    """Processes that make the images."""

    name = "stripes"

    def load(self) -> Images:
        """See `DataSource`."""
        generator = np.random.default_rng(0)
        labels = np.arange(self.count + self.count // 4) % 2
        images = generator.integers(0, 128, (len(labels), 3, 16, 16), np.uint8)
        images[labels == 0, :, ::4] += 127
        images[labels == 1, :, :, ::4] += 127
        first, rest = slice(self.count), slice(self.count, None)
        return Images(images[first], labels[first], images[rest], labels[rest], ("lie", "stand"))
