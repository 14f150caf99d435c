"""Labelled images in main memory, before they are converted to tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .memory import require_room, too_large

PassedOver = dict[str, dict[str, int]]
"""For each folder, the number of ignored files of each kind that are not images."""

SHOWN = 5
"""The largest number of folders that a message lists."""


def in_words(passed_over: PassedOver, beside: Callable[[str], str] = lambda where: "") -> str:
    """Describe ignored files by folder, with the text that `beside` returns for each folder.

    Only the first `SHOWN` folders are listed.
    """
    folders = [
        f"{where} {', '.join(f'{count:,} {kind}' for kind, count in kinds.items())}{beside(where)}"
        for where, kinds in passed_over.items()
    ]
    more = f"; … ({len(folders)} folders)" if len(folders) > SHOWN else ""
    return "; ".join(folders[:SHOWN]) + more


@dataclass(frozen=True)
class Images:
    """A training and a test set of labelled images, as NumPy arrays."""

    train_images: NDArray[np.uint8]
    """[N, C, H, W], 0 to 255; for C = 3 the channels are red, green and blue."""
    train_labels: NDArray[np.int64]
    """[N], indices into `classes`."""
    test_images: NDArray[np.uint8]
    """[M, C, H, W], like `train_images`."""
    test_labels: NDArray[np.int64]
    """[M], like `train_labels`."""
    classes: tuple[str, ...]
    """The names of the classes."""
    passed_over: PassedOver = field(default_factory=dict)
    """Ignored files beside the images; they are not part of the digest."""

    @staticmethod
    def empty(train: int, test: int, height: int, width: int, classes: tuple[str, ...]) -> Images:
        """Allocate arrays for images of `height` × `width` pixels, to be filled in place.

        Raises:
            UserError: there is not enough memory.
        """
        what = f"{train + test:,} images of {width}×{height} pixels"
        needed = (train + test) * (3 * height * width + 8)
        require_room(needed, what)
        try:
            return Images(
                np.empty((train, 3, height, width), np.uint8),
                np.empty(train, np.int64),
                np.empty((test, 3, height, width), np.uint8),
                np.empty(test, np.int64),
                classes,
            )
        except MemoryError:
            raise too_large(needed, what) from None

    @property
    def arrays(self) -> tuple[NDArray[np.uint8] | NDArray[np.int64], ...]:
        """The four arrays, in the order of the fields."""
        return (self.train_images, self.train_labels, self.test_images, self.test_labels)

    def part(self, share: float) -> Images:
        """Return the first images of each class: a `share` of them, but at least one, in order."""
        train, test = (_first(labels, share) for labels in (self.train_labels, self.test_labels))
        return replace(
            self,
            train_images=self.train_images[train],
            train_labels=self.train_labels[train],
            test_images=self.test_images[test],
            test_labels=self.test_labels[test],
        )

    def digest(self) -> str:
        """Return the SHA-256 (hexadecimal) of class names, shapes and contents, on any machine."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        shapes = [array.shape for array in self.arrays]
        sha = hashlib.sha256(json.dumps([self.classes, shapes]).encode())
        for array in self.arrays:
            sha.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
        return sha.hexdigest()


def _first(labels: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Return the positions of the first `share` of each class, in order."""
    kept = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    kept = [places[: max(1, round(share * len(places)))] for places in kept]
    return np.sort(np.concatenate(kept))
