"""No augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .augmentation import Augmentation


@dataclass
class NoAugmentation(Augmentation):
    """The images as they are."""

    name: ClassVar[str] = "none"
    usual: ClassVar[bool] = True
