"""Data sets that are downloaded: once, whole or not at all, and checked each time."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import io
import pickle
import signal
import socket
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from autol2.data import dataset as data
from autol2.data import downloaded
from autol2.errors import UserError

from .conftest import few
from .images import equal, files, flip, message, source, start, truncate, wait_for


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
    files: Mapping[str, bytes] = MappingProxyType({})
    """What is served by these names instead."""
    requests = 0
    stall = threading.Event()
    """Set: the second half of `content` is sent at once."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    @property
    def content(self) -> bytes:
        return self.server.files.get(self.path.rpartition("/")[2], self.server.content)

    def do_HEAD(self) -> None:
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self) -> None:
        if "Method" not in self.headers:  # torchvision's look at where the address leads
            self.server.requests += 1
        self.do_HEAD()
        half = len(self.content) // 2
        self.wfile.write(self.content[:half])
        self.wfile.flush()
        if self.path == "/cut":
            return
        self.server.stall.wait(60)
        self.wfile.write(self.content[half:])

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
    wanted = source("cifar10", root, url=address(server))
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
    assert equal(data.load(source("cifar10", root, url="http://127.0.0.1:1/")), loaded)
    assert server.requests == 1
    assert capfd.readouterr().err == ""
    assert wanted.known_digest() is None


def test_an_archive_that_is_there_is_not_downloaded(archive: Archive, tmp_path: Path) -> None:
    packed = tmp_path / "cifar-10-python.tar.gz"
    packed.write_bytes(archive.content)
    wanted = source("cifar10", tmp_path, url="http://127.0.0.1:1/")
    assert len(data.load(wanted).train_images) == 100
    assert packed.read_bytes() == archive.content


def test_a_home_folder_is_found(
    archive: Archive, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    data.load(source("cifar10", "~/sets", url=address(server)))
    assert (tmp_path / "sets/cifar-10-batches-py/batches.meta").exists()


def closed_port(server: Server) -> tuple[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/x", "Connection refused"


def not_found(server: Server) -> tuple[str, str]:
    return address(server, "missing"), "Not Found"


def other_content(server: Server) -> tuple[str, str]:
    server.content = server.content[:-1] + b"x"
    return address(server), "the downloaded file has the wrong checksum"


def cut_off(server: Server) -> tuple[str, str]:
    return address(server, "cut"), "the downloaded file has the wrong checksum"


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
    text = message(source("cifar10", root, url=url))
    assert text.startswith(f"CIFAR-10 is not in {root} and cannot be downloaded (")
    assert reason in text
    assert "`python -m autol2.train data=cifar10 data.root=FOLDER`" in text
    assert "`python -m autol2.train data=digits`" in text
    assert not list(tmp_path.iterdir())
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_silent_server_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloaded, "PATIENCE", 0.2)
    server.stall.clear()
    assert "timed out" in message(source("cifar10", tmp_path / "new", url=address(server)))
    assert not list(tmp_path.iterdir())
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("how", few([signal.SIGKILL, signal.SIGINT], 1))
def test_an_interrupted_download_is_no_obstacle(
    archive: Archive, server: Server, tmp_path: Path, how: signal.Signals
) -> None:
    root = tmp_path / "root"
    server.stall.clear()
    process = start(source("cifar10", root, url=address(server)), before=archive.before())
    wait_for(lambda: server.requests or process.poll() is not None)
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == -how
    assert not (root / "cifar-10-batches-py").exists()
    if how == signal.SIGINT:
        assert not root.exists()
    server.stall.set()
    data.load(source("cifar10", root, url=address(server)))
    assert {path.name for path in root.iterdir()} == {"cifar-10-batches-py", ".cifar10.lock"}


@pytest.mark.slow
def test_of_two_processes_one_downloads(archive: Archive, server: Server, tmp_path: Path) -> None:
    wanted = source("cifar10", tmp_path / "root", url=address(server))
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
    wanted = source("cifar10", tmp_path, url=address(server))
    data.load(wanted)
    culprit = spoil(tmp_path)
    before = files(tmp_path)
    text = message(wanted)
    assert text.startswith(f"{culprit} is incomplete or damaged")
    assert f"`rm -r {culprit}`" in text
    assert files(tmp_path) == before
    assert server.requests == 1


# The others


class Small:
    """A few images of another data set, in its real layout, that torchvision takes for all of it.

    Attributes:
        files: what a server has to serve.
        parts: what lies in the data set's folder afterwards.
        train, test: the images expected.
        labels: the labels of both expected.
        classes: the first and the last class.
    """

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rng = np.random.default_rng(3)
        self.labels = [3, 0, 7, 9, 1], [2, 0, 9]
        getattr(self, kind.removeprefix("fashion_"))(kind, monkeypatch)

    def cifar100(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from torchvision.datasets import CIFAR100

        self.train, self.test = (
            self.rng.integers(0, 256, (count, 3, 32, 32), np.uint8) for count in (5, 3)
        )
        names = [f"c{index:02}" for index in range(100)]
        contents = {"meta": pickle.dumps({"fine_label_names": names})}
        for part, pixels, labels in (
            ("train", self.train, self.labels[0]),
            ("test", self.test, self.labels[1]),
        ):
            rows = pixels.reshape(len(pixels), -1)
            contents[part] = pickle.dumps({"data": rows, "fine_labels": labels})
        archive = packed("cifar-100-python", contents)
        md5 = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
        monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(archive).hexdigest())
        for part in ("train", "test"):
            monkeypatch.setattr(CIFAR100, f"{part}_list", [[part, md5[part]]])
        monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5["meta"]})
        self.files, self.parts = {"cifar-100-python.tar.gz": archive}, ["cifar-100-python"]
        self.classes = "c00", "c99"

    def mnist(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        import torchvision.datasets

        dataset = (
            torchvision.datasets.MNIST if kind == "mnist" else torchvision.datasets.FashionMNIST
        )
        self.files = {}
        grey = [self.rng.integers(0, 256, (count, 28, 28), np.uint8) for count in (5, 3)]
        for part, pixels, labels in zip(("train", "t10k"), grey, self.labels, strict=True):
            head = np.array([2051, len(pixels), 28, 28], ">i4").tobytes()
            content = gzip.compress(head + pixels.tobytes())
            self.files[f"{part}-images-idx3-ubyte.gz"] = content
            head = np.array([2049, len(labels)], ">i4").tobytes()
            self.files[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(head + bytes(labels))
        checksums = [(name, hashlib.md5(one).hexdigest()) for name, one in self.files.items()]
        monkeypatch.setattr(dataset, "resources", checksums)
        self.train, self.test = (np.zeros((len(one), 3, 32, 32), np.uint8) for one in grey)
        for images, one in zip((self.train, self.test), grey, strict=True):
            images[:, :, 2:30, 2:30] = one[:, None]
        self.parts = [dataset.__name__]
        self.classes = ("0", "9") if kind == "mnist" else ("T-shirt/top", "Ankle boot")

    def svhn(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from scipy.io import savemat
        from torchvision.datasets import SVHN

        self.train, self.test = (
            self.rng.integers(0, 256, (count, 3, 32, 32), np.uint8) for count in (5, 3)
        )
        self.files, listed = {}, {}
        for part, pixels, labels in (
            ("train", self.train, self.labels[0]),
            ("test", self.test, self.labels[1]),
        ):
            file = io.BytesIO()
            theirs = np.array([[label or 10] for label in labels], np.uint8)
            savemat(file, {"X": pixels.transpose(2, 3, 1, 0), "y": theirs})
            name = f"{part}_32x32.mat"
            self.files[name] = file.getvalue()
            listed[part] = ["http://x/", name, hashlib.md5(file.getvalue()).hexdigest()]
        monkeypatch.setattr(SVHN, "split_list", {**listed, "extra": listed["test"]})
        self.parts, self.classes = [*self.files], ("0", "9")


def packed(folder: str, contents: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


OTHERS = ["cifar100", "mnist", "fashion_mnist", "svhn"]


def served(kind: str, server: Server, root: Path) -> Any:
    archive = "/cifar-100-python.tar.gz" if kind == "cifar100" else ""
    return source(kind, root, url=address(server, f"sets{archive}"))


@pytest.mark.parametrize("kind", OTHERS)
def test_others_are_downloaded_once(
    kind: str,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    small = Small(kind, monkeypatch)
    server.files = small.files
    root = tmp_path / "root"
    wanted = served(kind, server, root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = wanted.prepare()
        loaded = data.load(wanted)
    assert told == f"{wanted.title} in {root}: complete, checksums verified"
    assert np.array_equal(loaded.train_images, small.train)
    assert np.array_equal(loaded.test_images, small.test)
    assert [loaded.train_labels.tolist(), loaded.test_labels.tolist()] == [*small.labels]
    assert loaded.train_labels.dtype == loaded.test_labels.dtype == torch.int64
    assert (loaded.classes[0], loaded.classes[-1]) == small.classes
    assert len(loaded.classes) == (100 if kind == "cifar100" else 10)
    assert {path.name for path in root.iterdir()} == {*small.parts, f".{kind}.lock"}
    lines = capfd.readouterr()
    assert lines.out == ""
    assert len(lines.err.splitlines()) == 1
    assert lines.err.startswith(f"downloading {wanted.title} from {address(server, 'sets')}")
    server.files = {}
    assert equal(data.load(wanted), loaded)  # and not downloaded again


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("fault", ["other content", "closed port", "not found"])
def test_without_others_the_two_ways_out_are_named(
    kind: str, fault: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Small(kind, monkeypatch)
    server.files = {name: content + b"x" for name, content in small.files.items()}
    wanted = served(kind, server, tmp_path / "root")
    reason = "the downloaded file has the wrong checksum"
    if fault == "closed port":
        wanted.url, reason = closed_port(server)
    elif fault == "not found":
        server.files, wanted.url = {}, address(server, "missing")
        reason = "Not Found" if kind == "cifar100" else ""
    text = message(wanted)
    assert reason in text
    assert f"`python -m autol2.train data={kind} data.root=FOLDER`" in text
    assert "`python -m autol2.train data=digits`" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", OTHERS)
def test_damaged_others_are_named(
    kind: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file, also what torchvision unpacks and does not look at again."""
    small = Small(kind, monkeypatch)
    server.files = small.files
    wanted = served(kind, server, tmp_path)
    data.load(wanted)
    server.files = {}
    for path in sorted(tmp_path.rglob("*")):
        if path.is_dir() or path.name.startswith("."):  # the lock says who held it
            continue
        content = path.read_bytes()
        flip(-1)(path)
        text = message(wanted)
        part = tmp_path / path.relative_to(tmp_path).parts[0]
        assert text.startswith(f"{part} is incomplete or damaged"), path
        assert f"`rm -r {part}`" in text
        with pytest.raises(UserError, match="damaged"):
            wanted.prepare()
        path.write_bytes(content)
    data.load(wanted)


def test_half_of_svhn_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Small("svhn", monkeypatch)
    server.files = small.files
    wanted = served("svhn", server, tmp_path)
    loaded = data.load(wanted)
    (tmp_path / "test_32x32.mat").unlink()
    server.files = {"test_32x32.mat": small.files["test_32x32.mat"]}
    assert equal(data.load(wanted), loaded)
    assert not (tmp_path / "test_32x32.mat").is_symlink()


def test_warnings_are_no_errors(archive: Archive, server: Server, tmp_path: Path) -> None:
    """NumPy and torchvision warn about each other; with PYTHONWARNINGS=error that would raise."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.load(source("cifar10", tmp_path, url=address(server)))
        data.load(source("cifar10", tmp_path))


def test_prepare_says_what_is_missing(server: Server, tmp_path: Path) -> None:
    url, _ = closed_port(server)
    with pytest.raises(UserError, match=r"CIFAR-10 is not in .* and cannot be downloaded"):
        source("cifar10", tmp_path / "new", url=url).prepare()
    wanted = source("cifar10", tmp_path / "new", url=address(server))
    assert wanted.prepare() == f"CIFAR-10 in {tmp_path}/new: complete, checksums verified"
    assert server.requests == 1
