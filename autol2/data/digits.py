"""scikit-learn's data set of handwritten digits."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from .images import Images
from .source import DataSource


@dataclass
class Digits(DataSource):
    """scikit-learn's 1,797 handwritten digits, which need no download."""

    verified: ClassVar[bool] = True

    def load(self) -> Images:
        """Load the digits; every fifth one is a test image.

        Their 8×8 pixels from 0 to 16 are scaled to 0 to 255, centred in 32×32 black pixels, and
        repeated for red, green and blue.
        """
        # Importing scikit-learn for `load_digits` would take longer than the steps of a short run.
        # The location of its file is not documented; it was tried with scikit-learn 1.5 to 1.9.
        package = importlib.util.find_spec("sklearn")
        assert package is not None
        assert package.origin is not None
        path = Path(package.origin).parent / "datasets/data/digits.csv.gz"
        table = np.loadtxt(path, delimiter=",")
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
