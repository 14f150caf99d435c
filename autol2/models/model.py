"""`Model`, the base class of the config group ``model``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..component import Component
from ..errors import require

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""


@dataclass
class Model(Component):
    """A network that maps images to class scores.

    The module that `build` returns takes normalised float images [N, C, H, W] and returns float32
    scores [N, classes]. Afterwards, its weights are initialised again, by the run's protocol.
    Import torch inside `build`, so that composing a sweep of a thousand runs does not need it.
    """

    switches_batchnorm: ClassVar[bool] = True
    """Whether ``batchnorm=on|off`` changes the network. If not, only the default ``off`` is
    accepted, which does not say whether the network contains batch-norm."""

    def build(self, shape: Shape, classes: int, *, batchnorm: bool) -> nn.Module:
        """Build the network, on the CPU.

        Args:
            shape: channels, height and width of an image.
            classes: number of classes.
            batchnorm: whether to use batch normalisation.

        Raises:
            UserError: the network does not support such images, or `batchnorm`.
        """
        raise NotImplementedError

    def prepare(self) -> None:
        """Check, before a sweep is submitted, as far as possible whether `build` would fail.

        Raises:
            UserError: `build` would fail.
        """

    def for_cpu(self, network: nn.Module) -> nn.Module:
        """Return `network`, or a faster one for a CPU with the same parameters and results."""
        return network

    def require_batchnorm_off(self, batchnorm: bool) -> None:
        """Raise a `UserError` for ``batchnorm=on`` if the network does not support it."""
        require(
            self.switches_batchnorm or not batchnorm,
            f"model={self.name} does not support batchnorm=on: leave it out",
        )
