"""Scan a tree of image files, ``train/<class>/…`` and ``test/<class>/…``, without reading them.

It works like torchvision's ``ImageFolder`` for both parts, with these differences: hidden files and
the litter of operating systems do not count, and links that lead nowhere, in circles, from test/
into train/ or from one class into another are rejected. Other files that are not images are ignored
and counted.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .images import SHOWN, PassedOver, in_words

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Extensions of images in torchvision's ImageFolder; other files are ignored."""
LAYOUT = "it must hold train/CLASS/*.png and test/CLASS/*.png (or .jpg, …), a folder for each class"
LITTER = (
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "lost+found"),
    *("$recycle.bin", "system volume information", "#recycle", "@recycle", "@recently-snapshot"),
    *("#snapshot", "~snapshot", "__pycache__"),
)
"""Names, in lower case, of files and folders that operating systems create. Like names that begin
with a dot, they are treated as absent."""


@dataclass(frozen=True)
class Part:
    """The files of train/ or test/: their paths, and the class index of each."""

    files: list[str]
    labels: list[int]


@dataclass(frozen=True)
class Tree:
    """The files of both parts, in the order of torchvision's ``ImageFolder``."""

    root: Path
    classes: tuple[str, ...]
    train: Part
    test: Part
    passed_over: PassedOver
    """For each class folder, such as ``train/cat``, its files that are not images, by kind."""
    signature: str
    """A digest of paths, sizes, modification times and inodes, which changes if a file does."""

    def remarks(self) -> str:
        """Describe the ignored files in one line; empty if there are none."""
        if not self.passed_over:
            return ""
        words = in_words(self.passed_over, lambda where: f" beside {self._taken(where):,} images")
        return f"ignored in {self.root}: {words}"

    def _taken(self, where: str) -> int:
        part, _, name = where.partition("/")
        labels = (self.train if part == "train" else self.test).labels
        return labels.count(self.classes.index(name)) if name else 0


def scan(root: Path) -> Tree:
    """Scan the tree in `root` in its current state.

    Raises:
        UserError: the folders are not as required.
    """
    try:
        if not root.is_dir():
            raise UserError(f"there is no folder data.root={root}: {LAYOUT}")
        for part in ("train", "test"):
            if not (root / part).is_dir():
                raise UserError(f"data.root={root} has no folder {part}/: {LAYOUT}")
        return _Scan(root).tree()
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None


class _Scan:
    """One walk through the tree in `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.signature = hashlib.sha256()
        self.passed_over: PassedOver = {}
        self.folders: dict[tuple[int, int], str] = {}
        """The first path of each folder, by device and inode."""
        self.files: dict[tuple[int, int], tuple[str, str, int]] = {}
        """The first path, part and class of each file, by device and inode."""

    def tree(self) -> Tree:
        train_names, test_names = self._names("train"), self._names("test")
        odd = [
            f"{', '.join(names[:SHOWN])}{', …' * (len(names) > SHOWN)} only in {part}/"
            for part, names in (
                ("train", sorted(train_names - test_names)),
                ("test", sorted(test_names - train_names)),
            )
            if names
        ]
        if odd:
            alike = {_composed(name) for name in train_names} == {
                _composed(name) for name in test_names
            }
            raise UserError(
                f"train/ and test/ of {self.root} have different classes: {'; '.join(odd)}"
                + " (the same letters, in Unicode's forms NFC and NFD: rename one)" * alike
            )
        if len(train_names) < 2:
            raise UserError(
                f"{self.root / 'train'} needs at least 2 class folders but has {len(train_names)}"
            )
        classes = tuple(sorted(train_names))
        train, test = self._part("train", classes), self._part("test", classes)
        signature = self.signature.hexdigest()
        return Tree(self.root, classes, train, test, self.passed_over, signature)

    def _names(self, part: str) -> set[str]:
        """Return the class names of `part`; images beside the class folders are ignored."""
        path = os.path.join(self.root, part)
        self._enter(path, os.stat(path))
        names = set()
        for entry in _visible(path):
            if entry.is_dir():
                if not _is_utf8(entry.name):
                    raise UserError(f"the class name {entry.path!a} is not valid UTF-8: rename it")
                names.add(entry.name)
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                self._pass_over(part, entry.name)
        return names

    def _part(self, part: str, classes: tuple[str, ...]) -> Part:
        found = Part([], [])
        for label, name in enumerate(classes):
            before = len(found.files)
            for path, status in self._images(part, name):
                facts = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
                self.signature.update(b"%s\0%d\0%d\0%d\0%d\0" % (os.fsencode(path), *facts))
                self._refuse_elsewhere(path, part, label, status)
                found.files.append(path)
            count = len(found.files) - before
            if not count:
                there = ", ".join(self.passed_over.get(f"{part}/{name}", ()))
                raise UserError(
                    f"{self.root / part / name} contains no image ({', '.join(EXTENSIONS)})"
                    + (f" but {there}" if there else "")
                )
            found.labels.extend([label] * count)
        return found

    def _images(self, part: str, name: str) -> Iterator[tuple[str, os.stat_result]]:
        """Yield all image files in a class's folder and its subfolders, in torchvision's order."""
        top = os.path.join(self.root, part, name)
        self._enter(top, os.stat(top))
        folders = [top]
        found: dict[str, list[os.DirEntry[str]]] = {}
        while folders:
            here = folders.pop()
            found[here] = []
            for entry in _visible(here):
                if entry.is_dir():
                    self._enter(entry.path, entry.stat())
                    folders.append(entry.path)
                elif entry.is_file() and entry.name.lower().endswith(EXTENSIONS):
                    found[here].append(entry)
                else:
                    self._pass_over(f"{part}/{name}", entry.name)
        for here in sorted(found):
            yield from ((entry.path, entry.stat()) for entry in found[here])

    def _enter(self, path: str, status: os.stat_result) -> None:
        """Register a folder; reject one that was met before, through a link."""
        first = self.folders.setdefault((status.st_dev, status.st_ino), path)
        if first != path and status.st_ino:
            raise UserError(
                f"{path} and {first} are the same folder through a link: each image may occur only "
                f"once"
            )

    def _refuse_elsewhere(self, path: str, part: str, label: int, status: os.stat_result) -> None:
        """Register a file; reject one that is also in another part or class, through a link."""
        here = path, part, label
        first = self.files.setdefault((status.st_dev, status.st_ino), here)
        if first[1:] == here[1:] or not status.st_ino:
            return
        why = (
            "a test image must not also be a training image"
            if first[1] != part
            else "an image can have only one class"
        )
        raise UserError(f"{path} and {first[0]} are the same file through a link: {why}")

    def _pass_over(self, where: str, name: str) -> None:
        kind = os.path.splitext(name)[1].lower() or "without extension"
        kinds = self.passed_over.setdefault(where, Counter())
        kinds[kind] = kinds.get(kind, 0) + 1


def _visible(folder: str) -> list[os.DirEntry[str]]:
    """Return the sorted entries of `folder` without hidden ones; reject broken links."""
    with os.scandir(folder) as entries:
        names = sorted(entries, key=lambda entry: entry.name)
    shown = [
        name for name in names if not name.name.startswith(".") and name.name.lower() not in LITTER
    ]
    for entry in shown:
        if any(unicodedata.category(letter) == "Cc" for letter in entry.name):
            raise UserError(f"{entry.path!r} has a control character in its name: rename it")
        if entry.is_symlink() and not os.path.exists(entry.path):
            raise UserError(
                f"{entry.path} is a link to {os.readlink(entry.path)}, which does not exist: "
                f"restore the target or delete the link"
            )
    return shown


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
