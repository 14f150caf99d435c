"""3×3 convolution by Winograd's minimal filtering, on the CPU.

A tile of m × m outputs depends on (m + 2) × (m + 2) inputs. Taken as polynomials, in rows and in
columns, that are multiplied through their values at m + 2 points, it needs (m + 2)² products for
each pair of channels where the textbook's sum needs 9·m²: a quarter of them for m = 4 (A. Lavin and
S. Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308). With the points 0,
±1, 1/2, ±2 and infinity, the error stays near the textbook's (B. Barabasz et al., "Error Analysis
and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", arXiv:1803.10986).

Rows and columns of outputs are cut into fours and fives, as it takes the fewest products: 13 are
4 + 4 + 5. Tiles of all sizes have the weights' values in common at the points that they share, and
with that a matrix product.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

KERNEL = 3
SIZES = (4, 5)
"""Outputs in a row or column of a tile."""
POINTS = (0, 1, -1, 0.5, -2, math.inf, 2)
"""For m outputs in a row or column the first m + 2 of them."""
CHANNELS = 128
"""Channels, in and out, from which on what is saved outweighs what the transforms cost."""
IMAGES = 128
"""Images at a time: an evaluation of many takes no more memory in between."""
LANES = 16
"""Channels are filled up with zeros to a multiple of this, which matrix products like."""


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with a 3×3 kernel, stride 1 and no padding, faster where it can be.

    That is on a CPU, with many channels. There the products are in fp32, and outputs and gradients
    differ from the textbook's by a few 1e-6 of their norm; under autocast to bf16 the outputs are
    rounded to that, if the CPU has no units of its own for bf16. Elsewhere it is PyTorch's own.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, KERNEL)

    def forward(self, input: Tensor) -> Tensor:
        """Outputs [N, out, H - 2, W - 2] of `input` [N, in, H, W]."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        if (
            min(self.in_channels, self.out_channels) < CHANNELS
            or input.device.type != "cpu"
            or self.weight.dtype != torch.float32
            or dtype not in (torch.float32, torch.bfloat16)
            or (dtype == torch.bfloat16 and has_bf16_units())
            or input.dim() != 4
            or len(input) == 0
            or min(input.shape[2:]) < KERNEL  # which is refused there
        ):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            outputs = [
                Winograd.apply(input[first : first + IMAGES].float(), self.weight, self.bias)
                for first in range(0, len(input), IMAGES)
            ]
        output: Tensor = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return output.to(dtype)


@functools.cache
def has_bf16_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU has units for matrix products in bf16 (Intel's AMX, ARM's BFMMLA).

    Where the system does not say, it is taken to have none.
    """
    try:
        flags = cpuinfo.read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"amx_bf16", "bf16"}.isdisjoint(flags)


def transforms(m: int) -> tuple[Tensor, Tensor, Tensor]:
    """The matrices of m outputs in a line, with a row for each of n = m + 2 points.

    They are B [n, n], G [n, 3] and A [n, m], float64: the outputs are
    ``A.T @ ((G @ w) * (B @ x))``, x being the n inputs and w the 3 weights (equation 6 of Lavin and
    Gray). What depends on m stands in A and B: at a point, G is the same for every m.
    """
    points = POINTS[: m + KERNEL - 1]
    b = np.zeros((len(points), len(points)))
    for row, point in zip(b, points, strict=True):
        polynomial = np.poly([node for node in points if node not in (point, math.inf)])[::-1]
        scale = _denominator(point, POINTS) / _denominator(point, points)
        row[: len(polynomial)] = polynomial * scale
    g = np.array([_powers(point, KERNEL) / _denominator(point, POINTS) for point in points])
    a = np.array([_powers(point, m) for point in points])
    return torch.from_numpy(b), torch.from_numpy(g), torch.from_numpy(a)


def _powers(point: float, count: int) -> NDArray[np.float64]:
    """What the coefficients of a polynomial are multiplied with for its value at `point`."""
    return np.eye(count)[-1] if point == math.inf else np.power(float(point), np.arange(count))


def _denominator(point: float, points: Sequence[float]) -> float:
    """The denominator of Lagrange's polynomial that is 1 at `point` and 0 at the other `points`."""
    if point == math.inf:
        return 1.0
    return math.prod(point - node for node in points if node not in (point, math.inf))


class Pieces(NamedTuple):
    """Pieces of one size, one after the other, that a line of outputs is cut into."""

    first: int
    """Where the first of them begins."""
    size: int
    number: int


def pieces(length: int) -> list[Pieces]:
    """The pieces of a line of outputs that take the fewest products; the last may jut out."""
    small, large = SIZES
    counts = [
        (-(-max(length - large * count, 0) // small), count)
        for count in range(-(-length // large) + 1)
    ]
    smalls, larges = min(
        counts, key=lambda n: n[0] * (small + KERNEL - 1) + n[1] * (large + KERNEL - 1)
    )
    both = Pieces(0, small, smalls), Pieces(small * smalls, large, larges)
    return [side for side in both if side.number]


class Tiles(NamedTuple):
    """Tiles of one size in images: pieces of their columns times pieces of their rows."""

    down: Pieces
    across: Pieces
    margin: int
    """Pixels more a side than the tile's outputs: none, or as many as those depend on."""

    def cut(self, images: Tensor) -> Tensor:
        """The tiles of `images` [N, H, W, C]: [pixels of a tile, tiles · channels filled up].

        Where a tile juts out of its image, there are zeros.
        """
        places = (self.down.size + self.margin) * (self.across.size + self.margin)
        tiles = images.new_zeros(places, self.number(images) * filled_up(images.shape[3]))
        for inside, pixels in self._places(tiles, images):
            inside.copy_(pixels)
        return tiles

    def add(self, tiles: Tensor, images: Tensor) -> None:
        """Add to `images` what `cut` would have made `tiles` of."""
        for inside, pixels in self._places(tiles, images):
            pixels.add_(inside)

    def number(self, images: Tensor) -> int:
        """How many tiles there are in `images`."""
        return len(images) * self.down.number * self.across.number

    def _places(self, tiles: Tensor, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each place in a tile: the tiles' pixels there, and the same pixels of the images."""
        down, across = self.down, self.across
        tiles = tiles.view(len(tiles), len(images), down.number, across.number, -1)
        for place, inside in enumerate(tiles):
            row, column = divmod(place, across.size + self.margin)
            pixels = images[:, down.first + row :: down.size, across.first + column :: across.size]
            pixels = pixels[:, : down.number, : across.number]
            yield inside[tuple(slice(size) for size in pixels.shape)], pixels


class Transform:
    """From images to the values of their tiles at the points.

    Args:
        groups: of points at which the same tiles have values; the first has all tiles. Of each kind
            of tiles, what their pixels are multiplied with: float32 [points, pixels].
    """

    def __init__(self, groups: list[dict[Tiles, Tensor]]) -> None:
        self.groups = groups

    def values(self, images: Tensor) -> list[Tensor]:
        """Of each group [points, tiles, channels filled up], of `images` [N, H, W, C]."""
        cuts = {tiles: tiles.cut(images) for tiles in self.groups[0]}
        found = []
        for group in self.groups:
            counts = [tiles.number(images) for tiles in group]
            points = len(next(iter(group.values())))
            found.append(images.new_empty(points, sum(counts), filled_up(images.shape[3])))
            parts = torch.split(found[-1], counts, 1)
            for (tiles, matrix), part in zip(group.items(), parts, strict=True):
                torch.mm(matrix, cuts[tiles], out=part.flatten(1))
        return found

    def add(self, values: list[Tensor], images: Tensor) -> None:
        """Add to `images` what the transpose of this makes of `values`."""
        cuts: dict[Tiles, Tensor] = {}
        for group, of_group in zip(self.groups, values, strict=True):
            parts = torch.split(of_group, [tiles.number(images) for tiles in group], 1)
            for (tiles, matrix), part in zip(group.items(), parts, strict=True):
                if tiles in cuts:
                    cuts[tiles].addmm_(matrix.T, part.flatten(1))
                else:
                    cuts[tiles] = matrix.T @ part.flatten(1)
        for tiles, cut in cuts.items():
            tiles.add(cut, images)


@functools.cache
def plan(height: int, width: int) -> tuple[Transform, list[Tensor], Transform]:
    """The transforms of inputs, weights and outputs, for images of height × width outputs.

    That of the weights is what they are multiplied with: of each group [points, 9].
    """
    inputs, weights, outputs = [], [], []
    for (rows, down), (columns, across) in itertools.product(
        _in_common(pieces(height)), _in_common(pieces(width))
    ):
        matrices = {
            kind: [
                torch.kron(transform[rows], other[columns]).float()
                for transform, other in zip(*(transforms(line.size) for line in kind), strict=True)
            ]
            for kind in itertools.product(down, across)
        }
        inputs.append({Tiles(*kind, KERNEL - 1): b for kind, (b, _, _) in matrices.items()})
        weights.append(next(g for _, g, _ in matrices.values()))
        outputs.append({Tiles(*kind, 0): a for kind, (_, _, a) in matrices.items()})
    return Transform(inputs), weights, Transform(outputs)


def _in_common(line: list[Pieces]) -> Iterator[tuple[slice, list[Pieces]]]:
    """Points, and the pieces of `line` that have values there."""
    first = 0
    for place, point in enumerate(line):
        last = point.size + KERNEL - 1
        yield slice(first, last), line[place:]
        first = last


def filled_up(channels: int) -> int:
    """`channels` and the zeros behind them."""
    return -(-channels // LANES) * LANES


class Winograd(torch.autograd.Function):
    """Outputs of float32 inputs [N, in, H, W], weights [out, in, 3, 3] and biases [out]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The outputs, float32 [N, out, H - 2, W - 2], in channels_last."""
        images = x.permute(0, 2, 3, 1)
        out, channels = weight.shape[:2]
        height, width = (side - KERNEL + 1 for side in x.shape[2:])
        for_inputs, for_weights, for_outputs = plan(height, width)
        weights = x.new_zeros(KERNEL**2, filled_up(channels), filled_up(out))
        weights[:, :channels, :out] = weight.flatten(2).permute(2, 1, 0)
        filters = [times(matrix, weights) for matrix in for_weights]
        values = for_inputs.values(images)
        outputs = x.new_empty(len(x), height, width, out)
        outputs[:] = bias
        for_outputs.add(
            [value @ other for value, other in zip(values, filters, strict=True)], outputs
        )
        ctx.save_for_backward(*values, *filters)
        ctx.images, ctx.weight = images.shape, weight.shape
        return outputs.permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of the three: the same products, each the other way round."""
        out, channels = ctx.weight[:2]
        gradients = gradient.permute(0, 2, 3, 1)
        for_inputs, for_weights, for_outputs = plan(*gradients.shape[1:3])
        values = ctx.saved_tensors[: len(for_weights)]
        filters = ctx.saved_tensors[len(for_weights) :]
        products = for_outputs.values(gradients)
        weights = gradients.new_zeros(KERNEL**2, filled_up(channels), filled_up(out))
        for matrix, value, product in zip(for_weights, values, products, strict=True):
            weights += times(matrix.T, value.mT @ product)
        images = gradients.new_zeros(ctx.images)
        for_inputs.add([made @ f.mT for made, f in zip(products, filters, strict=True)], images)
        return (
            images.permute(0, 3, 1, 2),
            weights[:, :channels, :out].permute(2, 1, 0).reshape(ctx.weight),
            gradients.sum((0, 1, 2)),
        )


def times(matrix: Tensor, stack: Tensor) -> Tensor:
    """`matrix` [p, q] times a stack [q, ...]: [p, ...]."""
    return (matrix @ stack.flatten(1)).view(len(matrix), *stack.shape[1:])
