"""`DataSource`, the base class of the config group ``data``."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..component import Component, option
from ..errors import UserError, require
from .images import Images

MEAN_AND_STD = "one number, or a list with one for each channel, as in [0.49,0.48,0.45]"


@dataclass
class DataSource(Component):
    """A labelled image data set with a training and a test part, small enough for memory.

    A subclass loads the images in `load`. If it needs torch and torchvision, it imports them in its
    methods, so that composing a sweep of a thousand runs does not need them.
    """

    source: ClassVar[str] = ""
    """Name of the kind of data set; by default, the class's name in lower case. For a class outside
    of the package, it is the full path."""
    verified: ClassVar[bool] = False
    """Whether `load` ensures that the data are always the same, for example by a checksum."""

    name: str = ""  # type: ignore[misc]
    """Name of the data in a run's identity; set it to tell two image folders apart. If empty, the
    name of the chosen `data` option."""
    root: str | None = option(None, no_effect="the digest of what lies there is what counts")
    """Folder that contains the data. It is not part of a run's identity."""
    mean: Any = 0.5
    """Value subtracted from the pixels, which are scaled to [0, 1]: one number, or a list with one
    per channel."""
    std: Any = 0.5
    """Value by which the pixels are divided after subtracting `mean`: one number, or a list with
    one per channel."""
    validation: float = option(0.0, neutral=0.0)
    """Training images held out for model selection: a count, or a share below 1; 0 for none. The
    split is stratified by class and the same for every seed."""

    subset: float = option(1.0, neutral=1.0)
    """Share of the training and test images to use, for a quick try: the first images of each
    class."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "source" not in cls.__dict__:
            own = cls.__module__.partition(".")[0] == __package__.partition(".")[0]
            cls.source = cls.__dict__["name"] if own else f"{cls.__module__}.{cls.__qualname__}"

    def __post_init__(self) -> None:
        self.name = self.name or self.source
        self.mean = _per_channel("data.mean", self.mean)
        self.std = _per_channel("data.std", self.std)
        for value in self.std if isinstance(self.std, list) else [self.std]:
            require(value > 0, f"data.std must be above 0, not {value:g}")
        share = 0 <= self.validation < 1
        require(
            math.isfinite(self.validation) and (share or self.validation % 1 == 0),
            f"data.validation is a number of images, or a share of them below 1, "
            f"not {self.validation:g}: try data.validation=0.1",
        )
        require(self.validation >= 0, "data.validation must be at least 0")
        require(
            0 < self.subset <= 1,
            f"data.subset is a share of the images, above 0 and at most 1, not {self.subset:g}: "
            f"try data.subset=0.05",
        )

    def identity(self) -> dict[str, Any]:
        """Return the kind of data set, its name, and every option that can change a result."""
        known = {"source": self.source, **super().identity(), "name": self.name}
        for which in ("mean", "std"):  # a list of equal numbers counts as one number
            if isinstance(known[which], list) and len(set(known[which])) == 1:
                known[which] = known[which][0]
        return known

    @property
    def place(self) -> Path | None:
        """The absolute path of the data's folder; None if they have none.

        Raises:
            UserError: `root` is not a valid folder name.
        """
        return folder(self.root) if self.root else None

    def load(self) -> Images:
        """Load all images into main memory.

        Raises:
            UserError: the data are missing, incomplete or invalid; nothing was written.
        """
        raise NotImplementedError

    def known_digest(self) -> str | None:
        """Return the `Images.digest` of the data if it is known without loading them."""
        return None

    def holds(self, digest: str) -> bool:
        """Return whether the data have this digest; they are loaded only if necessary.

        Raises:
            UserError: see `load`.
        """
        if self.verified:
            return True
        return (self.known_digest() or self.load().digest()) == digest

    def prepare(self) -> str:
        """Download or check the data before a sweep is submitted to machines without a network.

        Returns:
            A line for the user about what was found; empty if there is nothing to say.

        Raises:
            UserError: `load` would fail.
        """
        return ""


def _per_channel(name: str, value: Any) -> float | list[float]:
    """Validate `value`, and return it as a number or as a list of numbers."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    require(bool(values), f"{name} is empty: give {MEAN_AND_STD}")
    for number in values:
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        require(is_number, f"{name}={number} is not a number: give {MEAN_AND_STD}")
        require(math.isfinite(number), f"{name} must be a finite number, not {number:g}")
    numbers = [float(number) for number in values]
    return numbers if isinstance(value, list | tuple) else numbers[0]


def folder(path: str) -> Path:
    """Return `path` as an absolute path, with links resolved and ``~`` as the home folder.

    Raises:
        UserError: it is not a valid folder name.
    """
    try:
        return Path(path).expanduser().resolve()
    # an unknown user, a NUL character, a loop of links
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a valid folder name: {error}") from None


def cache_folder(cache: str | None) -> Path:
    """Return `cache` or, if it is None or empty, ``autol2`` in the user's cache folder."""
    if cache:
        return folder(cache)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # by the XDG standard, empty or relative counts as unset
        base = "~/.cache" if os.environ.get("HOME") else ".cache"
    return folder(base) / "autol2"
