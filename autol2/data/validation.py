"""Which training images are set aside to choose by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import require

SEED = 20_241_105
"""Of the choice; not the run's, so that all runs of a study choose by the same images."""


def split(labels: NDArray[np.int64], validation: float) -> NDArray[np.bool_]:
    """A mask [N] of the images that are set aside, the same share of each class.

    Each class gives its share rounded down, and one more where the rest is largest; every class
    keeps at least one image to train with.

    Args:
        labels: int64 [N], the classes of the training images.
        validation: how many, or the share of them if it is below 1.

    Raises:
        UserError: none would be set aside, or a class would have none left.
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
    random = np.random.RandomState(SEED)  # its numbers stay the same with every NumPy
    for label, taken in zip(classes, _shares(sizes, count), strict=True):
        members = np.flatnonzero(labels == label)
        chosen[random.permutation(members)[:taken]] = True
    return chosen


def _shares(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` parted in proportion to `sizes`, below each of them, by the largest rest."""
    # In whole numbers: a rest that rounding made would choose otherwise on another machine.
    products = sizes * count
    shares: NDArray[np.int64] = np.minimum(products // sizes.sum(), sizes - 1)
    order = np.argsort(-(products % sizes.sum()), kind="stable")
    while (missing := count - int(shares.sum())) > 0:
        room = order[shares[order] < sizes[order] - 1]
        shares[room[:missing]] += 1
    return shares
