"""Data sets as torchvision keeps them, downloaded once and checked each time."""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import os
import shlex
import shutil
import socket
import sys
import tempfile
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..component import option
from ..errors import UserError
from ..storage.lock import exclusive
from .images import Images
from .source import DataSource, cache_folder, folder

PATIENCE = 30.0
"""Seconds without an answer after which a server counts as unreachable."""
BROKEN = (RuntimeError, OSError, ValueError, EOFError, AssertionError)
"""What torchvision raises for files that are missing or damaged."""


@dataclass
class Downloaded(DataSource):
    """A data set that torchvision knows how to download.

    A subclass says which, and turns torchvision's two parts into images.
    """

    verified: ClassVar[bool] = True
    title: ClassVar[str]
    """What people call it."""
    parts: ClassVar[tuple[str, ...]]
    """The files or folders that it puts into `root`; with two, the training and the test part."""

    cache: str | None = option(None, no_effect="only where `root` is by default")
    """Folder for caches; null for autol2 in ~/.cache. `root` is data/ in this folder by default."""
    url: str | None = option(None, no_effect="the checksums stay the same")
    """Another address to download from (a mirror); the checksums stay the same."""

    @property
    def place(self) -> Path:
        """The folder that holds, or will hold, `parts`: `root`, $AUTOL2_DATA or in the cache."""
        named = self.root or os.environ.get("AUTOL2_DATA")
        return folder(named) if named else cache_folder(self.cache) / "data"

    def load(self) -> Images:
        """The data set from `place`, downloaded where it is missing; checksums are verified.

        Raises:
            UserError: it is missing and cannot be downloaded (nothing is left behind), or damaged.
        """
        with warnings.catch_warnings():  # of torchvision and NumPy about each other
            warnings.simplefilter("ignore")
            place = self.place
            try:
                complete = all((place / part).exists() for part in self.parts)
            except OSError as error:
                raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
            if not complete:
                self._download(place)
            return self._images(*self._checked(place))

    def prepare(self) -> str:
        """Download what is missing and verify the rest; where the data are.

        Raises:
            UserError: it is missing and cannot be downloaded, or damaged.
        """
        self.load()
        return f"{self.title} in {self.place}: complete, checksums verified"

    @abstractmethod
    def _dataset(self, url: str | None) -> Any:
        """torchvision's class, for downloads from `url` where that is given."""

    @abstractmethod
    def _part(self, place: Path, train: bool, **options: Any) -> Any:
        """torchvision's training or test part in `place`; raises one of `BROKEN`."""

    @abstractmethod
    def _images(self, train: Any, test: Any) -> Images:
        """The images of torchvision's two parts."""

    def _checked(self, place: Path) -> tuple[Any, Any]:
        found = []
        for train, part in ((True, self.parts[0]), (False, self.parts[-1])):
            try:
                found.append(self._part(place, train))
            except BROKEN as error:
                if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
                    raise UserError(
                        f"{place / part} cannot be read: {error.strerror or error}"
                    ) from None
                raise self._damaged(place / part) from None
        return found[0], found[1]

    def _download(self, place: Path) -> None:
        """Put complete `parts` into `place`, or nothing at all."""
        from torchvision.datasets.utils import check_integrity

        archive = place / getattr(self._dataset(None), "filename", "no archive")
        kept = [path for path in (archive, *(place / part for part in self.parts)) if path.exists()]
        if archive in kept and not check_integrity(archive, self._dataset(None).tgz_md5):
            raise self._damaged(archive)
        try:
            with exclusive(place / f".{self.source}.lock", f"downloads {self.title}"):
                if all((place / part).exists() for part in self.parts):
                    return  # another process was faster
                prefix = f".{self.source}-"
                for leftover in place.glob(f"{prefix}*.tmp"):  # of a process that was killed
                    shutil.rmtree(leftover)
                with tempfile.TemporaryDirectory(dir=place, prefix=prefix, suffix=".tmp") as new:
                    for path in kept:
                        Path(new, path.name).symlink_to(path)
                    if archive not in kept:
                        origin = self.url or self._origin()
                        print(
                            f"downloading {self.title} from {origin} into {place}", file=sys.stderr
                        )
                    with _patient_and_quiet():
                        for train in (True, False):
                            self._part(Path(new), train, download=True)
                    for part in self.parts:
                        if place / part not in kept:
                            Path(new, part).rename(place / part)
        except (*BROKEN, http.client.HTTPException) as error:
            raise UserError(
                f"{self.title} is not in {place} and cannot be downloaded ({_reason(error)}): name "
                f"a folder that holds {' and '.join(self.parts)}, `python -m autol2.train "
                f"data={self.source} data.root=FOLDER`, or use data that need no download, "
                f"`python -m autol2.train data=digits`"
            ) from None

    @abstractmethod
    def _origin(self) -> str:
        """The address that torchvision downloads from."""

    def _damaged(self, path: Path) -> UserError:
        return UserError(
            f"{path} is incomplete or damaged (wrong checksum): delete it with "
            f"`rm -r {shlex.quote(str(path))}`, "
            f"and the next run downloads {self.title} again"
        )


def in_colour(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey images [N, 28, 28] as [N, 3, 32, 32]: 2 black pixels around, red = green = blue.

    Every network and augmentation here takes such images, torchvision's networks among them.
    """
    images = np.zeros((len(grey), 3, 32, 32), np.uint8)
    images[:, :, 2:30, 2:30] = grey[:, None]
    return images


@contextlib.contextmanager
def _patient_and_quiet() -> Iterator[None]:
    """Give up on a silent server, and draw torchvision's progress bar on a terminal only."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    shown = sys.stderr if sys.stderr.isatty() else io.StringIO()
    try:
        with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)  # what a URLError wraps
    words = getattr(cause, "strerror", None) or str(error).strip() or type(error).__name__
    last = str(words).splitlines()[-1]  # torchvision lists each mirror's error
    if "not found or corrupted" in last:
        return "the downloaded file has the wrong checksum"
    return last.removeprefix("<urlopen error ").removesuffix(">")
