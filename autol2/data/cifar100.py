"""The CIFAR-100 data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .cifar10 import Cifar10


@dataclass
class Cifar100(Cifar10):
    """CIFAR-100: 60,000 photographs of 32×32 pixels in 100 classes (the fine labels)."""

    title: ClassVar[str] = "CIFAR-100"
    parts: ClassVar[tuple[str, ...]] = ("cifar-100-python",)

    def _dataset(self, url: str | None) -> Any:
        from torchvision.datasets import CIFAR100

        return type("Mirror", (CIFAR100,), {"url": url}) if url else CIFAR100
