"""Decode image files to red, green and blue bytes as a viewer would show them, or reject them.

Where Pillow alone would silently give wrong pixels, the image is corrected (16 bits are scaled to
8, EXIF orientation is applied, transparency is placed on white) or rejected with an error that
names it.
"""

from __future__ import annotations

import io
import os
import re
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .images import Images
from .memory import require_room, too_large
from .tree import Tree

if TYPE_CHECKING:
    from PIL import Image

CHUNK = 250
"""Number of images that a thread decodes at a time."""
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Accepted file formats, whatever the file's extension."""
PNG_HEAD, PNG_BITS = 16, 24
"""Positions of a PNG's header data, and of the number of bits per sample."""
ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""The passes of an interlaced PNG: first column and row, and the steps to the next ones."""
LARGE = 2**26
"""Bytes of pixels from which an image is decoded only if enough memory is free."""
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_SAMPLES = 258, 262, 339
"""TIFF tags: bits per sample; photometric interpretation, 0 if white is zero; sample format, 2 if
samples are signed."""
SIGNED = 2


def decode(tree: Tree) -> Images:
    """Decode the images of `tree` from their files.

    Raises:
        UserError: an image is broken, has a different size or is of a kind whose pixels are
            ambiguous; or the images do not fit into memory.
    """
    first, total = tree.train.files[0], len(tree.train.files) + len(tree.test.files)
    with warnings.catch_warnings():  # Pillow's warnings about tags and sizes
        warnings.simplefilter("ignore")
        _, height, width = pixels(first).shape
        images = Images.empty(
            len(tree.train.files), len(tree.test.files), height, width, tree.classes
        )
        images.train_labels[:] = tree.train.labels
        images.test_labels[:] = tree.test.labels

        def fill(room: NDArray[np.uint8], files: list[str]) -> int:
            for index, file in enumerate(files):
                one = pixels(file)
                if one.shape != (3, height, width):
                    raise UserError(
                        f"all images must have one size: {file} has {one.shape[2]}×"
                        f"{one.shape[1]} pixels, {first} has {width}×{height}"
                    )
                room[index] = one
            return len(files)

        pool = ThreadPoolExecutor(_cores())
        try:
            work = [
                pool.submit(fill, room[start : start + CHUNK], files[start : start + CHUNK])
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
    return images


def pixels(file: str) -> NDArray[np.uint8]:
    """Decode the image in `file`: uint8 [3, H, W] with red, green and blue.

    Raises:
        UserError: it is broken, or its pixels are ambiguous.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        content = Path(file).read_bytes()
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if (needed := 3 * image.width * image.height) > LARGE:
                require_room(needed, f"{file}, {image.width}×{image.height} pixels,")
            _refuse_damaged(image, content)
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise ValueError(f"it contains {frames} images (an animation, or several pages)")
            if image.format == "PPM":
                _refuse_several(image, content)
            image.load()
            if image.format == "PNG" and "transparency" in image.info:
                _scale_transparent_shade(image, bits=content[PNG_BITS])
            _turn(image, ImageOps.exif_transpose)
            return _rgb(image).transpose(2, 0, 1)
    except MemoryError:
        raise too_large(os.path.getsize(file), f"the compressed pixels of {file}") from None
    except UserError:
        raise
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        reason = f"cannot identify image file: it is not one of {kinds}, or Pillow cannot read it"
        raise UserError(f"cannot read the image {file}: {reason}") from None
    except Exception as error:  # Pillow raises nearly anything for a broken file
        raise UserError(f"cannot read the image {file}: {_reason(error)}") from None


ZEROS = 64
"""No compressed image ends in this many bytes of 0."""
COMPRESSION, DEFLATE = 259, (8, 32946)
"""The tag of a TIFF's compression, and its values for strips compressed with zlib."""


def _refuse_damaged(image: Image.Image, content: bytes) -> None:
    """Raise an error for damage that Pillow ignores, as in the middle of a JPEG or a PNG."""
    if image.format == "PNG":
        _refuse_damaged_png(content)
    elif image.format in ("JPEG", "MPO"):
        import simplejpeg

        kind = "CMYK" if image.mode == "CMYK" else "GRAY"
        simplejpeg.decode_jpeg(content, kind, fastdct=True, fastupsample=True, min_factor=8)
    elif image.format == "TIFF":
        _refuse_damaged_tiff(image, content)
    elif image.format == "WEBP" and not content[-ZEROS:].strip(b"\0") and len(content) > 2 * ZEROS:
        raise ValueError(f"its last {ZEROS} bytes are zeros, as in an incomplete download")


def _refuse_damaged_tiff(image: Image.Image, content: bytes) -> None:
    """Raise an error if the checksum of a compressed strip or tile is wrong."""
    tags: Any = getattr(image, "tag_v2", {})
    if tags.get(COMPRESSION) not in DEFLATE:
        return
    for where, sizes in ((273, 279), (324, 325)):
        for first, count in zip(tags.get(where, ()), tags.get(sizes, ()), strict=True):
            zlib.decompress(content[first : first + count])


def _refuse_damaged_png(content: bytes) -> None:
    """Raise a ValueError if any checksum is wrong or if pixels are missing."""
    width, height, bits, kind, _, _, interlaced = struct.unpack_from(">IIBBBBB", content, PNG_HEAD)
    of_pixel = bits * {2: 3, 4: 2, 6: 4}.get(kind, 1)
    missing = 0
    for x, y, step_x, step_y in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        if columns > 0 and rows > 0:
            missing += rows * (1 + -(-columns * of_pixel // 8))
    place, chunk, unpacker = PNG_HEAD - 8, b"", zlib.decompressobj()
    while chunk != b"IEND":
        head = content[place : place + 8]
        place += 12 + int.from_bytes(head[:4])
        if len(head) < 8 or place > len(content):
            raise ValueError("truncated PNG file")
        chunk, body = head[4:], content[place - 4 - int.from_bytes(head[:4]) : place - 4]
        if zlib.crc32(body, zlib.crc32(chunk)) != int.from_bytes(content[place - 4 : place]):
            raise ValueError(f"broken PNG file: wrong checksum of {chunk!r}")
        if chunk == b"IDAT" and missing > 0:
            missing -= len(unpacker.decompress(body, missing))
    if missing > 0:
        raise ValueError(f"broken PNG file: {missing:,} bytes of its pixels are missing")


def _refuse_several(image: Image.Image, content: bytes) -> None:
    """Raise a ValueError if a binary PBM, PGM or PPM contains another image.

    It must not be loaded yet.
    """
    decoder, _, offset, rest = image.tile[0]  # type: ignore[attr-defined]
    wide = image.mode == "I" or (decoder == "ppm" and rest[1] > 255)
    row = -(-image.width // 8) if image.mode == "1" else image.width * len(image.getbands())
    end = offset + image.height * row * (1 + wide)
    if decoder != "ppm_plain" and re.match(rb"P[1-7]\s", content[end:].lstrip()):
        raise ValueError("it contains several images")


def _scale_transparent_shade(image: Image.Image, bits: int) -> None:
    """Scale the transparent grey level of a PNG to 8 bits, like Pillow scales the pixels.

    Raises:
        ValueError: the level has 16 bits, some of which Pillow has dropped.
    """
    if bits > 8:
        raise ValueError("16 bits with a transparent grey level: save it with 8 bits")
    if image.mode == "L":
        image.info["transparency"] *= 255 // (2**bits - 1)


def _turn(image: Image.Image, transpose: Callable[..., Any]) -> None:
    """Rotate or mirror `image`, which is loaded, according to its EXIF data."""
    try:
        transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # unreadable EXIF data are ignored
        return


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of `image`, [H, W, 3].

    Raises:
        ValueError: it is undefined which values are black and white, or which pixels are visible.
    """
    from PIL import Image

    sixteen = image.mode.startswith("I;16")
    if sixteen or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = _eight_bits(image)
        return np.repeat(grey[:, :, None], 3, axis=2)
    signed = SIGNED in getattr(image, "tag_v2", {}).get(TIFF_SAMPLES, ())
    if image.mode in ("I", "F") or signed:
        kind = "floating-point numbers" if image.mode == "F" else "32-bit or signed integers"
        raise ValueError(f"its pixels are {kind} of unknown range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        if colours.getchannel("A").getextrema() != (255, 255):
            white = Image.new("RGBA", image.size, "white")
            colours = Image.alpha_composite(white, colours)
        return np.asarray(colours.convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Return a grey `image` of up to 16 bits, scaled to 0 to 255 and rounded."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(TIFF_BITS, (16,))[0]
    most = 2**bits - 1
    values = np.asarray(image).astype(np.uint32)
    if tags.get(TIFF_PHOTOMETRIC) == 0:
        values = most - values
    scaled: NDArray[np.uint8] = ((values * 255 + most // 2) // most).astype(np.uint8)
    return scaled


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@contextmanager
def _progress(total: int, root: Path) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, else a line before and after; both on standard error."""
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


def _reason(error: Exception) -> str:
    words = getattr(error, "strerror", None) or str(error) or f"broken ({type(error).__name__})"
    return str(words).splitlines()[0]
