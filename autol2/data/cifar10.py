"""CIFAR-10 as torchvision keeps it, downloaded once."""

from __future__ import annotations

import contextlib
import http.client
import io
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..runs.lock import exclusive
from .images import Images

PATIENCE = 30.0
"""Seconds without an answer after which a server counts as unreachable."""


def load(root: str | None, url: str | None) -> Images:
    """CIFAR-10 from the folder ``cifar-10-batches-py`` in `root`, downloaded where it is missing.

    Its checksums are verified each time.

    Args:
        root: folder that holds, or will hold, ``cifar-10-batches-py``.
        url: address of the archive; None for torchvision's.

    Raises:
        UserError: it is missing and cannot be downloaded (nothing is left behind), or damaged.
    """
    from torchvision.datasets import CIFAR10

    if root is None:
        raise UserError("data=cifar10 needs a folder to keep the data in: data.root=FOLDER")
    place = Path(root).expanduser().resolve()
    folder = place / CIFAR10.base_folder
    if not folder.exists():
        _download(place, url or CIFAR10.url)
    try:
        train, test = (CIFAR10(place, train=part) for part in (True, False))
    except (RuntimeError, OSError):
        raise _damaged(folder) from None
    return Images(
        np.ascontiguousarray(train.data.transpose(0, 3, 1, 2)),
        np.asarray(train.targets, np.int64),
        np.ascontiguousarray(test.data.transpose(0, 3, 1, 2)),
        np.asarray(test.targets, np.int64),
        tuple(train.classes),
    )


def _download(root: Path, url: str) -> None:
    """Put a complete ``cifar-10-batches-py`` into `root`, or nothing at all."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    folder, archive = root / CIFAR10.base_folder, root / CIFAR10.filename
    if archive.exists() and not check_integrity(archive, CIFAR10.tgz_md5):
        raise _damaged(archive)
    try:
        with exclusive(root / ".cifar10.lock", "downloads CIFAR-10"):
            if folder.exists():  # another process was faster
                return
            for leftover in root.glob(".cifar10-*.tmp"):  # of a process that was killed
                shutil.rmtree(leftover)
            with tempfile.TemporaryDirectory(dir=root, prefix=".cifar10-", suffix=".tmp") as new:
                if archive.exists():
                    Path(new, archive.name).symlink_to(archive)
                else:
                    print(f"downloading CIFAR-10 from {url} into {root}", file=sys.stderr)
                with _patient_and_quiet():
                    type("Mirror", (CIFAR10,), {"url": url})(new, download=True)
                Path(new, folder.name).rename(folder)
    except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
        raise UserError(
            f"CIFAR-10 is not in {root} and cannot be downloaded ({_reason(error)}): name a folder "
            f"that holds {folder.name}, `python -m autol2.train data=cifar10 data.root=FOLDER`, "
            f"or take data that need no download, `python -m autol2.train data=digits`"
        ) from None


@contextlib.contextmanager
def _patient_and_quiet() -> Iterator[None]:
    """Give up on a silent server, and draw torchvision's progress bar on a terminal only."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        with contextlib.redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)  # what a URLError wraps
    if isinstance(error, RuntimeError):  # torchvision's word for a wrong checksum
        return "what came is not the CIFAR-10 archive: its checksum is wrong"
    return getattr(cause, "strerror", None) or str(error) or type(error).__name__


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path} is incomplete or damaged (wrong checksum): delete it with `rm -r {path}`, "
        f"and the next start downloads CIFAR-10 anew"
    )
