"""Labelled images in main memory, before they become tensors."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError


@dataclass(frozen=True)
class Images:
    """A training and a test set of labelled colour images, as NumPy arrays."""

    train_images: NDArray[np.uint8]
    """[N, 3, H, W], red, green, blue, 0 to 255."""
    train_labels: NDArray[np.int64]
    """[N], indices into `classes`."""
    test_images: NDArray[np.uint8]
    """[M, 3, H, W]."""
    test_labels: NDArray[np.int64]
    """[M]."""
    classes: tuple[str, ...]
    """The names of the classes."""

    @staticmethod
    def empty(train: int, test: int, height: int, width: int, classes: tuple[str, ...]) -> Images:
        """Room for `train` and `test` images of `height` × `width` pixels, to be filled in place.

        Raises:
            UserError: there is not that much memory.
        """
        try:
            return Images(
                np.empty((train, 3, height, width), np.uint8),
                np.empty(train, np.int64),
                np.empty((test, 3, height, width), np.uint8),
                np.empty(test, np.int64),
                classes,
            )
        except MemoryError:
            raise UserError(
                f"{train + test:,} images of {width}×{height} pixels do not fit into memory"
            ) from None

    @property
    def arrays(self) -> tuple[NDArray[np.uint8] | NDArray[np.int64], ...]:
        """The four arrays, in the order of the fields."""
        return (self.train_images, self.train_labels, self.test_images, self.test_labels)

    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the class names, shapes and contents; no two machines differ."""
        shapes = [array.shape for array in self.arrays]
        sha = hashlib.sha256(json.dumps([self.classes, shapes]).encode())
        for array in self.arrays:
            sha.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
        return sha.hexdigest()
