"""A tree of image files: what counts, what is passed over and told, what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from autol2.data.imagefolder import ImageFolder
from autol2.data.tree import scan
from autol2.errors import UserError

from .images import draw


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of two images in each part; nothing here is ever decoded."""
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(2):
                (tmp_path / part / name / f"{index}.png").write_text(f"{part} {name} {index}")
    return tmp_path


def names(root: Path) -> list[str]:
    tree = scan(root)
    return [os.path.relpath(path, root) for path in (*tree.train.files, *tree.test.files)]


def hidden_file(root: Path) -> None:
    (root / "train/a/._0.png").write_text("macOS's")
    (root / "train/a/.0.png").write_text("")


def notebooks(root: Path) -> None:
    (root / "train/a/.ipynb_checkpoints").mkdir()
    (root / "train/a/.ipynb_checkpoints/0-checkpoint.png").write_text("")


def notebooks_as_a_class(root: Path) -> None:
    for part in ("train", "test"):
        (root / part / ".ipynb_checkpoints").mkdir()
        (root / part / ".ipynb_checkpoints/0-checkpoint.png").write_text("")


def macos_archive(root: Path) -> None:
    for part in ("train", "test"):
        (root / part / "__MACOSX").mkdir()
        (root / part / "__MACOSX/0.png").write_text("")


def thumbnails(root: Path) -> None:
    (root / "train/a/@eaDir").mkdir()
    (root / "train/a/@eaDir/0.png").write_text("")
    (root / "train/a/Thumbs.db").write_text("")
    (root / "train/a/desktop.ini").write_text("")
    (root / "train/.DS_Store").write_text("")


def waste_bins(root: Path) -> None:
    for name in ("$RECYCLE.BIN", "#recycle", "System Volume Information", "__pycache__"):
        (root / "train" / name).mkdir()
        (root / "test/b" / name).mkdir()
        (root / "test/b" / name / "0.png").write_text("")


def hidden_dangling_link(root: Path) -> None:
    (root / "train/a/.#0.png").symlink_to("user@host.1234")  # Emacs's lock


@pytest.mark.parametrize(
    "add",
    [
        hidden_file,
        notebooks,
        notebooks_as_a_class,
        macos_archive,
        thumbnails,
        waste_bins,
        hidden_dangling_link,
    ],
)
def test_what_systems_leave_does_not_count(root: Path, add: Callable[[Path], None]) -> None:
    before = scan(root)
    add(root)
    assert scan(root) == before
    assert before.classes == ("a", "b")
    assert before.remarks() == ""
    assert len(names(root)) == 8


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["train/a/x.gif"], "train/a 1 .gif beside 2 images"),
        (
            ["test/b/x.avif", "test/b/x.jp2", "test/b/y.JP2"],
            "test/b 1 .avif, 2 .jp2 beside 2 images",
        ),
        (
            ["train/a/x.png.bak", "train/b/0003"],
            "train/a 1 .bak beside 2 images; train/b 1 without extension beside 2 images",
        ),
        (["train/x.png"], "train 1 .png beside 0 images"),
        (["train/a/deep/x.heic"], "train/a 1 .heic beside 2 images"),
    ],
)
def test_what_is_passed_over_is_told(root: Path, files: list[str], told: str) -> None:
    (root / "train/a/deep").mkdir()
    for name in files:
        (root / name).write_text("")
    tree = scan(root)
    assert tree.remarks() == f"ignored in {root}: {told}"
    assert sum(count for kinds in tree.passed_over.values() for count in kinds.values()) == len(
        files
    )
    assert ImageFolder(root=str(root)).prepare() == (
        f"{root}: 4 training and 4 test images of 2 classes; {tree.remarks()}"
    )


def test_what_is_no_file(root: Path) -> None:
    os.mkfifo(root / "train/a/x.png")
    assert scan(root).remarks() == f"ignored in {root}: train/a 1 .png beside 2 images"


def test_of_many_folders_some_are_told(root: Path) -> None:
    for index in range(9):
        for part in ("train", "test"):
            (root / part / f"c{index}").mkdir()
            for name in ("x.png", "x.gif"):
                (root / part / f"c{index}" / name).write_text(part)
    assert scan(root).remarks().endswith("; … (18 folders)")
    assert scan(root).remarks().count(".gif") == 5


def test_a_class_of_other_images_is_named(root: Path) -> None:
    for path in (root / "test/b").iterdir():
        path.rename(path.with_suffix(".gif"))
    with pytest.raises(UserError, match=r"test/b contains no image \(.*\) but \.gif$"):
        scan(root)


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ("a", "A", "have different classes: a only in train/; A only in test/"),
        (
            "\N{LATIN SMALL LETTER E WITH ACUTE}",
            "e\N{COMBINING ACUTE ACCENT}",
            "NFC and NFD: rename",
        ),
        ("a\nb", "a\nb", r"a\nb' has a control character in its name: rename it"),
        ("\x1b[31m", "\x1b[31m", r"\x1b[31m' has a control character in its name: rename it"),
        ("\udcff", "\udcff", r"\udcff' is not valid UTF-8: rename it"),
    ],
)
def test_names_that_cannot_be_a_class(root: Path, train: str, test: str, words: str) -> None:
    (root / "train/a").rename(root / "train" / train)
    (root / "test/a").rename(root / "test" / test)
    with pytest.raises(UserError) as caught:
        scan(root)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_name_that_breaks_lines(root: Path) -> None:
    (root / "train/a/x\ny.png").write_text("")
    with pytest.raises(UserError, match=r"train/a/x\\ny.png' has a control character in its name"):
        scan(root)


@pytest.mark.parametrize("name", ["é ü", "日本", "a&b", "x%j", "\u202f", "-m"])
def test_names_of_any_letters(root: Path, name: str) -> None:
    for part in ("train", "test"):
        (root / part / "a").rename(root / part / name)
    assert set(scan(root).classes) == {name, "b"}


# Links


def to_nothing(root: Path) -> str:
    (root / "train/a/2.png").symlink_to("/nowhere/2.png")
    return f"{root}/train/a/2.png is a link to /nowhere/2.png, which does not exist"


def class_to_nothing(root: Path) -> str:
    for part in ("train", "test"):
        (root / part / "c").symlink_to("/nowhere")
    return f"{root}/train/c is a link to /nowhere, which does not exist"


def to_itself(root: Path) -> str:
    (root / "test/a/2.png").symlink_to("2.png")
    return f"{root}/test/a/2.png is a link to 2.png, which does not exist"


def part_to_train(root: Path) -> str:
    (root / "test").rename(root / "old")
    (root / "test").symlink_to("train")
    return f"{root}/test and {root}/train are the same folder through a link"


def train_to_test(root: Path) -> str:
    (root / "train").rename(root / "old")
    (root / "train").symlink_to("test")
    return f"{root}/test and {root}/train are the same folder through a link"


def class_to_train(root: Path) -> str:
    (root / "test/a").rename(root / "old")
    (root / "test/a").symlink_to("../train/a")
    return f"{root}/test/a and {root}/train/a are the same folder through a link"


def other_class_to_train(root: Path) -> str:
    (root / "test/a").rename(root / "old")
    (root / "test/a").symlink_to("../train/b")
    return f"{root}/test/a and {root}/train/b are the same folder through a link"


def circle(root: Path) -> str:
    (root / "train/a/again").symlink_to("..")
    return f"{root}/train/a/again and {root}/train are the same folder through a link"


def file_to_train(root: Path) -> str:
    (root / "test/a/2.png").symlink_to("../../train/b/0.png")
    return f"{root}/test/a/2.png and {root}/train/b/0.png are the same file through a link"


def hard_link_to_train(root: Path) -> str:
    (root / "test/a/2.png").hardlink_to(root / "train/b/0.png")
    return f"{root}/test/a/2.png and {root}/train/b/0.png are the same file through a link"


def to_another_class(root: Path) -> str:
    (root / "train/b/2.png").symlink_to("../a/0.png")
    return (
        f"{root}/train/b/2.png and {root}/train/a/0.png are the same file through a link: an image"
    )


def hard_link_to_another_class(root: Path) -> str:
    (root / "test/b/2.png").hardlink_to(root / "test/a/1.png")
    return f"{root}/test/b/2.png and {root}/test/a/1.png are the same file through a link: an image"


def by_way_of_a_store(root: Path) -> str:
    (root / "store").symlink_to("train/a/0.png")
    (root / "test/a/2.png").symlink_to("../../store")
    return f"{root}/test/a/2.png and {root}/train/a/0.png are the same file through a link"


@pytest.mark.parametrize(
    "spoil",
    [
        to_another_class,
        hard_link_to_another_class,
        by_way_of_a_store,
        to_nothing,
        class_to_nothing,
        to_itself,
        part_to_train,
        train_to_test,
        class_to_train,
        other_class_to_train,
        circle,
        file_to_train,
        hard_link_to_train,
    ],
)
def test_links_that_are_refused(root: Path, spoil: Callable[[Path], str]) -> None:
    expected = spoil(root)
    with pytest.raises(UserError) as caught:
        scan(root)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        ImageFolder(root=str(root)).prepare()


def test_links_into_a_store_are_welcome(root: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    for index, path in enumerate(sorted(root.glob("t*/*/*.png"))):
        path.rename(store / f"{index}")
        path.symlink_to(store / f"{index}")
    assert len(names(root)) == 8


def test_an_image_several_times_in_its_class_is_welcome(root: Path) -> None:
    """As people weight images by links."""
    (root / "train/a/2.png").symlink_to("0.png")
    (root / "train/a/3.png").hardlink_to(root / "train/a/0.png")
    assert len(names(root)) == 10


# The signature


def rewritten(root: Path) -> None:
    path = root / "train/a/0.png"
    status = path.stat()
    path.write_text("train a X")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced(root: Path) -> None:
    path = root / "train/a/0.png"
    status = path.stat()
    (root / "new").write_text("train a Y")
    os.utime(root / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
    (root / "new").rename(path)


def moved_in_a_store(root: Path) -> None:
    (root / "store").write_text("train a Z")
    (root / "train/a/0.png").unlink()
    (root / "train/a/0.png").symlink_to(root / "store")


@pytest.mark.parametrize("change", [rewritten, replaced, moved_in_a_store])
def test_the_signature_sees_a_change_of_equal_size_and_time(
    root: Path, change: Callable[[Path], None]
) -> None:
    before = scan(root)
    assert scan(root).signature == before.signature
    change(root)
    after = scan(root)
    assert after.train == before.train
    assert after.signature != before.signature


def test_a_picture_is_all_that_a_tree_needs(tmp_path: Path) -> None:
    """Capital letters in endings, folders below a class, names that are numbers."""
    for part in ("train", "test"):
        for name in ("10", "9"):
            (tmp_path / part / name / "below").mkdir(parents=True)
            draw(1).save(tmp_path / part / name / "below" / "X.PNG")
    assert scan(tmp_path).classes == ("10", "9")
    assert len(names(tmp_path)) == 4
