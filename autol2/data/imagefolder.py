"""A data set from a folder of the user's image files, which are decoded once."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..component import option
from ..errors import UserError
from ..storage.lock import exclusive
from .cache import Cache
from .decoding import decode
from .images import Images
from .source import DataSource, cache_folder, folder
from .tree import LAYOUT, Tree, scan


@dataclass
class ImageFolder(DataSource):
    """A tree of image files: train/CLASS/… and test/CLASS/…, all images of one size.

    Classes are sorted by name, and so are the images of each class.
    """

    source: ClassVar[str] = "imagefolder"

    cache: str | None = option(None, no_effect="a copy of what is decoded anyway")
    """Folder for the decoded copy; null for autol2 in ~/.cache. Not part of a run's identity."""

    def load(self) -> Images:
        """Load the images in `root`, from the cache if it contains them.

        If the cache's folder is not writable, no cache is written.

        Raises:
            UserError: the folders are not as required, or an image is broken. No cache remains.
        """
        tree = scan(self._root())
        if remarks := tree.remarks():
            _warn(remarks)
        cache = Cache(cache_folder(self.cache), tree)
        images, repeated = self._cached(tree, cache)
        if repeated:
            _warn(
                f"{repeated:,} of the {len(images.test_images):,} test images of {tree.root} are "
                f"identical to a training image"
            )
        return replace(images, passed_over=tree.passed_over)

    def known_digest(self) -> str | None:
        """Return the digest of the images in `root` if a cache of this exact tree contains it."""
        try:
            return Cache(cache_folder(self.cache), scan(self._root())).header().digest
        except (OSError, UserError):
            return None

    def prepare(self) -> str:
        """Check all files without reading them, and describe what was found.

        Raises:
            UserError: the folders are not as required.
        """
        tree = scan(self._root())
        counts = f"{len(tree.train.files):,} training and {len(tree.test.files):,} test images"
        found = f"{tree.root}: {counts} of {len(tree.classes):,} classes"
        return f"{found}; {remarks}" if (remarks := tree.remarks()) else found

    def _root(self) -> Path:
        if not self.root:
            raise UserError(f"data=imagefolder needs data.root=FOLDER: {LAYOUT}")
        return folder(self.root)

    def _cached(self, tree: Tree, cache: Cache) -> tuple[Images, int]:
        """Return the images of `tree`, and how many test images are equal to a training image."""
        with contextlib.suppress(OSError, ValueError):
            images, header = cache.read()
            return images, header.repeated
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(exclusive(cache.lock, "decodes these images"))
            except OSError as error:
                _no_cache(cache, error)
                images = decode(tree)
                return images, _repeated(images)
            try:
                images, header = cache.read()  # another process may just have written it
                return images, header.repeated
            except FileNotFoundError:
                pass
            except (OSError, ValueError) as error:
                _warn(f"discarding the cache {cache.own}: {error}")
            with contextlib.suppress(OSError):
                cache.own.unlink()
            images = decode(tree)
            repeated = _repeated(images)
            try:
                cache.write(images, repeated)
            except OSError as error:
                _no_cache(cache, error)
            return images, repeated


def _repeated(images: Images) -> int:
    """Return how many test images are equal to a training image."""
    known = {_fingerprint(image) for image in images.train_images}
    return sum(_fingerprint(image) in known for image in images.test_images)


def _fingerprint(image: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(image.data, digest_size=16).digest()


def _no_cache(cache: Cache, error: OSError) -> None:
    _warn(
        f"no cache in {cache.folder} ({error.strerror}): every run will decode the images again; "
        f"data.cache=FOLDER chooses another folder"
    )


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
