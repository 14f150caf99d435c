"""The CIFAR-10 data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .downloaded import Downloaded
from .images import Images


@dataclass
class Cifar10(Downloaded):
    """CIFAR-10: 60,000 photographs of 32×32 pixels in 10 classes, through torchvision."""

    title: ClassVar[str] = "CIFAR-10"
    parts: ClassVar[tuple[str, ...]] = ("cifar-10-batches-py",)

    def _dataset(self, url: str | None) -> Any:
        from torchvision.datasets import CIFAR10

        return type("Mirror", (CIFAR10,), {"url": url}) if url else CIFAR10

    def _origin(self) -> str:
        return str(self._dataset(None).url)

    def _part(self, place: Path, train: bool, **options: Any) -> Any:
        return self._dataset(self.url)(place, train=train, **options)

    def _images(self, train: Any, test: Any) -> Images:
        return Images(
            np.ascontiguousarray(train.data.transpose(0, 3, 1, 2)),
            np.asarray(train.targets, np.int64),
            np.ascontiguousarray(test.data.transpose(0, 3, 1, 2)),
            np.asarray(test.targets, np.int64),
            tuple(train.classes),
        )
