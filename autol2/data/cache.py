"""A cache of decoded images, so that a folder of images is decoded only once.

Decoding tens of thousands of files takes many times as long as reading their pixels. A cache file
is a line of JSON (`Header`), followed by the four arrays of `Images`. It is always verified: the
line contains the tree's signature and the digest of the contents. The file's name contains the
signature and the user, so that several users can share a folder: each writes their own files and
reads everybody's. This module does not import torch, so that `known_digest` is fast.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..storage.files import sync, sync_folder
from .images import Images
from .tree import Tree

FORMAT = "autol2 images 3"
"""Changes whenever the format of cache files or the decoding changes."""


@dataclass(frozen=True)
class Header:
    """The first line of a cache file."""

    format: str
    signature: str
    digest: str
    classes: tuple[str, ...]
    train: int
    test: int
    height: int
    width: int
    repeated: int
    """Number of test images that are equal to a training image."""


class Cache:
    """The cache files of a tree in `folder`.

    Attributes:
        own: the file that this user writes.
        lock: the lock file that is held while this user decodes and writes.
    """

    def __init__(self, folder: Path, tree: Tree) -> None:
        self.folder, self.signature = folder, tree.signature
        self._tree = f"imagefolder-{hashlib.sha256(os.fsencode(tree.root)).hexdigest()[:16]}"
        user = str(os.getuid()) if hasattr(os, "getuid") else "0"
        self._user = f"-{user}.images"
        self.own = folder / f"{self._tree}-{tree.signature[:16]}{self._user}"
        self.lock = folder / f"{self._tree}-{user}.lock"

    def header(self) -> Header:
        """Return the first line of the first readable cache file of this exact tree.

        Raises:
            FileNotFoundError: there is no such file.
        """
        for path in self._files():
            with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
                return _header(file.readline(), self.signature)
        raise FileNotFoundError(self.own)

    def read(self) -> tuple[Images, Header]:
        """Return the images from the first intact cache file.

        Raises:
            FileNotFoundError: there is no cache file.
            OSError: the user's own file cannot be read.
            ValueError: the user's own file is damaged.
        """
        for path in self._files():
            try:
                return _read(path, self.signature)
            except FileNotFoundError:
                continue
            except (OSError, ValueError):
                if path == self.own:
                    raise
        raise FileNotFoundError(self.own)

    def write(self, images: Images, repeated: int) -> None:
        """Write the user's own cache file atomically.

        The user's cache files of earlier versions of the tree are deleted. The lock must be held.

        Raises:
            OSError: the disk is full, or the folder is not writable.
        """
        height, width = images.train_images.shape[2:]
        header = Header(
            format=FORMAT,
            signature=self.signature,
            digest=images.digest(),
            classes=images.classes,
            train=len(images.train_images),
            test=len(images.test_images),
            height=height,
            width=width,
            repeated=repeated,
        )
        new = self.lock.with_suffix(".tmp")
        try:
            with new.open("wb") as file:
                file.write(json.dumps(asdict(header)).encode() + b"\n")
                for array in images.arrays:
                    file.write(array.data)
                file.flush()
                sync(file.fileno())
            new.replace(self.own)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        sync_folder(self.folder)
        for path in (self.folder / f"{self._tree}.images", *self._earlier()):
            with contextlib.suppress(OSError):
                path.unlink()

    def _files(self) -> Iterator[Path]:
        """Yield the user's own file, then those of other users."""
        yield self.own
        others = self.folder.glob(f"{self._tree}-{self.signature[:16]}-*.images")
        yield from sorted(path for path in others if path != self.own)

    def _earlier(self) -> Iterator[Path]:
        return (
            path
            for path in self.folder.glob(f"{self._tree}-*{self._user}")
            if path.name != self.own.name
        )


def _read(path: Path, signature: str) -> tuple[Images, Header]:
    with path.open("rb") as file:
        line = file.readline()
        header = _header(line, signature)
        pixels = (header.train + header.test) * (3 * header.height * header.width)
        size = len(line) + pixels + 8 * (header.train + header.test)
        actual = os.fstat(file.fileno()).st_size
        if actual != size:
            raise ValueError(f"it has {actual:,} bytes instead of {size:,}")
        images = Images.empty(
            header.train, header.test, header.height, header.width, header.classes
        )
        for array in images.arrays:
            file.readinto(array.data)
    if images.digest() != header.digest:
        raise ValueError("its contents are damaged")
    return images, header


def _header(line: bytes, signature: str) -> Header:
    try:
        header = Header(**json.loads(line))
    except (TypeError, ValueError):
        raise ValueError("its first line is damaged") from None
    if header.format != FORMAT:
        raise ValueError("another version of this program made it")
    if header.signature != signature:
        raise ValueError("the images have changed since")
    return replace(header, classes=tuple(header.classes))
