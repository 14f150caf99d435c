"""A network that the user's own function builds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..component import option
from ..factory import call, require_target, resolve
from .model import Model, Shape

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Custom(Model):
    """The network that your function or class returns: ``factory(shape, classes, **options)``."""

    switches_batchnorm: ClassVar[bool] = False

    target: str = option("")
    """package.module:factory. It is called with the shape of an image (channels, height, width),
    the number of classes and `options`, and returns a torch.nn.Module. Its Conv2d and Linear layers
    are then initialised by the run's seed and protocol; the other layers stay as returned."""
    options: dict[str, Any] = option(dict, neutral={})
    """Keyword arguments for the factory, as in model.options={depth:3}."""

    def __post_init__(self) -> None:
        require_target("model.target", self.target)

    def build(self, shape: Shape, classes: int, *, batchnorm: bool) -> nn.Module:
        """Call the function and check its network (see `Model.build`).

        Raises:
            UserError: there is no such function, it fails, or it does not return a suitable
                network.
        """
        from .probe import probed

        self.require_batchnorm_off(batchnorm)
        network = call("model.target", self.target, shape, classes, **self.options)
        return probed(network, f"model.target={self.target}", shape, classes)

    def prepare(self) -> None:
        """Check that the function exists (see `Model.prepare`)."""
        resolve("model.target", self.target)
