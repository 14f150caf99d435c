"""The MNIST data set."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .downloaded import Downloaded, in_colour
from .images import Images


@dataclass
class Mnist(Downloaded):
    """MNIST: 70,000 handwritten digits, grey, padded from 28×28 to 32×32, in 3 equal channels."""

    title: ClassVar[str] = "MNIST"
    parts: ClassVar[tuple[str, ...]] = ("MNIST",)

    def _dataset(self, url: str | None) -> Any:
        from torchvision.datasets import MNIST

        return _at(MNIST, url)

    def _origin(self) -> str:
        return str(self._dataset(None).mirrors[0])

    def _part(self, place: Path, train: bool, **options: Any) -> Any:
        found = self._dataset(self.url)(place, train=train, **options)
        for name, checksum in found.resources:
            _verify(Path(found.raw_folder, name), checksum)
        return found

    def _images(self, train: Any, test: Any) -> Images:
        return Images(
            in_colour(train.data.numpy()),
            train.targets.numpy().astype(np.int64),
            in_colour(test.data.numpy()),
            test.targets.numpy().astype(np.int64),
            tuple(self._names(train.classes)),
        )

    def _names(self, classes: list[str]) -> list[str]:
        return [name[0] for name in classes]  # "7 - seven"


def _at(dataset: Any, url: str | None) -> Any:
    """Return `dataset`, or a copy that downloads its four files from the folder `url`."""
    if not url:
        return dataset
    return type(dataset.__name__, (dataset,), {"mirrors": [f"{url.rstrip('/')}/"]})


def _verify(packed: Path, checksum: str) -> None:
    """Verify an unpacked file, whose contents torchvision does not check.

    Raises:
        RuntimeError: `packed` has another checksum, or the unpacked file has other contents.
    """
    from torchvision.datasets.utils import check_integrity

    if not check_integrity(packed, checksum):
        raise RuntimeError(f"{packed} is missing or damaged")
    if gzip.decompress(packed.read_bytes()) != packed.with_suffix("").read_bytes():
        raise RuntimeError(f"{packed.with_suffix('')} is damaged")
