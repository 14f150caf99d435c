"""Fashion-MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .mnist import Mnist, _at


@dataclass
class FashionMnist(Mnist):
    """Fashion-MNIST: 70,000 pictures of clothes, 28×28 and grey, made 32×32 in three channels."""

    title: ClassVar[str] = "Fashion-MNIST"
    parts: ClassVar[tuple[str, ...]] = ("FashionMNIST",)

    def _dataset(self, url: str | None) -> Any:
        from torchvision.datasets import FashionMNIST

        return _at(FashionMNIST, url)

    def _names(self, classes: list[str]) -> list[str]:
        return classes
