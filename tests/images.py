"""What the tests of data share: sources, small images and trees, loading in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autol2.component import as_plain
from autol2.data import dataset as data
from autol2.data.cifar10 import Cifar10
from autol2.data.cifar100 import Cifar100
from autol2.data.dataset import Dataset
from autol2.data.digits import Digits
from autol2.data.fashion_mnist import FashionMnist
from autol2.data.imagefolder import ImageFolder
from autol2.data.mnist import Mnist
from autol2.data.source import DataSource
from autol2.data.svhn import Svhn
from autol2.errors import UserError

PROJECT = Path(__file__).resolve().parent.parent
CLASSES = ("ant", "bee", "cow")
KINDS: dict[str, type[DataSource]] = {
    "digits": Digits,
    "imagefolder": ImageFolder,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "mnist": Mnist,
    "fashion_mnist": FashionMnist,
    "svhn": Svhn,
}


def source(kind: str, root: object = None, cache: object = None, **more: Any) -> Any:
    """The data source called `kind`."""
    if cache is not None:
        more["cache"] = str(cache)
    return KINDS[kind](root=None if root is None else str(root), **more)


def equal(one: Dataset, other: Dataset) -> bool:
    names = ("train_images", "train_labels", "test_images", "test_labels")
    return (one.classes, one.digest) == (other.classes, other.digest) and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in names
    )


def files(folder: Path) -> dict[str, int]:
    """Everything below `folder`, and when it was last changed."""
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def message(load: DataSource) -> str:
    """The one line that loading fails with."""
    with pytest.raises(UserError) as caught:
        data.load(load)
    text = str(caught.value)
    assert "\n" not in text
    assert text.isprintable()
    return text


LOAD = """
import json, sys
from autol2 import errors
from autol2.component import locate
from autol2.data import dataset as data
from autol2.data.source import DataSource
options = json.loads(sys.argv[1])
try:
    kind = locate(options.pop("_target_"), "data", DataSource)
    print(data.load(kind(**options)).digest)
except errors.UserError as error:
    sys.exit(f"UserError: {error}")
"""


def as_json(load: DataSource) -> str:
    return json.dumps(as_plain(load))


def start(load: DataSource, before: str = "") -> subprocess.Popen[str]:
    """Another process that does what `before` says, loads, and prints the digest."""
    return subprocess.Popen(
        [sys.executable, "-c", before + LOAD, as_json(load)],
        cwd=PROJECT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(happened: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def draw(seed: int, width: int = 9, height: int = 7) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def flip(position: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[position] ^= 4
        path.write_bytes(content)

    return change
