"""Any classification network of torchvision."""

from __future__ import annotations

import difflib
import inspect
import warnings
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
        """Build the network (see `Model.build`)."""
        from torchvision import models

        from .probe import probed

        self.require_batchnorm_off(batchnorm)
        self.prepare()
        try:
            with warnings.catch_warnings():
                # These warnings are about a future change of torchvision's initialisation; here,
                # weights are initialised again anyway.
                warnings.simplefilter("ignore", FutureWarning)
                network = models.get_model(
                    self.builder, weights=None, num_classes=classes, **self.options
                )
        except Exception as error:  # builders raise many kinds of errors
            if isinstance(error, MemoryError):
                raise
            raise UserError(f"model.builder={self.builder}: {first_line(error)}") from error
        try:
            return probed(network, f"model.builder={self.builder}", shape, classes)
        except UserError as error:
            raise UserError(f"{error}{self._way_out(shape, str(error))}") from error

    def prepare(self) -> None:
        """Check that torchvision has such a network (see `Model.prepare`)."""
        from torchvision import models

        known = models.list_models(module=models)
        if self.builder not in known:
            close = difflib.get_close_matches(self.builder, known, n=3) or ["resnet50"]
            raise UserError(
                f"torchvision has no network model.builder={self.builder}: try {' or '.join(close)}"
            )

    def _way_out(self, shape: Shape, why: str) -> str:
        """Suggest an option with which the network accepts such images, or larger images, if either
        helps."""
        from torchvision import models

        made = inspect.signature(models.get_model_builder(self.builder)).return_annotation
        known = inspect.signature(made).parameters if inspect.isclass(made) else {}
        helpful = {"aux_logits": "false", "image_size": str(min(shape[1:]))}
        for keyword, value in helpful.items():
            if keyword in known and keyword not in self.options:
                return f"; try model.options.{keyword}={value}"
        small = any(words in why.lower() for words in ("kernel size", "output size is too small"))
        return "; the network needs larger images" if small else ""
