"""Data sets of torchvision, downloaded once and verified at each use."""

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
"""Exceptions that torchvision raises for missing or damaged files."""


@dataclass
class Downloaded(DataSource):
    """Base class of the data sets that torchvision can download.

    A subclass names the data set and converts torchvision's two parts to images.
    """

    verified: ClassVar[bool] = True
    title: ClassVar[str]
    """The data set's common name."""
    parts: ClassVar[tuple[str, ...]]
    """The files or folders in `root`; if there are two, they are the training and the test part."""

    cache: str | None = option(None, no_effect="only where `root` is by default")
    """Folder for caches; null for autol2 in ~/.cache. `root` is data/ in this folder by default."""
    url: str | None = option(None, no_effect="the checksums stay the same")
    """Another address to download from (a mirror); the checksums stay the same."""

    @property
    def place(self) -> Path:
        """The folder for `parts`: `root`, $AUTOL2_DATA, or a folder in the cache."""
        named = self.root or os.environ.get("AUTOL2_DATA")
        return folder(named) if named else cache_folder(self.cache) / "data"

    def load(self) -> Images:
        """Load the data set from `place`, downloading it if necessary; checksums are verified.

        Raises:
            UserError: the data are damaged, or missing and cannot be downloaded (nothing is left
                behind).
        """
        with warnings.catch_warnings():  # torchvision's and NumPy's warnings about each other
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
        """Download what is missing, verify the rest, and say where the data are.

        Raises:
            UserError: the data are damaged, or missing and cannot be downloaded.
        """
        self.load()
        return f"{self.title} in {self.place}: complete, checksums verified"

    @abstractmethod
    def _dataset(self, url: str | None) -> Any:
        """Return torchvision's class, with `url` as the address for downloads, if given."""

    @abstractmethod
    def _part(self, place: Path, train: bool, **options: Any) -> Any:
        """Return torchvision's training or test part in `place`; raises one of `BROKEN`."""

    @abstractmethod
    def _images(self, train: Any, test: Any) -> Images:
        """Convert torchvision's two parts to images."""

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
        """Download complete `parts` into `place`, or nothing at all."""
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
                for leftover in place.glob(f"{prefix}*.tmp"):  # left by a process that was killed
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
        """Return the address that torchvision downloads from."""

    def _damaged(self, path: Path) -> UserError:
        return UserError(
            f"{path} is incomplete or damaged (wrong checksum): delete it with "
            f"`rm -r {shlex.quote(str(path))}`, "
            f"and the next run downloads {self.title} again"
        )


def in_colour(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert grey images [N, 28, 28] to [N, 3, 32, 32].

    They are padded with 2 black pixels on each side and repeated for red, green and blue. All
    networks and augmentations accept such images, including torchvision's networks.
    """
    images = np.zeros((len(grey), 3, 32, 32), np.uint8)
    images[:, :, 2:30, 2:30] = grey[:, None]
    return images


@contextlib.contextmanager
def _patient_and_quiet() -> Iterator[None]:
    """Give up on a silent server, and show torchvision's progress bar only on a terminal."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    shown = sys.stderr if sys.stderr.isatty() else io.StringIO()
    try:
        with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)  # the error that a URLError wraps
    words = getattr(cause, "strerror", None) or str(error).strip() or type(error).__name__
    last = str(words).splitlines()[-1]  # torchvision lists the error of each mirror
    if "not found or corrupted" in last:
        return "the downloaded file has the wrong checksum"
    return last.removeprefix("<urlopen error ").removesuffix(">")
