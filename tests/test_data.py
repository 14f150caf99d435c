"""Data sets: contents, caches, downloads, and what a user reads when something is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import io
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autol2.config import DataConfig
from autol2.data import cifar10
from autol2.data import dataset as data
from autol2.data.dataset import Dataset
from autol2.errors import UserError

PROJECT = Path(__file__).resolve().parent.parent
CLASSES = ("ant", "bee", "cow")


def config(source: str, root: object = None, cache: object = "unused", **more: Any) -> DataConfig:
    return DataConfig(
        source=source,
        name=source,
        root=None if root is None else str(root),
        cache=str(cache),
        **more,
    )


def equal(one: Dataset, other: Dataset) -> bool:
    names = ("train_images", "train_labels", "test_images", "test_labels")
    return (one.classes, one.digest) == (other.classes, other.digest) and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in names
    )


def files(folder: Path) -> dict[str, int]:
    """Everything below `folder`, and when it was last changed."""
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def message(load: DataConfig) -> str:
    """The one line that loading fails with."""
    with pytest.raises(UserError) as caught:
        data.load(load)
    text = str(caught.value)
    assert "\n" not in text
    assert text.isprintable()
    return text


LOAD = """
import json, sys
from autol2 import config, errors
from autol2.data import dataset as data
try:
    print(data.load(config.DataConfig(**json.loads(sys.argv[1]))).digest)
except errors.UserError as error:
    sys.exit(f"UserError: {error}")
"""


def as_json(load: DataConfig) -> str:
    return json.dumps(dataclasses.asdict(load))


def start(load: DataConfig, before: str = "") -> subprocess.Popen[str]:
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


# digits


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    digits = data.load(config("digits"))
    assert digits.classes == tuple("0123456789")
    assert digits.train_images.dtype == digits.test_images.dtype == torch.uint8
    assert digits.train_labels.dtype == digits.test_labels.dtype == torch.int64
    assert digits.train_images.shape == (1437, 3, 32, 32)
    assert digits.test_images.shape == (360, 3, 32, 32)
    assert digits.test_labels.tolist() == source.target[::5].tolist()
    rest = [index for index in range(1797) if index % 5]
    assert digits.train_labels.tolist() == source.target[rest].tolist()
    for images, originals in (
        (digits.test_images, source.images[::5]),
        (digits.train_images, source.images[rest]),
    ):
        assert torch.equal(images[:, 0], images[:, 1])
        assert torch.equal(images[:, 0], images[:, 2])
        inner = images[:, 0, 12:20, 12:20].double()
        assert (inner * 16 / 255 - torch.from_numpy(originals)).abs().max() < 0.04
        assert images.sum() == 3 * inner.sum()  # all the rest is black
    assert digits.train_images.max() == 255


def test_the_digest_is_of_contents_shapes_and_names() -> None:
    digits = data.load(config("digits"))
    # Seen once; the same on every machine as long as scikit-learn ships the same digits.
    assert digits.digest == "0b48fe3f6a49565e872e94f4b2cbf9a13b2ce3c9965a14a65d31fab89220e607"
    images = data.digits()
    assert images.digest() == digits.digest
    for change in (
        {"classes": (*images.classes[:-1], "ten")},
        {"train_labels": images.train_labels[::-1]},
        {"test_images": images.test_images.reshape(360, 3, 16, 64)},
        {"test_images": images.test_images ^ 1},
    ):
        assert dataclasses.replace(images, **change).digest() != digits.digest


def test_to_moves_every_tensor() -> None:
    moved = data.load(config("digits")).to("meta")
    tensors = (moved.train_images, moved.train_labels, moved.test_images, moved.test_labels)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert len(moved.classes) == 10


# imagefolder


def draw(seed: int, width: int = 9, height: int = 7) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes; PNG and JPEG, grey, palette, with alpha; a subfolder and stray files."""
    root = tmp_path / "tree"
    for part in ("train", "test"):
        for label, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(3):
                draw(100 * label + index + len(part)).save(folder / f"{index}.png")
    draw(1).convert("L").save(root / "train/ant/grey.png")
    draw(2).convert("P").save(root / "train/ant/palette.PNG")
    draw(3).convert("RGBA").save(root / "train/bee/alpha.png")
    draw(4).save(root / "train/bee/photo.jpeg")
    (root / "train/cow/below").mkdir()
    draw(5).save(root / "train/cow/below/0.png")
    (root / "train/cow/Thumbs.db").write_text("not an image")
    (root / "train/notes.txt").write_text("not a class")
    return root


@pytest.fixture
def folder(tree: Path, tmp_path: Path) -> DataConfig:
    return config("imagefolder", tree, tmp_path / "cache")


def cache_file(folder: DataConfig) -> Path:
    (found,) = Path(folder.cache).glob("*.images")
    return found


def test_imagefolder_equals_torchvisions(folder: DataConfig, tree: Path) -> None:
    from torchvision.datasets import ImageFolder

    loaded = data.load(folder)
    assert loaded.classes == CLASSES
    for images, labels, part in (
        (loaded.train_images, loaded.train_labels, "train"),
        (loaded.test_images, loaded.test_labels, "test"),
    ):
        theirs = ImageFolder(str(tree / part))
        assert images.dtype == torch.uint8
        assert labels.tolist() == theirs.targets
        assert images.shape == (len(theirs), 3, 7, 9)
        for mine, (image, _) in zip(images, theirs, strict=True):
            assert np.array_equal(mine.permute(1, 2, 0).numpy(), np.asarray(image))
    assert loaded.train_images.is_contiguous()
    assert torch.equal(
        loaded.train_images[0], torch.from_numpy(np.asarray(draw(5)).transpose(2, 0, 1).copy())
    )


def test_the_second_start_reads_no_image(
    folder: DataConfig, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data.known_digest(folder) is None
    first = data.load(folder)
    assert [line.split(" in ")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"decoding the 23 images of {tree}",
        "decoded",
    ]
    for path in tree.rglob("*.png"):  # no image any more, but to look at it is the same file
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert equal(data.load(folder), first)
    assert capsys.readouterr().err == ""
    assert data.known_digest(folder) == first.digest


def test_the_cache_needs_neither_torchvision_nor_pillow(folder: DataConfig) -> None:
    digest = data.load(folder).digest
    code = (
        "import json, sys\n"
        "from autol2 import config\n"
        "from autol2.data import dataset as data\n"
        "load = config.DataConfig(**json.loads(sys.argv[1]))\n"
        f"assert data.known_digest(load) == {digest!r}\n"
        "assert 'torch' not in sys.modules\n"
        f"assert data.load(load).digest == {digest!r}\n"
        "assert not {'torchvision', 'PIL', 'sklearn', 'rich'} & {*sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", code, as_json(folder)], cwd=PROJECT, check=True)


def test_the_same_images_elsewhere_have_the_same_digest(folder: DataConfig, tree: Path) -> None:
    copy = tree.with_name("copy")
    shutil.copytree(tree, copy)
    assert equal(data.load(config("imagefolder", copy, folder.cache)), data.load(folder))
    assert len(list(Path(folder.cache).glob("*.images"))) == 2


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def cut_first_line(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip(position: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[position] ^= 4
        path.write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(truncate, "bytes instead of", id="truncated"),
        pytest.param(cut_first_line, "first line is damaged", id="first line cut"),
        pytest.param(empty, "first line is damaged", id="empty"),
        pytest.param(lengthen, "bytes instead of", id="too long"),
        pytest.param(flip(-1), "contents are damaged", id="a label"),
        pytest.param(flip(-2000), "contents are damaged", id="a pixel"),
        pytest.param(flip(0), "first line is damaged", id="first line"),
    ],
)
def test_a_damaged_cache_is_made_anew(
    folder: DataConfig,
    damage: Callable[[Path], None],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = data.load(folder)
    whole = cache_file(folder).read_bytes()
    damage(cache_file(folder))
    capsys.readouterr()
    assert equal(data.load(folder), first)
    warning, *rest = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: discarding the cache {cache_file(folder)}: ")
    assert reason in warning
    assert len(rest) == 2
    assert cache_file(folder).read_bytes() == whole


def test_no_flipped_byte_passes(folder: DataConfig) -> None:
    first = data.load(folder)
    whole = cache_file(folder).read_bytes()
    for position in (*range(0, 350, 7), *range(350, len(whole), 97)):
        flip(position)(cache_file(folder))
        assert equal(data.load(folder), first)
        assert cache_file(folder).read_bytes() == whole


def change_pixels(tree: Path) -> None:
    draw(77).save(tree / "train/ant/0.png")


def add_image(tree: Path) -> None:
    draw(77).save(tree / "test/cow/3.png")


def remove_image(tree: Path) -> None:
    (tree / "train/cow/2.png").unlink()


def rename_image(tree: Path) -> None:
    (tree / "train/cow/2.png").rename(tree / "train/cow/00.png")


def move_to_another_class(tree: Path) -> None:
    (tree / "train/ant/2.png").rename(tree / "train/cow/z.png")


def rename_class(tree: Path) -> None:
    for part in ("train", "test"):
        (tree / part / "cow").rename(tree / part / "dog")


@pytest.mark.parametrize(
    "change",
    [
        change_pixels,
        add_image,
        remove_image,
        rename_image,
        move_to_another_class,
        rename_class,
    ],
)
def test_a_changed_tree_is_decoded_anew(
    folder: DataConfig, tree: Path, change: Callable[[Path], None]
) -> None:
    first = data.load(folder)
    change(tree)
    assert data.known_digest(folder) is None
    changed = data.load(folder)
    assert changed.digest != first.digest
    fresh = data.load(config("imagefolder", tree, tree.parent / "another"))
    assert equal(changed, fresh)
    assert data.known_digest(folder) == changed.digest


def test_no_cache_where_none_can_be_written(
    folder: DataConfig, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    before = files(tmp_path)
    loaded = data.load(config("imagefolder", tree, tmp_path / "file" / "cache"))
    warning, *_ = capsys.readouterr().err.splitlines()
    assert warning == (
        f"warning: no cache in {tmp_path}/file/cache (Not a directory): every start will decode "
        f"the images"
    )
    assert files(tmp_path) == before
    assert equal(loaded, data.load(folder))


def test_a_full_disk_leaves_no_cache(
    folder: DataConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limited = start(
        folder,
        before="import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (1000, 1000))\n"
        "import signal as s; s.signal(s.SIGXFSZ, s.SIG_IGN)\n",
    )
    digest, errors = limited.communicate(timeout=120)
    assert "warning: no cache in" in errors
    assert "File too large" in errors
    assert [path.suffix for path in Path(folder.cache).iterdir()] == [".lock"]
    assert data.load(folder).digest == digest.strip()


def corrupt(tree: Path) -> str:
    path = tree / "test/bee/1.png"
    path.write_bytes(path.read_bytes()[:-40])
    return f"cannot read the image {path}: "


def no_image_at_all(tree: Path) -> str:
    path = tree / "train/ant/0.png"
    path.write_text("hello")
    return f"cannot read the image {path}: cannot identify image file"


def other_size(tree: Path) -> str:
    draw(1, width=10, height=8).save(tree / "test/bee/1.png")
    return (
        f"all images must have one size: {tree}/test/bee/1.png has 10×8 pixels, "
        f"{tree}/train/ant/0.png has 9×7"
    )


def no_folder(tree: Path) -> str:
    shutil.rmtree(tree)
    return f"there is no folder data.root={tree}: it must hold train/CLASS/*.png and test/CLASS/"


def no_train(tree: Path) -> str:
    shutil.rmtree(tree / "train")
    return f"data.root={tree} has no folder train/: it must hold train/CLASS/*.png and test/CLASS/"


def no_test(tree: Path) -> str:
    (tree / "test").rename(tree / "val")
    return f"data.root={tree} has no folder test/: it must hold train/CLASS/*.png and test/CLASS/"


def empty_class(tree: Path) -> str:
    for path in (tree / "test/cow").iterdir():
        path.unlink()
    (tree / "test/cow/Thumbs.db").write_text("")
    return f"{tree}/test/cow holds no image (.jpg, "


def other_classes(tree: Path) -> str:
    (tree / "test/cow").rename(tree / "test/dog")
    return (
        f"train/ and test/ of {tree} have different classes: cow only in train/; dog only in test/"
    )


def one_class(tree: Path) -> str:
    for part in ("train", "test"):
        shutil.rmtree(tree / part / "bee")
        shutil.rmtree(tree / part / "cow")
    return f"{tree}/train needs at least 2 class folders and has 1"


@pytest.mark.parametrize("decoded_before", [False, True])
@pytest.mark.parametrize(
    "spoil",
    [
        corrupt,
        no_image_at_all,
        other_size,
        no_folder,
        no_train,
        no_test,
        empty_class,
        other_classes,
        one_class,
    ],
)
def test_a_bad_tree_is_one_line_and_leaves_nothing(
    folder: DataConfig, tree: Path, spoil: Callable[[Path], str], decoded_before: bool
) -> None:
    if decoded_before:
        data.load(folder)
    expected = spoil(tree)
    before = files(tree.parent)
    assert message(folder).startswith(expected)
    assert data.known_digest(folder) is None
    if decoded_before:  # at most, the useless cache is gone
        assert files(tree.parent).keys() <= before.keys()
    else:
        assert files(tree.parent) == before


def test_imagefolder_wants_a_root() -> None:
    assert message(config("imagefolder")).startswith(
        "data=imagefolder needs a folder, data.root=FOLDER: it must hold train/CLASS/*.png"
    )


def test_images_beyond_the_memory(tmp_path: Path) -> None:
    (tmp_path / "big.ppm").write_bytes(b"P6 6000 6000 255\n")
    os.truncate(tmp_path / "big.ppm", 17 + 3 * 6000**2)
    for part in ("train", "test"):
        for name in CLASSES:
            (tmp_path / "tree" / part / name).mkdir(parents=True)
            for index in range(8):  # 5 GB in all
                path = tmp_path / "tree" / part / name / f"{index}.ppm"
                path.hardlink_to(tmp_path / "big.ppm")
    limited = start(
        config("imagefolder", tmp_path / "tree", tmp_path / "cache"),
        before="import torch, resource as r\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * r.getpagesize()\n"
        "r.setrlimit(r.RLIMIT_AS, (used + 2**32, used + 2**32))\n",
    )
    _, errors = limited.communicate(timeout=120)
    assert errors == "UserError: 48 images of 6000×6000 pixels do not fit into memory\n"
    assert not (tmp_path / "cache").exists()


def test_a_bar_on_a_terminal(folder: DataConfig) -> None:
    outer, inner = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD, as_json(folder)],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=inner,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(inner)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(outer, 4096):
            shown += part
    os.close(outer)
    assert process.wait() == 0
    assert b"decoding 23 images" in shown
    assert b"100%" in shown
    assert b"decoded in" not in shown


@pytest.fixture
def slow_tree(tmp_path: Path) -> DataConfig:
    """A folder that takes about a second to decode."""
    root = tmp_path / "slow"
    content = io.BytesIO()
    draw(1, 500, 500).save(content, "png")
    for part, name in ((part, name) for part in ("train", "test") for name in CLASSES):
        (root / part / name).mkdir(parents=True)
        for index in range(30):
            (root / part / name / f"{index}.png").write_bytes(content.getvalue())
    return config("imagefolder", root, tmp_path / "cache")


@pytest.mark.parametrize("moment", ["decoding", "writing"])
def test_a_kill_leaves_no_half_cache(slow_tree: DataConfig, moment: str) -> None:
    suffix, before = {
        "decoding": (".lock", ""),
        "writing": (".tmp", "import os, time; os.fsync = lambda file: time.sleep(60)\n"),
    }[moment]
    process = start(slow_tree, before)
    cache = Path(slow_tree.cache)
    wait_for(lambda: list(cache.glob(f"*{suffix}")) or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not list(cache.glob("*.images"))
    assert data.known_digest(slow_tree) is None
    loaded = data.load(slow_tree)
    assert loaded.train_images.shape == (90, 3, 500, 500)
    assert data.known_digest(slow_tree) == loaded.digest
    assert {path.suffix for path in cache.iterdir()} == {".images", ".lock"}


def test_an_interrupt_leaves_nothing(slow_tree: DataConfig) -> None:
    process = start(slow_tree)
    cache = Path(slow_tree.cache)
    wait_for(lambda: list(cache.glob("*.lock")) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert not cache.exists()


def test_of_two_processes_one_decodes(slow_tree: DataConfig) -> None:
    outputs = [process.communicate(timeout=120) for process in [start(slow_tree) for _ in range(2)]]
    assert len({digest for digest, _ in outputs}) == 1
    errors = "".join(text for _, text in outputs)
    assert errors.count("decoding the 180 images") == 1
    assert "warning" not in errors
    assert {path.suffix for path in Path(slow_tree.cache).iterdir()} == {".images", ".lock"}


# cifar10


class Archive:
    """A small archive in CIFAR-10's real layout: 5 × 20 training and 20 test images."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.labels = rng.integers(0, 10, (6, 20))
        self.pixels = rng.integers(0, 256, (6, 20, 3, 32, 32), np.uint8)
        self.classes = ("airplane", *"abcdefgh", "truck")
        names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
        self.files = {
            name: pickle.dumps(
                {
                    "data": self.pixels[index].reshape(20, 3072),
                    "labels": self.labels[index].tolist(),
                }
            )
            for index, name in enumerate(names)
        }
        self.files["batches.meta"] = pickle.dumps({"label_names": [*self.classes]})
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as tar:
            for name, content in self.files.items():
                entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        self.content = file.getvalue()

    def checksums(self) -> dict[str, Any]:
        """What torchvision has to know of this archive instead of the real one."""
        md5 = {name: hashlib.md5(content).hexdigest() for name, content in self.files.items()}
        return {
            "tgz_md5": hashlib.md5(self.content).hexdigest(),
            "train_list": [[name, md5[name]] for name in md5 if name.startswith("data")],
            "test_list": [["test_batch", md5["test_batch"]]],
            "meta": {
                "filename": "batches.meta",
                "key": "label_names",
                "md5": md5["batches.meta"],
            },
        }

    def before(self) -> str:
        """The same for another process."""
        return (
            "from torchvision.datasets import CIFAR10\n"
            f"for name, value in {self.checksums()!r}.items():\n"
            "    setattr(CIFAR10, name, value)\n"
        )


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Archive:
    from torchvision.datasets import CIFAR10

    archive = Archive()
    for name, value in archive.checksums().items():
        monkeypatch.setattr(CIFAR10, name, value)
    return archive


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at any path, and counts."""

    content = b""
    requests = 0
    stall = threading.Event()
    """Set: the second half of `content` is sent at once."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()

    def do_GET(self) -> None:
        if "Method" not in self.headers:  # torchvision's look at where the address leads
            self.server.requests += 1
        self.do_HEAD()
        half = len(self.server.content) // 2
        self.wfile.write(self.server.content[:half])
        self.wfile.flush()
        if self.path == "/cut":
            return
        self.server.stall.wait(60)
        self.wfile.write(self.server.content[half:])

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that hung up
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(archive: Archive) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.content = archive.content
    server.stall = threading.Event()
    server.stall.set()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.stall.set()
    server.shutdown()
    thread.join()
    server.server_close()


def address(server: Server, path: str = "cifar-10-python.tar.gz") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{path}"


def test_cifar10_is_downloaded_once(
    archive: Archive, server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "new" / "folder"
    wanted = config("cifar10", root, url=address(server))
    loaded = data.load(wanted)
    lines = capfd.readouterr()
    assert lines.out == ""
    assert lines.err == f"downloading CIFAR-10 from {address(server)} into {root}\n"
    assert loaded.classes == archive.classes
    assert np.array_equal(loaded.train_images, archive.pixels[:5].reshape(100, 3, 32, 32))
    assert np.array_equal(loaded.test_images, archive.pixels[5])
    assert loaded.train_labels.tolist() == archive.labels[:5].flatten().tolist()
    assert loaded.test_labels.tolist() == archive.labels[5].tolist()
    assert loaded.train_labels.dtype == torch.int64
    assert {path.name for path in root.iterdir()} == {"cifar-10-batches-py", ".cifar10.lock"}
    assert server.requests == 1
    assert equal(data.load(config("cifar10", root, url="http://127.0.0.1:1/")), loaded)
    assert server.requests == 1
    assert capfd.readouterr().err == ""
    assert data.known_digest(wanted) is None


def test_an_archive_that_is_there_is_not_downloaded(archive: Archive, tmp_path: Path) -> None:
    packed = tmp_path / "cifar-10-python.tar.gz"
    packed.write_bytes(archive.content)
    wanted = config("cifar10", tmp_path, url="http://127.0.0.1:1/")
    assert len(data.load(wanted).train_images) == 100
    assert packed.read_bytes() == archive.content


def test_a_home_folder_is_found(
    archive: Archive, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    data.load(config("cifar10", "~/sets", url=address(server)))
    assert (tmp_path / "sets/cifar-10-batches-py/batches.meta").exists()


def closed_port(server: Server) -> tuple[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/x", "Connection refused"


def not_found(server: Server) -> tuple[str, str]:
    return address(server, "missing"), "Not Found"


def other_content(server: Server) -> tuple[str, str]:
    server.content = server.content[:-1] + b"x"
    return address(server), "what came is not the CIFAR-10 archive: its checksum is wrong"


def cut_off(server: Server) -> tuple[str, str]:
    return address(server, "cut"), "its checksum is wrong"


def no_address(server: Server) -> tuple[str, str]:
    return "ftp.example", "unknown url type"


@pytest.mark.parametrize("fault", [closed_port, not_found, other_content, cut_off, no_address])
def test_without_cifar10_the_two_ways_out_are_named(
    server: Server,
    fault: Callable[[Server], tuple[str, str]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    url, reason = fault(server)
    root = tmp_path / "a" / "b"
    text = message(config("cifar10", root, url=url))
    assert text.startswith(f"CIFAR-10 is not in {root} and cannot be downloaded (")
    assert reason in text
    assert "`python -m autol2.train data=cifar10 data.root=FOLDER`" in text
    assert "`python -m autol2.train data=digits`" in text
    assert not list(tmp_path.iterdir())
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_silent_server_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10, "PATIENCE", 0.2)
    server.stall.clear()
    assert "timed out" in message(config("cifar10", tmp_path / "new", url=address(server)))
    assert not list(tmp_path.iterdir())
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_download_is_no_obstacle(
    archive: Archive, server: Server, tmp_path: Path, how: signal.Signals
) -> None:
    root = tmp_path / "root"
    server.stall.clear()
    process = start(config("cifar10", root, url=address(server)), before=archive.before())
    wait_for(lambda: server.requests or process.poll() is not None)
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == -how
    assert not (root / "cifar-10-batches-py").exists()
    if how == signal.SIGINT:
        assert not root.exists()
    server.stall.set()
    data.load(config("cifar10", root, url=address(server)))
    assert {path.name for path in root.iterdir()} == {"cifar-10-batches-py", ".cifar10.lock"}


def test_of_two_processes_one_downloads(archive: Archive, server: Server, tmp_path: Path) -> None:
    wanted = config("cifar10", tmp_path / "root", url=address(server))
    server.stall.clear()
    processes = [start(wanted, archive.before()) for _ in range(2)]
    wait_for(lambda: server.requests)
    server.stall.set()
    outputs = [process.communicate(timeout=120) for process in processes]
    assert {digest.strip() for digest, _ in outputs} == {data.load(wanted).digest}
    assert server.requests == 1


def spoil_batch(root: Path) -> str:
    truncate(root / "cifar-10-batches-py/data_batch_3")
    return f"{root}/cifar-10-batches-py"


def remove_batch(root: Path) -> str:
    (root / "cifar-10-batches-py/test_batch").unlink()
    return f"{root}/cifar-10-batches-py"


def spoil_names(root: Path) -> str:
    flip(30)(root / "cifar-10-batches-py/batches.meta")
    return f"{root}/cifar-10-batches-py"


def spoil_archive(root: Path) -> str:
    (root / "cifar-10-batches-py").rename(root / "away")
    (root / "cifar-10-python.tar.gz").write_bytes(b"half")
    return f"{root}/cifar-10-python.tar.gz"


@pytest.mark.parametrize("spoil", [spoil_batch, remove_batch, spoil_names, spoil_archive])
def test_damaged_cifar10_is_named(
    server: Server, tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    wanted = config("cifar10", tmp_path, url=address(server))
    data.load(wanted)
    culprit = spoil(tmp_path)
    before = files(tmp_path)
    text = message(wanted)
    assert text.startswith(f"{culprit} is incomplete or damaged")
    assert f"`rm -r {culprit}`" in text
    assert files(tmp_path) == before
    assert server.requests == 1


def test_cifar10_wants_a_root() -> None:
    assert message(config("cifar10")) == (
        "data=cifar10 needs a folder to keep the data in: data.root=FOLDER"
    )


# The real thing


@pytest.fixture(scope="session")
def pngs() -> Iterator[Path]:
    """All of CIFAR-10 as 60,000 PNG files, in memory where there is room."""
    source = PROJECT.parent / "shared" / "data"
    archives = sorted(source.glob("cifar10-*of3.tar.gz"))
    if len(archives) != 3:
        pytest.skip(f"no cifar10-*of3.tar.gz in {source}")
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2**30
    with tempfile.TemporaryDirectory(dir=memory if roomy else None) as root:
        for path in archives:
            with tarfile.open(path) as tar:
                tar.extractall(root, filter="data")
        yield Path(root)


def test_all_of_cifar10_from_its_pngs(pngs: Path, tmp_path: Path) -> None:
    wanted = config("imagefolder", pngs, tmp_path / "cache")
    started = time.perf_counter()
    loaded = data.load(wanted)
    decoded = time.perf_counter()
    again = data.load(wanted)
    cached = time.perf_counter()
    assert equal(loaded, again)
    assert 4 * (cached - decoded) < decoded - started
    assert data.known_digest(wanted) == loaded.digest
    assert loaded.digest == "895fc83e55833fb8915e5c1153becbce63614f4e3bd22743ac2187f5d8133a59"
    assert loaded.train_images.shape == (50_000, 3, 32, 32)
    assert loaded.test_images.shape == (10_000, 3, 32, 32)
    assert loaded.train_labels.bincount().tolist() == [5_000] * 10
    assert loaded.test_labels.bincount().tolist() == [1_000] * 10
    assert " ".join(loaded.classes) == (
        "airplane automobile bird cat deer dog frog horse ship truck"
    )
