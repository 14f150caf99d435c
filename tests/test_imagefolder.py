"""Image folders: what is loaded, the cache, and what a user reads when something is wrong."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from autol2.data import dataset as data
from autol2.data import imagefolder
from autol2.data.imagefolder import ImageFolder

from .conftest import few
from .images import (
    CLASSES,
    LOAD,
    PROJECT,
    as_json,
    draw,
    equal,
    files,
    flip,
    message,
    source,
    start,
    truncate,
    wait_for,
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes; PNG and JPEG, grey, palette, with alpha; a subfolder and stray files."""
    root = tmp_path / "tree"
    for part in ("train", "test"):
        for label, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(3):
                draw(100 * label + index + 1000 * len(part)).save(folder / f"{index}.png")
    draw(1).convert("L").save(root / "train/ant/grey.png")
    draw(2).convert("P").save(root / "train/ant/palette.PNG")
    draw(3).convert("RGBA").save(root / "train/bee/alpha.png")
    draw(4).save(root / "train/bee/photo.jpeg")
    (root / "train/cow/below").mkdir()
    draw(5).save(root / "train/cow/below/0.png")
    draw(6).save(root / "train/ant/0.bmp")
    (root / "train/cow/Thumbs.db").write_text("not an image")
    (root / "train/notes.txt").write_text("not a class")
    return root


@pytest.fixture
def folder(tree: Path, tmp_path: Path) -> ImageFolder:
    return source("imagefolder", tree, tmp_path / "cache")


def cache_file(folder: ImageFolder) -> Path:
    (found,) = Path(folder.cache).glob("*.images")
    return found


def test_imagefolder_equals_torchvisions(folder: ImageFolder, tree: Path) -> None:
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
        loaded.train_images[1], torch.from_numpy(np.asarray(draw(5000)).transpose(2, 0, 1).copy())
    )


def test_the_second_start_reads_no_image(
    folder: ImageFolder,
    tree: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert folder.known_digest() is None
    first = data.load(folder)
    assert [line.split(" in ")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"decoding the 24 images of {tree}",
        "decoded",
    ]
    monkeypatch.setattr(imagefolder, "decode", None)
    assert equal(data.load(folder), first)
    assert capsys.readouterr().err == ""
    assert folder.known_digest() == first.digest


def test_the_cache_needs_neither_torchvision_nor_pillow(folder: ImageFolder) -> None:
    digest = data.load(folder).digest
    code = (
        "import json, sys\n"
        "from autol2.data.imagefolder import ImageFolder\n"
        "options = json.loads(sys.argv[1])\n"
        "del options['_target_']\n"
        "folder = ImageFolder(**options)\n"
        f"assert folder.known_digest() == {digest!r}\n"
        "assert 'torch' not in sys.modules\n"
        "from autol2.data import dataset as data\n"
        f"assert data.load(folder).digest == {digest!r}\n"
        "assert not {'torchvision', 'PIL', 'sklearn', 'rich', 'simplejpeg'} & {*sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", code, as_json(folder)], cwd=PROJECT, check=True)


def test_the_same_images_elsewhere_have_the_same_digest(folder: ImageFolder, tree: Path) -> None:
    copy = tree.with_name("copy")
    shutil.copytree(tree, copy)
    assert equal(data.load(source("imagefolder", copy, folder.cache)), data.load(folder))
    assert len(list(Path(folder.cache).glob("*.images"))) == 2


def cut_first_line(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


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
    folder: ImageFolder,
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


def test_no_flipped_byte_passes(folder: ImageFolder) -> None:
    first = data.load(folder)
    whole = cache_file(folder).read_bytes()
    for position in (*range(0, 350, 7), *range(350, len(whole), 97)):
        flip(position)(cache_file(folder))
        assert equal(data.load(folder), first)
        assert cache_file(folder).read_bytes() == whole


def change_pixels(tree: Path) -> None:
    draw(77).save(tree / "train/ant/0.png")


def change_secretly(tree: Path) -> None:
    """Another picture with the size and the time of change of the one before."""
    path = tree / "train/ant/0.bmp"
    status = path.stat()
    draw(77).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


def replace_secretly(tree: Path) -> None:
    """As `change_secretly`, by a file of its own."""
    path = tree / "train/ant/0.bmp"
    status = path.stat()
    new = path.with_name("new.bmp")
    draw(78).save(new)
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.replace(path)


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
        change_secretly,
        replace_secretly,
        add_image,
        remove_image,
        rename_image,
        move_to_another_class,
        rename_class,
    ],
)
def test_a_changed_tree_is_decoded_anew(
    folder: ImageFolder, tree: Path, change: Callable[[Path], None]
) -> None:
    first = data.load(folder)
    change(tree)
    assert folder.known_digest() is None
    changed = data.load(folder)
    assert changed.digest != first.digest
    fresh = data.load(source("imagefolder", tree, tree.parent / "another"))
    assert equal(changed, fresh)
    assert folder.known_digest() == changed.digest


def test_no_cache_where_none_can_be_written(
    folder: ImageFolder, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    before = files(tmp_path)
    loaded = data.load(source("imagefolder", tree, tmp_path / "file" / "cache"))
    warning, *_ = capsys.readouterr().err.splitlines()
    assert warning == (
        f"warning: no cache in {tmp_path}/file/cache (Not a directory): every run will decode "
        f"the images again; data.cache=FOLDER chooses another folder"
    )
    assert files(tmp_path) == before
    assert equal(loaded, data.load(folder))


def test_a_full_disk_leaves_no_cache(
    folder: ImageFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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


def test_a_cache_folder_of_several_users(
    folder: ImageFolder, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reads what anybody has decoded, and replaces only files of their own."""
    first = data.load(folder)
    theirs = cache_file(folder)
    whole = theirs.read_bytes()
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    with monkeypatch.context() as patched:
        patched.setattr(imagefolder, "decode", None)
        assert equal(data.load(folder), first)
        assert folder.known_digest() == first.digest
    lengthen(theirs)  # damaged: not ours to mend
    damaged = theirs.read_bytes()
    assert equal(data.load(folder), first)
    assert theirs.read_bytes() == damaged
    with monkeypatch.context() as patched:
        patched.setattr(imagefolder, "decode", None)
        assert equal(data.load(folder), first)
    (ours,) = Path(folder.cache or "").glob("*-4242.images")
    assert ours.read_bytes() == whole
    change_pixels(tree)  # theirs is stale now, and so is ours
    changed = data.load(folder)
    assert changed.digest != first.digest
    assert theirs.exists()
    assert not ours.exists()
    with monkeypatch.context() as patched:
        patched.setattr(imagefolder, "decode", None)
        assert equal(data.load(folder), changed)


@pytest.mark.slow
def test_files_of_another_user_that_cannot_be_touched(tree: Path) -> None:
    """A shared folder as /tmp: another's stale cache is no reason to decode at every start."""
    if os.geteuid() != 0:
        pytest.skip("being another user takes root")
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are root's alone
        shutil.copytree(tree, Path(place, "tree"))
        Path(place, "cache").mkdir()
        Path(place, "cache").chmod(0o1777)
        folder = source("imagefolder", Path(place, "tree"), Path(place, "cache"))
        data.load(folder)
        change_pixels(Path(place, "tree"))
        before = (  # all that is imported must be before: Python may lie in root's folder
            "import os\n"
            "from pathlib import Path\n"
            "from autol2.data import dataset, decoding, imagefolder\n"
            f"decoding.decode(imagefolder.scan(Path({folder.root!r})))\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        )
        unreadable = start(folder, before).communicate(timeout=120)[1]
        assert unreadable.endswith(f"UserError: cannot read {folder.root}: Permission denied\n")
        Path(place).chmod(0o755)
        told = [start(folder, before).communicate(timeout=120)[1] for _ in range(2)]
        assert "no cache" not in told[0]
        assert [text.count("decoding the 24 images") for text in told] == [2, 1]


def test_the_same_folder_with_other_images(folder: ImageFolder, tree: Path) -> None:
    digest = data.load(folder).digest
    assert folder.holds(digest)
    change_secretly(tree)
    assert not folder.holds(digest)


def test_images_that_do_not_count_are_told_at_each_start(
    folder: ImageFolder, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "test/bee/3.gif").write_text("")
    expected = f"warning: ignored in {tree}: test/bee 1 .gif beside 3 images"
    for _ in range(2):
        loaded = data.load(folder)
        assert capsys.readouterr().err.splitlines()[0] == expected
        assert loaded.passed_over == {"test/bee": {".gif": 1}}


def test_copies_of_training_images_are_told_at_each_start(
    folder: ImageFolder, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(tree / "train/ant/0.png", tree / "test/cow/again.png")
    for _ in range(2):
        data.load(folder)
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"warning: 1 of the 10 test images of {tree} are identical to a training image"
        )


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
        f"{tree}/train/ant/0.bmp has 9×7"
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
    return f"{tree}/test/cow contains no image (.jpg, "


def other_classes(tree: Path) -> str:
    (tree / "test/cow").rename(tree / "test/dog")
    return (
        f"train/ and test/ of {tree} have different classes: cow only in train/; dog only in test/"
    )


def one_class(tree: Path) -> str:
    for part in ("train", "test"):
        shutil.rmtree(tree / part / "bee")
        shutil.rmtree(tree / part / "cow")
    return f"{tree}/train needs at least 2 class folders but has 1"


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
    folder: ImageFolder, tree: Path, spoil: Callable[[Path], str], decoded_before: bool
) -> None:
    if decoded_before:
        data.load(folder)
    expected = spoil(tree)
    before = files(tree.parent)
    assert message(folder).startswith(expected)
    assert folder.known_digest() is None
    if decoded_before:  # at most, the useless cache is gone
        assert files(tree.parent).keys() <= before.keys()
    else:
        assert files(tree.parent) == before


def test_imagefolder_wants_a_root() -> None:
    assert message(source("imagefolder")).startswith(
        "data=imagefolder needs data.root=FOLDER: it must hold train/CLASS/*.png"
    )


def test_images_beyond_the_memory(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in CLASSES:
            (tmp_path / "tree" / part / name).mkdir(parents=True)
            big = tmp_path / f"{part}-{name}.ppm"
            big.write_bytes(b"P6 6000 6000 255\n")
            os.truncate(big, 17 + 3 * 6000**2)
            for index in range(8):  # 5 GB in all
                path = tmp_path / "tree" / part / name / f"{index}.ppm"
                path.hardlink_to(big)
    limited = start(
        source("imagefolder", tmp_path / "tree", tmp_path / "cache"),
        before="import torch, resource as r\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * r.getpagesize()\n"
        "r.setrlimit(r.RLIMIT_AS, (used + 2**32, used + 2**32))\n",
    )
    _, errors = limited.communicate(timeout=120)
    (line,) = errors.splitlines()
    assert line.startswith("UserError: 48 images of 6000×6000 pixels take 5.2 GB and do not fit")
    assert line.endswith("use fewer or smaller images, or a larger machine")
    assert not (tmp_path / "cache").exists()


def test_a_bar_on_a_terminal(folder: ImageFolder) -> None:
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
    assert b"decoding 24 images" in shown
    assert b"100%" in shown
    assert b"decoded in" not in shown


@pytest.fixture
def slow_tree(tmp_path: Path) -> ImageFolder:
    """A folder that takes about a second to decode."""
    root = tmp_path / "slow"
    content = io.BytesIO()
    draw(1, 500, 500).save(content, "png")
    for part, name in ((part, name) for part in ("train", "test") for name in CLASSES):
        (root / part / name).mkdir(parents=True)
        for index in range(30):
            (root / part / name / f"{index}.png").write_bytes(content.getvalue())
    return source("imagefolder", root, tmp_path / "cache")


@pytest.mark.parametrize("moment", few(["decoding", "writing"], 1))
def test_a_kill_leaves_no_half_cache(slow_tree: ImageFolder, moment: str) -> None:
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
    assert slow_tree.known_digest() is None
    loaded = data.load(slow_tree)
    assert loaded.train_images.shape == (90, 3, 500, 500)
    assert slow_tree.known_digest() == loaded.digest
    assert {path.suffix for path in cache.iterdir()} == {".images", ".lock"}


def test_an_interrupt_leaves_nothing(slow_tree: ImageFolder) -> None:
    process = start(slow_tree)
    cache = Path(slow_tree.cache)
    wait_for(lambda: list(cache.glob("*.lock")) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert not cache.exists()


@pytest.mark.slow
def test_of_two_processes_one_decodes(slow_tree: ImageFolder) -> None:
    outputs = [process.communicate(timeout=120) for process in [start(slow_tree) for _ in range(2)]]
    assert len({digest for digest, _ in outputs}) == 1
    errors = "".join(text for _, text in outputs)
    assert errors.count("decoding the 180 images") == 1
    repeats = "warning: 90 of the 90 test images of"  # the tree's are all the same
    assert errors.count("warning") == errors.count(repeats) == 2
    assert {path.suffix for path in Path(slow_tree.cache).iterdir()} == {".images", ".lock"}


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


@pytest.mark.slow
def test_all_of_cifar10_from_its_pngs(pngs: Path, tmp_path: Path) -> None:
    wanted = source("imagefolder", pngs, tmp_path / "cache")
    started = time.perf_counter()
    loaded = data.load(wanted)
    decoded = time.perf_counter()
    again = data.load(wanted)
    cached = time.perf_counter()
    assert equal(loaded, again)
    assert 4 * (cached - decoded) < decoded - started
    assert wanted.known_digest() == loaded.digest
    assert loaded.digest == "895fc83e55833fb8915e5c1153becbce63614f4e3bd22743ac2187f5d8133a59"
    assert loaded.train_images.shape == (50_000, 3, 32, 32)
    assert loaded.test_images.shape == (10_000, 3, 32, 32)
    assert loaded.train_labels.bincount().tolist() == [5_000] * 10
    assert loaded.test_labels.bincount().tolist() == [1_000] * 10
    assert " ".join(loaded.classes) == (
        "airplane automobile bird cat deer dog frog horse ship truck"
    )
