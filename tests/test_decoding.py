"""Image files: right pixels, or a refusal that names the file."""

from __future__ import annotations

import io
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from autol2.data import decoding
from autol2.data.decoding import pixels
from autol2.errors import UserError

from .images import draw

GREY = np.arange(0, 63 * 1040, 1040, np.uint16).reshape(7, 9)
"""A ramp of 16 bits."""
EIGHT = np.rint(GREY / 257).astype(np.uint8)
ORIENTATION = ExifTags.Base.Orientation


def chunk(kind: bytes, content: bytes) -> bytes:
    """A piece of a PNG file."""
    body = kind + content
    return len(content).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)


def png(
    size: tuple[int, int], bits: int, kind: int, rows: bytes, more: bytes = b"", interlaced: int = 0
) -> bytes:
    """A PNG file with `rows` as the format has them, each behind its filter's number."""
    head = b"".join(side.to_bytes(4) for side in size) + bytes([bits, kind, 0, 0, interlaced])
    pieces = chunk(b"IHDR", head) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + pieces


def saved(image: Image.Image, path: Path, **options: Any) -> str:
    image.save(path, **options)
    return str(path)


def refused(path: str) -> str:
    """Why the image is refused, in the one line that names it."""
    with pytest.raises(UserError) as caught:
        pixels(path)
    text = str(caught.value)
    assert text.startswith(f"cannot read the image {path}: ")
    assert "\n" not in text
    return text.partition(": ")[2]


def shown(path: str) -> Any:
    """The pixels [H, W, 3]."""
    return pixels(path).transpose(1, 2, 0)


# 16 bits and more


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bits_become_8(tmp_path: Path, ending: str) -> None:
    found = shown(saved(Image.fromarray(GREY), tmp_path / f"x.{ending}"))
    assert np.array_equal(found, np.repeat(EIGHT[:, :, None], 3, axis=2))


def test_16_bits_big_endian(tmp_path: Path) -> None:
    found = shown(saved(Image.frombytes("I;16B", (9, 7), GREY.astype(">u2")), tmp_path / "x.tif"))
    assert np.array_equal(found[:, :, 0], EIGHT)


def test_16_bits_where_white_is_zero(tmp_path: Path) -> None:
    path = saved(Image.fromarray(GREY), tmp_path / "x.tif", tiffinfo={262: 0})
    with Image.open(path) as image:
        image.load()
        white_is_zero = image.tag_v2[262] == 0  # type: ignore[attr-defined]
    if not white_is_zero:  # Pillow wrote its own; the tag's value lies in the file as this
        content = Path(path).read_bytes()
        entry = b"\x06\x01\x03\x00\x01\x00\x00\x00"
        assert content.count(entry) == 1
        Path(path).write_bytes(content.replace(entry + b"\x01", entry + b"\x00"))
    assert np.array_equal(shown(path)[:, :, 0], np.rint((65535 - GREY) / 257).astype(np.uint8))


def test_16_bits_of_a_pgm_with_another_maximum(tmp_path: Path) -> None:
    path = tmp_path / "x.pgm"
    path.write_bytes(b"P5 2 1 1000\n" + np.array([0, 1000], ">u2").tobytes())
    assert shown(str(path))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (GREY.astype(np.int32), "32-bit or signed integers"),
        (GREY.astype(np.float32) / 65535, "floating-point numbers"),
    ],
)
def test_numbers_of_no_known_range_are_refused(tmp_path: Path, values: Any, kind: str) -> None:
    path = saved(Image.fromarray(values), tmp_path / "x.tif")
    assert refused(path) == f"its pixels are {kind} of unknown range: save it with 8 or 16 bits"


def test_signed_bytes_are_refused(tmp_path: Path) -> None:
    path = Path(saved(Image.fromarray(EIGHT), tmp_path / "x.tif", tiffinfo={339: 1}))
    content = path.read_bytes()
    entry = b"\x53\x01\x03\x00\x01\x00\x00\x00"  # SampleFormat, one short
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry + b"\1", entry + b"\2"))
    assert "signed integers of unknown range" in refused(str(path))


def test_floating_point_pfm_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ppm"
    path.write_bytes(b"Pf\n2 1\n-1.0\n" + np.array([0.0, 1.0], "<f4").tobytes())
    assert "floating-point" in refused(str(path))


# How a camera was held


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_images_are_turned(tmp_path: Path, orientation: int, ending: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
    path = saved(draw(1), tmp_path / f"x.{ending}", exif=exif, **options)
    plain = saved(draw(1), tmp_path / f"y.{ending}", **options)
    with Image.open(plain) as image:
        image.getexif()[ORIENTATION] = orientation
        expected = ImageOps.exif_transpose(image)
        assert (expected.size == (7, 9)) == (orientation > 4)
        assert np.array_equal(shown(path), np.asarray(expected.convert("RGB")))


def test_exif_that_nobody_can_read_is_none(tmp_path: Path) -> None:
    path = saved(draw(1), tmp_path / "x.png", exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    assert np.array_equal(shown(path), np.asarray(draw(1)))


# Transparency


def see_through(alpha: int) -> Image.Image:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, alpha))
    return image


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
@pytest.mark.parametrize(("alpha", "second"), [(0, (255, 255, 255)), (255, (255, 0, 0))])
def test_transparency_is_laid_on_white(
    tmp_path: Path, ending: str, alpha: int, second: tuple[int, int, int]
) -> None:
    options = {"lossless": True} if ending == "webp" else {}
    found = shown(saved(see_through(alpha), tmp_path / f"x.{ending}", **options))
    assert found.tolist() == [[[255, 0, 0], [*second]]]


def test_half_transparency_is_mixed(tmp_path: Path) -> None:
    found = shown(saved(see_through(128), tmp_path / "x.png"))
    assert found[0, 1].tolist() == [255, 127, 127]


@pytest.mark.parametrize(
    ("mode", "colour", "transparency"),
    [("L", 40, 40), ("RGB", (9, 8, 7), (9, 8, 7)), ("P", 3, 3), ("1", 0, 0)],
)
def test_a_transparent_colour_is_white(
    tmp_path: Path, mode: str, colour: Any, transparency: Any
) -> None:
    image = Image.new(mode, (2, 1), colour)
    if mode == "P":
        image.putpalette([5] * 768)
    found = shown(saved(image, tmp_path / "x.png", transparency=transparency))
    assert found.tolist() == [[[255, 255, 255]] * 2]


def test_grey_with_alpha_and_a_palette_with_alphas(tmp_path: Path) -> None:
    grey = Image.merge("LA", (Image.new("L", (1, 1), 7), Image.new("L", (1, 1), 0)))
    assert shown(saved(grey, tmp_path / "x.png")).tolist() == [[[255, 255, 255]]]
    palette = Image.new("P", (1, 1), 2)
    palette.putpalette([1, 1, 1, 2, 2, 2, 3, 3, 3])
    path = saved(palette, tmp_path / "y.png", transparency=bytes([255, 255, 0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shown(path).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize(("bits", "row", "shade"), [(1, 0x40, 0), (2, 0x40, 1), (4, 0x5A, 5)])
def test_a_transparent_shade_of_few_bits(tmp_path: Path, bits: int, row: int, shade: int) -> None:
    """Pillow has the pixels in 8 bits, and the shade as it was."""
    path = tmp_path / "x.png"
    transparent = chunk(b"tRNS", shade.to_bytes(2))
    path.write_bytes(png((2, 1), bits, 0, bytes([0, row]), transparent))
    left, right = shown(str(path))[0, :, 0]
    pixels = [row >> 8 - bits, row >> 8 - 2 * bits & 2**bits - 1]
    grey = [255 * pixel // (2**bits - 1) for pixel in pixels]
    assert [left, right] == [255 if p == shade else g for p, g in zip(pixels, grey, strict=True)]


@pytest.mark.parametrize("kind", [0, 2])
def test_16_bits_with_a_transparent_shade_are_refused(tmp_path: Path, kind: int) -> None:
    """Of colours, Pillow has dropped the lower half."""
    path, shade = tmp_path / "x.png", (1040).to_bytes(2) * (kind + 1)
    path.write_bytes(png((1, 1), 16, kind, b"\0" + shade, chunk(b"tRNS", shade)))
    assert "16 bits with a transparent grey level" in refused(str(path))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_are_pillows(tmp_path: Path, mode: str) -> None:
    image = draw(3).convert(mode)
    path = saved(image, tmp_path / "x.tif")
    assert np.array_equal(shown(path), np.asarray(image.convert("RGB")))


# Damage


def photograph(**options: Any) -> bytes:
    small = Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8))
    content = io.BytesIO()
    small.resize((128, 128)).convert(options.pop("mode", "RGB")).save(content, "jpeg", **options)
    return content.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"mode": "L"}, {"mode": "CMYK"}, {"quality": 100}]
)
@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"\xaa"])
def test_a_jpeg_damaged_in_its_middle(
    tmp_path: Path, options: dict[str, Any], filler: bytes
) -> None:
    content = photograph(**options)
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    pixels(str(path))
    start = content.index(b"\xff\xda")  # the compressed data
    middle = (start + len(content)) // 2
    hole = (len(content) - start) // 4
    path.write_bytes(content[:middle] + filler * hole + content[middle + hole :])
    refused(str(path))


def test_a_jpeg_with_a_piece_missing(tmp_path: Path) -> None:
    content = photograph()
    path = tmp_path / "x.jpg"
    middle = len(content) * 3 // 4
    path.write_bytes(content[:middle] + content[middle + 200 :])
    assert "premature end of data" in refused(str(path))


def test_a_png_damaged_in_its_middle(tmp_path: Path) -> None:
    """Stored, not compressed: a wrong byte is a wrong pixel, which only the checksum tells."""
    path = tmp_path / "x.png"
    draw(1).save(path, compress_level=0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "broken PNG" in refused(str(path)) or "checksum" in refused(str(path))


@pytest.mark.parametrize(
    ("kind", "bits", "of_row"), [(0, 1, 1), (0, 8, 4), (2, 16, 24), (6, 8, 16)]
)
def test_a_png_with_rows_missing(tmp_path: Path, kind: int, bits: int, of_row: int) -> None:
    """All its checksums are right."""
    path, row = tmp_path / "x.png", bytes([0] + [77] * of_row)
    path.write_bytes(png((4, 3), bits, kind, 3 * row))
    assert shown(str(path)).shape == (3, 4, 3)
    path.write_bytes(png((4, 3), bits, kind, 2 * row))
    assert refused(str(path)).endswith(f"{of_row + 1} bytes of its pixels are missing")
    path.write_bytes(png((4, 3), bits, kind, b"")[:-12] + chunk(b"IEND", b""))
    refused(str(path))


def test_an_interlaced_png(tmp_path: Path) -> None:
    """5×5 pixels: four of its seven passes have rows of one, two or three pixels."""
    path, grey = tmp_path / "x.png", EIGHT[:5, :5]
    places = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
    places.append((0, 1, 1, 2))
    rows = b""
    for x, y, step_x, step_y in places:
        part = grey[y::step_y, x::step_x]
        rows += b"".join(b"\0" + row.tobytes() for row in part if len(row))
    path.write_bytes(png((5, 5), 8, 0, rows, interlaced=1))
    assert np.array_equal(shown(str(path))[:, :, 0], grey)
    path.write_bytes(png((5, 5), 8, 0, rows[:-1], interlaced=1))
    assert "1 bytes of its pixels are missing" in refused(str(path))


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "ppm", "tif", "webp"])
def test_a_truncated_image(tmp_path: Path, ending: str) -> None:
    path = Path(saved(draw(1, 40, 40), tmp_path / f"x.{ending}"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    refused(str(path))


# More than one picture, and other kinds of files


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
def test_several_pictures_in_one_file_are_refused(tmp_path: Path, ending: str) -> None:
    path = saved(draw(1), tmp_path / f"x.{ending}", save_all=True, append_images=[draw(2)])
    assert refused(path) == "it contains 2 images (an animation, or several pages)"


@pytest.mark.parametrize(
    ("head", "row"),
    [
        (b"P6 2 1 255\n", b"\1\2\3\4\5\6"),
        (b"P5 2 1 255\n", b"P6"),
        (b"P5 2 1 15\n", b"\1\2"),
        (b"P5 2 1 65535\n", b"\1\2\3\4"),
        (b"P6 1 1 999\n", b"\1\2\3\3\2\1"),
        (b"P4 9 1\n", b"\xf0\x80"),
    ],
)
def test_several_pictures_in_a_ppm_are_refused(tmp_path: Path, head: bytes, row: bytes) -> None:
    path = tmp_path / "x.ppm"
    for whole in (head + row, head + row + b"\n", head + row + b"end"):
        path.write_bytes(whole)
        pixels(str(path))
    path.write_bytes(2 * (head + row))
    assert refused(str(path)) == "it contains several images"


def test_several_pictures_in_a_jpeg_are_refused(tmp_path: Path) -> None:
    draw(1).save(tmp_path / "x.mpo", save_all=True, append_images=[draw(2)])
    path = (tmp_path / "x.mpo").rename(tmp_path / "x.jpg")
    assert refused(str(path)) == "it contains 2 images (an animation, or several pages)"


@pytest.mark.parametrize("kind", ["gif", "png"])
def test_what_a_file_is_counts_and_not_its_name(tmp_path: Path, kind: str) -> None:
    path = saved(draw(1).convert("P"), tmp_path / "x.jpg", format=kind)
    assert np.array_equal(shown(path), np.asarray(draw(1).convert("P").convert("RGB")))


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg/>"]
)
def test_what_is_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    assert refused(str(path)).startswith("cannot identify image file: it is not one of BMP, ")


def test_an_image_beyond_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is told before a single row is decoded."""

    path = tmp_path / "x.png"
    size = (12_000).to_bytes(4)
    head = chunk(b"IHDR", size + size + b"\x08\x02\0\0\0")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    monkeypatch.setattr("autol2.data.memory.available", lambda: 10**8)
    with pytest.raises(UserError, match=r"12000×12000 pixels, take 432\.0 MB and do not fit") as at:
        pixels(str(path))
    assert "the 100.0 MB of memory that are free" in str(at.value)


@pytest.mark.parametrize("place", ["exif_transpose", "convert"])
def test_memory_that_ends_while_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    path = saved(draw(1), tmp_path / "x.png")

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageOps if place == "exif_transpose" else Image.Image, place, full)
    with pytest.raises(UserError, match="do not fit into memory"):
        pixels(path)


def test_nothing_is_warned_of(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Pillow's warnings, of which PYTHONWARNINGS=error would make failures."""
    from autol2.data.tree import scan

    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            image = Image.new("P", (9, 7), 1)
            image.putpalette([1, 1, 1, 2, 2, 2])
            saved(image, tmp_path / part / name / "x.png", transparency=bytes([255, 0]))
            draw(1).save(tmp_path / part / name / "y.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(decoding.decode(scan(tmp_path)).train_images) == 4
    assert "arning" not in capfd.readouterr().err
