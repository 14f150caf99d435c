"""The colours of figures, which are visible on white and have counterparts for dark pages."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex, to_rgb
from numpy.typing import NDArray

WHITE, BLACK = "#ffffff", "#16181b"
"""The background of figures and light pages, and that of dark pages."""
TEXT, SOFT, GRID = "#1a1a1a", "#5c5c5c", "#d9d9d9"
"""The colours of text and axes, of less important parts, and of grids."""
CURVES = (
    *("#0072b2", "#d55e00", "#008560", "#b0388f", "#8a6d00", "#3d3d3d"),
    *("#8a1c1c", "#6f5bd6", "#0096a6", "#5d8c00", "#e0457b", "#8d6e63"),
)
"""The colours of curves, in the order in which they are used."""
DARK = {
    **dict(
        zip(
            CURVES,
            (
                *("#4ba3f5", "#ff8a3d", "#1fbf8f", "#f07fd3", "#e3c13a", "#e6e6e6"),
                *("#f25c5c", "#a797ff", "#35d6e8", "#a5d93b", "#ffa3c4", "#b98f80"),
            ),
            strict=True,
        )
    ),
    WHITE: BLACK,
    TEXT: "#e8e8e8",
    SOFT: "#a8a8a8",
    GRID: "#3a3d42",
}
"""The counterpart of each colour on a dark page."""
VISIBLE = 3.0
"""Minimum contrast between a line and its background (WCAG 2.2, 1.4.11)."""
DASHES: tuple[str | tuple[float, tuple[float, ...]], ...] = (
    *("solid", (0, (6, 2)), (0, (2, 1.5))),
    *((0, (6, 2, 1.5, 2)), (0, (1, 1.6))),
)


def ramp(count: int) -> list[str]:
    """Return `count` colours from dark to light, for ordered values."""
    return [to_hex(shade) for shade in mpl.colormaps["viridis"](np.linspace(0, 0.56, count))]


def on_dark(colour: str) -> str:
    """Return the counterpart of a colour, "#rrggbb", on a dark page."""
    if colour in DARK:
        return DARK[colour]
    red_green_blue, white = np.array(to_rgb(colour)), 0.0
    while contrast(_lightened(red_green_blue, white), BLACK) < 1.5 * VISIBLE:
        white += 0.02
    return _lightened(red_green_blue, white)


def _lightened(red_green_blue: NDArray[np.float64], white: float) -> str:
    red, green, blue = (red_green_blue + (1 - red_green_blue) * white).tolist()
    return to_hex((red, green, blue))


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, "#rrggbb", as defined in WCAG 2.2.

    It ranges from 1 (no contrast) to 21 (black on white).
    """
    darker, lighter = sorted((_luminance(to_rgb(one)), _luminance(to_rgb(other))))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(red_green_blue: Sequence[float]) -> float:
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in red_green_blue
    ]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))
