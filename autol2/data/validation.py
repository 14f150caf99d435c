"""Select the training images that are held out for validation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import require

SEED = 20_241_105
"""Seed of the selection. It is not the run's, so that all runs of a study use the same images."""


def split(labels: NDArray[np.int64], validation: float) -> NDArray[np.bool_]:
    """Return a mask [N] of the held-out images, with the same share of each class.

    Each class gives its share rounded down, and one more if its remainder is among the largest;
    every class keeps at least one training image.

    Args:
        labels: int64 [N], the classes of the training images.
        validation: the number of images, or their share if it is below 1.

    Raises:
        UserError: no image would be held out, or a class would have none left.
    """
    chosen = np.zeros(len(labels), np.bool_)
    if validation == 0:
        return chosen
    count = round(validation * len(labels)) if validation < 1 else int(validation)
    classes, sizes = np.unique(labels, return_counts=True)
    most = int((sizes - 1).sum())
    require(
        1 <= count <= most,
        f"data.validation={validation:g} of {len(labels):,} training images is {count:,}: "
        f"choose from 1 to {most:,}, so that each class keeps a training image",
    )
    random = np.random.RandomState(SEED)  # its numbers are the same with every NumPy
    for label, taken in zip(classes, _shares(sizes, count), strict=True):
        members = np.flatnonzero(labels == label)
        chosen[random.permutation(members)[:taken]] = True
    return chosen


def _shares(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Divide `count` in proportion to `sizes`, below each of them, by the largest remainders."""
    # In integers: rounded remainders could lead to a different choice on another machine.
    products = sizes * count
    shares: NDArray[np.int64] = np.minimum(products // sizes.sum(), sizes - 1)
    order = np.argsort(-(products % sizes.sum()), kind="stable")
    while (missing := count - int(shares.sum())) > 0:
        room = order[shares[order] < sizes[order] - 1]
        shares[room[:missing]] += 1
    return shares
