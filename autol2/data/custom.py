"""A data set from arrays that the user's own function returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..component import option
from ..errors import UserError, first_line, require
from ..factory import call, require_target, resolve
from .images import Images
from .memory import require_room
from .source import DataSource

PLACES = ("train_images", "train_labels", "test_images", "test_labels")
WANTED = (
    "(train_images, train_labels, test_images, test_labels), and class names as a fifth if you like"
)


@dataclass
class Custom(DataSource):
    """The data set that your function returns: arrays of training and test images and labels."""

    target: str = ""
    """The function, as package.module:factory. It returns train_images, train_labels, test_images
    and test_labels as NumPy arrays or PyTorch tensors: images uint8 [N, C, H, W], 0 to 255, and
    labels whole numbers [N] from 0."""
    options: dict[str, Any] = option(dict)
    """Keyword arguments for the function."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_target("data.target", self.target)

    def load(self) -> Images:
        """Call `target` with `options`, and validate the arrays that it returns.

        Raises:
            UserError: there is no such function, it fails, or it returns something else.
        """
        found = call("data.target", self.target, **self.options)
        if isinstance(found, Images):
            found = (*found.arrays, found.classes)
        require(
            isinstance(found, tuple | list) and len(found) in (4, 5),
            f"data.target={self.target} must return {WANTED}, not {_kind(found)}",
        )
        train_images, test_images = (self._images(found[at], at) for at in (0, 2))
        train_labels, test_labels = (self._labels(found[at], at) for at in (1, 3))
        require(
            train_images.shape[1:] == test_images.shape[1:],
            self._wrong(
                f"training images {train_images.shape[1:]} and test images "
                f"{test_images.shape[1:]} of different shapes"
            ),
        )
        for what, images, labels in (
            ("training", train_images, train_labels),
            ("test", test_images, test_labels),
        ):
            require(
                len(images) == len(labels) > 0,
                self._wrong(f"{len(images):,} {what} images and {len(labels):,} labels"),
            )
        names = self._names(found[4:], train_labels)
        require(len(names) >= 2, self._wrong(f"{len(names)} class: there must be at least 2"))
        most = int(max(train_labels.max(), test_labels.max()))
        require(most < len(names), self._wrong(f"a label {most}, but only {len(names)} classes"))
        return Images(train_images, train_labels, test_images, test_labels, names)

    def prepare(self) -> str:
        """Check that the function exists, without calling it.

        Raises:
            UserError: there is no such function.
        """
        resolve("data.target", self.target)
        return ""

    def _images(self, value: Any, at: int) -> NDArray[np.uint8]:
        images = self._array(value, at)
        require(
            images.dtype == np.uint8 and images.ndim == 4 and 0 not in images.shape[1:],
            self._wrong(
                f"{images.dtype} {list(images.shape)} as {PLACES[at]}: images must be uint8 "
                f"[N, C, H, W], 0 to 255"
            ),
        )
        _, channels, height, width = images.shape
        require(
            channels in (1, 3) or not width <= 4 < min(channels, height),
            self._wrong(
                f"images {list(images.shape)} as {PLACES[at]}, whose channels are last: they must "
                f"be [N, C, H, W], as returned by images.transpose(0, 3, 1, 2)"
            ),
        )
        # such as a memory-mapped file's
        if not (images.flags.c_contiguous and images.flags.writeable):
            require_room(images.nbytes, f"{PLACES[at]} {list(images.shape)}")
        return np.require(images, requirements=("C", "W"))

    def _labels(self, value: Any, at: int) -> NDArray[np.int64]:
        labels = self._array(value, at)
        require(
            labels.dtype.kind in "iu" and labels.ndim == 1,
            self._wrong(
                f"{labels.dtype} {list(labels.shape)} as {PLACES[at]}: labels must be whole "
                f"numbers [N]"
            ),
        )
        least, most = int(labels.min(initial=0)), int(labels.max(initial=0))
        require(
            0 <= least <= most <= np.iinfo(np.int64).max,
            self._wrong(f"labels from {least} to {most} as {PLACES[at]}: they must count from 0"),
        )
        return np.require(labels, np.int64, ("C", "W"))

    def _array(self, value: Any, at: int) -> NDArray[Any]:
        try:
            if hasattr(value, "detach"):  # a tensor, on any device
                value = value.detach().cpu()
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            why = first_line(error)
            words = f"{PLACES[at]} that cannot be converted to an array: {why}"
            raise UserError(self._wrong(words)) from error
        require(array.ndim > 0, self._wrong(f"{_kind(value)} as {PLACES[at]}, not an array"))
        return array

    def _names(self, given: Sequence[Any], labels: NDArray[np.int64]) -> tuple[str, ...]:
        """Return the names of the classes, or numbers if the function returns no names."""
        if given:
            (names,) = given
            require(
                isinstance(names, list | tuple | np.ndarray),
                self._wrong(f"{_kind(names)} as class names, not a list of words"),
            )
            found = tuple(map(str, names))
            require(len(set(found)) == len(found), self._wrong("two classes with the same name"))
            return found
        known = np.unique(labels)
        absent = np.flatnonzero(known != np.arange(len(known)))
        require(
            absent.size == 0,
            self._wrong(
                f"no training image with label {absent.min(initial=len(known))}, but some with "
                f"{known[-1]}: labels must count from 0 without gaps, unless class names are given"
            ),
        )
        return tuple(map(str, range(len(known))))

    def _wrong(self, what: str) -> str:
        return f"data.target={self.target} returned {what}"


def _kind(found: Any) -> str:
    many = f" of {len(found)}" if isinstance(found, tuple | list) else ""
    return f"{type(found).__name__}{many}"
