"""The Street View House Numbers data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .downloaded import Downloaded
from .images import Images


@dataclass
class Svhn(Downloaded):
    """SVHN: 99,289 photographed digits of house numbers, without the 531,131 extra ones."""

    title: ClassVar[str] = "SVHN"
    parts: ClassVar[tuple[str, ...]] = ("train_32x32.mat", "test_32x32.mat")

    def _dataset(self, url: str | None) -> Any:
        from torchvision.datasets import SVHN

        if not url:
            return SVHN
        files = {
            split: [f"{url.rstrip('/')}/{name}", name, checksum]
            for split, (_, name, checksum) in SVHN.split_list.items()
        }
        return type("Mirror", (SVHN,), {"split_list": files})

    def _origin(self) -> str:
        return str(self._dataset(None).split_list["train"][0]).rpartition("/")[0]

    def _part(self, place: Path, train: bool, **options: Any) -> Any:
        return self._dataset(self.url)(place, split="train" if train else "test", **options)

    def _images(self, train: Any, test: Any) -> Images:
        return Images(
            np.ascontiguousarray(train.data),
            train.labels,
            np.ascontiguousarray(test.data),
            test.labels,
            tuple(map(str, range(10))),
        )
