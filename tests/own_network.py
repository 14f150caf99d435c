"""A network of the user's, for ``model=custom model.target=tests.own_network:small``."""

from __future__ import annotations

from torch import nn


def small(shape: tuple[int, int, int], classes: int, width: int = 6) -> nn.Module:
    """A convolution, dropout of both kinds, and a dense layer."""
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 3, 2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout2d(0.2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(4 * width, classes),
    )
