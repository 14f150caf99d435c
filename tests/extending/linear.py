"""A network of one's own: a single dense layer."""

import math
from dataclasses import dataclass

from autol2.models.model import Model


@dataclass
class Linear(Model):
    """A single dense layer."""

    bias: bool = True
    """With a bias."""

    switches_batchnorm = False  # there is no place for it

    def build(self, shape, classes, *, batchnorm):
        """See `Model`."""
        from torch import nn

        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes, bias=self.bias))
