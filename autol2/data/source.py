"""`DataSource`: what every option of the config group ``data`` is derived from."""

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

    A subclass says in `load` where the images come from. It imports torch and torchvision, if it
    needs them, in its methods: composing a sweep of a thousand runs does without.
    """

    source: ClassVar[str] = ""
    """What the kind of data set is called; by default the class's name in small letters."""
    verified: ClassVar[bool] = False
    """Whether `load` makes sure that the data are always the same, as by a checksum."""

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
        """The kind of data set, its name, and every option that can change a number."""
        known = {"source": self.source, **super().identity(), "name": self.name}
        for which in ("mean", "std"):  # a list of equal numbers is the number
            if isinstance(known[which], list) and len(set(known[which])) == 1:
                known[which] = known[which][0]
        return known

    @property
    def place(self) -> Path | None:
        """The folder that the data are in, where they have one; absolute.

        Raises:
            UserError: `root` cannot be a folder's name.
        """
        return folder(self.root) if self.root else None

    def load(self) -> Images:
        """The images, all of them, in main memory.

        Raises:
            UserError: they are not there, not complete or not what they should be; nothing was
                written.
        """
        raise NotImplementedError

    def known_digest(self) -> str | None:
        """`Images.digest` of what `load` would return, where that is known without loading."""
        return None

    def holds(self, digest: str) -> bool:
        """Whether the data have this digest; loads them where nothing less can tell.

        Raises:
            UserError: as `load`.
        """
        if self.verified:
            return True
        return (self.known_digest() or self.load().digest()) == digest

    def prepare(self) -> str:
        """Fetch or check the data before a sweep is submitted to machines without a network.

        Returns:
            What was found, in one line for the user; empty where there is nothing to say.

        Raises:
            UserError: `load` would fail.
        """
        return ""


def _per_channel(name: str, value: Any) -> float | list[float]:
    """`value` as a number, or as a list of them."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    require(bool(values), f"{name} is empty: give {MEAN_AND_STD}")
    for number in values:
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        require(is_number, f"{name}={number} is not a number: give {MEAN_AND_STD}")
        require(math.isfinite(number), f"{name} must be a finite number, not {number:g}")
    numbers = [float(number) for number in values]
    return numbers if isinstance(value, list | tuple) else numbers[0]


def folder(path: str) -> Path:
    """`path` as the user means it: absolute, links followed, ``~`` for the home folder.

    Raises:
        UserError: it cannot be a folder's name.
    """
    try:
        return Path(path).expanduser().resolve()
    except (RuntimeError, ValueError, OSError) as error:  # no such user; a NUL; a loop of links
        raise UserError(f"{path} is not a valid folder name: {error}") from None


def cache_folder(cache: str | None) -> Path:
    """`cache`, or where it is None or empty, ``autol2`` in the user's folder for caches."""
    if cache:
        return folder(cache)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the standard's word: empty or relative counts as unset
        base = "~/.cache" if os.environ.get("HOME") else ".cache"
    return folder(base) / "autol2"
