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
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..runs.files import sync, sync_folder
from ..runs.lock import exclusive
from .images import Images

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
    classes: tuple[str, ...]
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
        with contextlib.suppress(OSError):
            path.unlink()
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


def _scan(root: Path) -> _Tree:
    """The tree as it stands now; reads no image."""
    if not root.is_dir():
        raise UserError(f"there is no folder data.root={root}: {LAYOUT}")
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise UserError(f"data.root={root} has no folder {part}/: {LAYOUT}")
    signature = hashlib.sha256()
    try:
        classes = _classes(root)
        train = _part(root / "train", classes, signature.update)
        test = _part(root / "test", classes, signature.update)
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    return _Tree(root, classes, train, test, signature.hexdigest())


def _classes(root: Path) -> tuple[str, ...]:
    train, test = (
        {entry.name for entry in os.scandir(root / part) if entry.is_dir()}
        for part in ("train", "test")
    )
    odd = [
        f"{', '.join(names[:5])}{', …' * (len(names) > 5)} only in {part}/"
        for part, names in (("train", sorted(train - test)), ("test", sorted(test - train)))
        if names
    ]
    if odd:
        raise UserError(f"train/ and test/ of {root} have different classes: {'; '.join(odd)}")
    if len(train) < 2:
        raise UserError(f"{root / 'train'} needs at least 2 class folders and has {len(train)}")
    return tuple(sorted(train))


def _part(folder: Path, classes: tuple[str, ...], sign: Callable[[bytes], None]) -> _Part:
    part = _Part([], [])
    for label, name in enumerate(classes):
        before = len(part.files)
        for path, status in _image_files(os.path.join(folder, name)):
            sign(b"%s\0%d\0%d\0" % (os.fsencode(path), status.st_size, status.st_mtime_ns))
            part.files.append(path)
        found = len(part.files) - before
        if not found:
            raise UserError(f"{folder / name} holds no image ({', '.join(EXTENSIONS)})")
        part.labels.extend([label] * found)
    return part


def _image_files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every image file in and below `folder`, in torchvision's order."""
    folders = [folder]
    found: dict[str, list[os.DirEntry[str]]] = {}
    while folders:
        here = folders.pop()
        with os.scandir(here) as entries:
            below = sorted(entries, key=lambda entry: entry.name)
        folders += [entry.path for entry in below if entry.is_dir()]
        found[here] = [entry for entry in below if entry.name.lower().endswith(EXTENSIONS)]
    for here in sorted(found):
        yield from ((entry.path, entry.stat()) for entry in found[here] if entry.is_file())


def _decode(tree: _Tree) -> tuple[Images, str]:
    """The images of `tree` and their digest, from the files themselves."""
    total = len(tree.train.files) + len(tree.test.files)
    _, height, width = _pixels(tree.train.files[0]).shape
    images = Images.empty(len(tree.train.files), len(tree.test.files), height, width, tree.classes)
    images.train_labels[:] = tree.train.labels
    images.test_labels[:] = tree.test.labels

    def decode(room: NDArray[np.uint8], files: list[str]) -> int:
        for index, file in enumerate(files):
            pixels = _pixels(file)
            if pixels.shape != (3, height, width):
                raise UserError(
                    f"all images must have one size: {file} has {pixels.shape[2]}×"
                    f"{pixels.shape[1]} pixels, {tree.train.files[0]} has {width}×{height}"
                )
            room[index] = pixels
        return len(files)

    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pool = ThreadPoolExecutor(threads)
    try:
        work = [
            pool.submit(decode, room[start : start + CHUNK], files[start : start + CHUNK])
            for room, files in (
                (images.train_images, tree.train.files),
                (images.test_images, tree.test.files),
            )
            for start in range(0, len(files), CHUNK)
        ]
        with _progress(total, tree.root) as advance:
            for chunk in work:
                advance(chunk.result())
    finally:
        pool.shutdown(cancel_futures=True)
    return images, images.digest()


def _pixels(file: str) -> NDArray[np.uint8]:
    """The image in `file`, [3, H, W]."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except Exception as error:  # Pillow raises nearly anything for a broken file
        raise UserError(f"cannot read the image {file}: {_reason(error)}") from None


@contextlib.contextmanager
def _progress(total: int, root: Path) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, else a line before and one after; both on standard error."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(console=console) as bar:
            task = bar.add_task(f"decoding {total:,} images", total=total)
            yield lambda count: bar.advance(task, count)
        return
    started = time.monotonic()
    print(f"decoding the {total:,} images of {root}", file=sys.stderr, flush=True)
    yield lambda count: None
    print(f"decoded in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


def _write(path: Path, images: Images, signature: str, digest: str) -> None:
    """Put the cache at `path`: written beside it, flushed to disk, then renamed."""
    header = _Header(
        FORMAT,
        signature,
        digest,
        images.classes,
        *(len(images.train_images), len(images.test_images)),
        *images.train_images.shape[2:],
    )
    new = path.with_suffix(".tmp")  # the lock is held: nobody else writes it
    try:
        with new.open("wb") as file:
            file.write(json.dumps(asdict(header)).encode() + b"\n")
            for array in images.arrays:
                file.write(array.data)
            file.flush()
            sync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _read(path: Path, signature: str) -> tuple[Images, str]:
    """The images in the cache at `path` and their digest.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: it is damaged, or of another tree than `signature` stands for.
    """
    with path.open("rb") as file:
        line = file.readline()
        header = _read_header(line, signature)
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
    return images, header.digest


def _read_header(line: bytes, signature: str) -> _Header:
    try:
        header = _Header(**json.loads(line))
    except (TypeError, ValueError):
        raise ValueError("its first line is damaged") from None
    if header.format != FORMAT:
        raise ValueError("another version of this program made it")
    if header.signature != signature:
        raise ValueError("the images have changed since")
    return replace(header, classes=tuple(header.classes))


def _reason(error: Exception) -> str:
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(words).splitlines()[0]


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
