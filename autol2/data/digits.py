"""scikit-learn's handwritten digits."""

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
        """The digits; every fifth is a test image.

        Their 8×8 pixels of 0 to 16 become 0 to 255, in the middle of 32×32 black ones, three times
        over for red, green and blue.
        """
        # Importing scikit-learn for its `load_digits` would take longer than a short run's steps.
        # Where it keeps the file is its own affair: tried with scikit-learn 1.5 to 1.9.
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
