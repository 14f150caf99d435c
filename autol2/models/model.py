"""`Model`: what every option of the config group ``model`` is derived from."""

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
    """A network: images to class scores.

    What `build` returns takes normalised float images [N, C, H, W] and returns float32 scores
    [N, classes]. Its weights are drawn anew afterwards, per the run's protocol. Import torch inside
    `build`: composing a sweep of a thousand runs does without it.
    """

    switches_batchnorm: ClassVar[bool] = True
    """Whether ``batchnorm=on|off`` changes the network. Where it does not, only ``off``, the
    default, is accepted, and it says nothing about what the network is made of."""

    def build(self, shape: Shape, classes: int, *, batchnorm: bool) -> nn.Module:
        """The network, on the CPU.

        Args:
            shape: channels, height and width of an image.
            classes: number of classes.
            batchnorm: with batch normalisation.

        Raises:
            UserError: it cannot take such images, or `batchnorm` has no place in it.
        """
        raise NotImplementedError

    def prepare(self) -> None:
        """Check what can be checked before a sweep is submitted.

        Raises:
            UserError: `build` would fail.
        """

    def for_cpu(self, network: nn.Module) -> nn.Module:
        """`network`, or one of the same parameters that does the same faster on a CPU."""
        return network

    def require_batchnorm_off(self, batchnorm: bool) -> None:
        """Refuse ``batchnorm=on`` with a `UserError` where the network has no place for it."""
        require(
            self.switches_batchnorm or not batchnorm,
            f"model={self.name} does not support batchnorm=on: leave it out",
        )
