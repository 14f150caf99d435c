"""The option of no augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .augmentation import Augmentation


@dataclass
class NoAugmentation(Augmentation):
    """No augmentation: the images stay unchanged."""

    name: ClassVar[str] = "none"
    usual: ClassVar[bool] = True
