"""The Fashion-MNIST data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .mnist import Mnist, _at


@dataclass
class FashionMnist(Mnist):
    """Fashion-MNIST: 70,000 images of clothes, grey, padded from 28×28 to 32×32, in 3 channels."""

    title: ClassVar[str] = "Fashion-MNIST"
    parts: ClassVar[tuple[str, ...]] = ("FashionMNIST",)

    def _dataset(self, url: str | None) -> Any:
        from torchvision.datasets import FashionMNIST

        return _at(FashionMNIST, url)

    def _names(self, classes: list[str]) -> list[str]:
        return classes
