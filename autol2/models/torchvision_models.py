"""Any of torchvision's networks for classification."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..component import option
from ..errors import UserError, first_line, require
from .model import Model, Shape

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Torchvision(Model):
    """A network of `torchvision.models` by its name there, without pretrained weights."""

    switches_batchnorm: ClassVar[bool] = False

    builder: str = option("resnet50")
    """Name of the network in torchvision.models, such as resnet50, vgg11_bn or vit_b_16."""
    options: dict[str, Any] = option(dict, neutral={})
    """Keyword arguments of its builder, as in model.options={aux_logits:false}."""

    def __post_init__(self) -> None:
        require(
            self.builder != "", "model.builder= is empty: name a network, as model.builder=resnet50"
        )

    def build(self, shape: Shape, classes: int, *, batchnorm: bool) -> nn.Module:
        """See `Model.build`."""
        from torchvision import models

        from .outside import probed

        self.require_batchnorm_off(batchnorm)
        known = models.list_models(module=models)
        if self.builder not in known:
            close = difflib.get_close_matches(self.builder, known, n=3) or ["resnet50"]
            raise UserError(
                f"torchvision has no network model.builder={self.builder}: try {' or '.join(close)}"
            )
        try:
            network = models.get_model(
                self.builder, weights=None, num_classes=classes, **self.options
            )
        except Exception as error:  # they refuse in many ways
            if isinstance(error, MemoryError):
                raise
            raise UserError(f"model.builder={self.builder}: {first_line(error)}") from error
        return probed(network, f"model.builder={self.builder}", shape, classes)
