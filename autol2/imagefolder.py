"""A tree of image files, decoded once.

The tree is torchvision's ``ImageFolder`` twice over: ``train/<class>/…`` and ``test/<class>/…``.
Decoding tens of thousands of files takes many times as long as reading their pixels, so these are
kept in a cache: one file a tree, a line of JSON (`_Header`) and then the four arrays of `Images`.
It is never trusted blindly: the line holds a signature of the tree (paths, sizes, times of change)
and the digest of the contents. No torch here, so that `known_digest` is quick.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .config import UserError
from .files import sync_folder
from .images import Images
from .lock import exclusive

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What torchvision's ImageFolder takes for an image; other files are passed over."""
LAYOUT = "it must hold train/CLASS/*.png and test/CLASS/*.png (or .jpg, …), a folder for each class"
FORMAT = "autol2 images 1"
"""Changes when what is in a cache file, or how it was decoded, does."""
CHUNK = 250
"""Images that a thread decodes at a time."""


@dataclass(frozen=True)
class _Part:
    """The files of train/ or test/: their paths, and the index of each one's class."""

    files: list[str]
    labels: list[int]


@dataclass(frozen=True)
class _Tree:
    root: Path
    classes: tuple[str, ...]
    train: _Part
    test: _Part
    signature: str


@dataclass(frozen=True)
class _Header:
    """The first line of a cache file."""

    format: str
    signature: str
    digest: str
    classes: list[str]
    train: int
    test: int
    height: int
    width: int


def load(root: str | None, cache: str) -> tuple[Images, str]:
    """The images below `root` and their digest, from the cache where it holds them.

    Classes are in the order of their names, and so are the images of each class. Images become
    RGB as Pillow's ``convert`` does it.

    Args:
        root: folder with train/ and test/.
        cache: folder for the decoded copy; where it cannot be written, there will be none.

    Raises:
        UserError: the tree is not what it should be, or an image is broken. No cache remains.
    """
    tree = _scan(_root(root))
    path = _cache_file(tree.root, cache)
    with contextlib.suppress(OSError, ValueError):
        return _read(path, tree.signature)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(path.with_suffix(".lock"), "decodes these images"))
        except OSError as error:
            _warn(f"no cache in {cache} ({error.strerror}): every start will decode the images")
            return _decode(tree)
        try:
            return _read(path, tree.signature)  # another process may just have made it
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            _warn(f"discarding the cache {path}: {error}")
        for old in (path, *path.parent.glob(f".{path.name}.*.tmp")):
            old.unlink(missing_ok=True)
        images, digest = _decode(tree)
        try:
            _write(path, images, tree.signature, digest)
        except OSError as error:
            _warn(f"no cache in {cache} ({error.strerror}): every start will decode the images")
        return images, digest


def known_digest(root: str | None, cache: str) -> str | None:
    """The digest of the images below `root` where a cache of this very tree says it, else None."""
    try:
        tree = _scan(_root(root))
        with _cache_file(tree.root, cache).open("rb") as file:
            return _read_header(file.readline(), tree.signature).digest
    except (OSError, ValueError, UserError):
        return None


def _root(root: str | None) -> Path:
    if root is None:
        raise UserError(f"data=imagefolder needs a folder, data.root=FOLDER: {LAYOUT}")
    return Path(root).expanduser().resolve()


def _cache_file(root: Path, cache: str) -> Path:
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    return Path(cache).expanduser().resolve() / f"imagefolder-{name}.images"


# The tree


def _scan(root: Path) -> _Tree:
    signature = hashlib.sha256()
    try:
        classes = {part: _folders(root / part, root) for part in ("train", "test")}
        _check_classes(root, classes["train"], classes["test"])
        train, test = (_part(root, part, classes[part], signature.update) for part in classes)
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    return _Tree(root, tuple(classes["train"]), train, test, signature.hexdigest())


def _folders(folder: Path, root: Path) -> list[str]:
    if not root.is_dir():
        raise UserError(f"there is no folder data.root={root}: {LAYOUT}")
    if not folder.is_dir():
        raise UserError(f"data.root={root} has no folder {folder.name}/: {LAYOUT}")
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def _check_classes(root: Path, train: list[str], test: list[str]) -> None:
    odd = [
        f"{', '.join(only[:5])}{', …' * (len(only) > 5)} only in {part}/"
        for part, only in (
            ("train", sorted({*train} - {*test})),
            ("test", sorted({*test} - {*train})),
        )
        if only
    ]
    if odd:
        raise UserError(f"train/ and test/ of {root} have different classes: {'; '.join(odd)}")
    if len(train) < 2:
        raise UserError(f"{root}/train needs at least 2 class folders and has {len(train)}")


def _part(root: Path, part: str, classes: list[str], sign: Callable[[bytes], None]) -> _Part:
    found = _Part([], [])
    for label, name in enumerate(classes):
        entries = list(_image_files(os.path.join(root, part, name)))
        if not entries:
            raise UserError(
                f"{os.path.join(root, part, name)} holds no image ({', '.join(EXTENSIONS)})"
            )
        for path, status in entries:
            inside = os.fsencode(os.path.relpath(path, root) if os.sep == "\\" else path)
            sign(b"%s\0%d\0%d\0" % (inside, status.st_size, status.st_mtime_ns))
        found.files.extend(path for path, _ in entries)
        found.labels.extend([label] * len(entries))
    return found


def _image_files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every image in and below `folder`, in torchvision's order."""
    folders, found = [folder], {}
    while folders:
        here = folders.pop()
        with os.scandir(here) as entries:
            below = sorted(entries, key=lambda entry: entry.name)
        folders.extend(entry.path for entry in below if entry.is_dir())
        found[here] = [
            (entry.path, entry.stat())
            for entry in below
            if entry.name.lower().endswith(EXTENSIONS) and not entry.is_dir()
        ]
    for _, files in sorted(found.items(), key=lambda item: item[0]):
        yield from files
