"""3×3 convolution with Winograd's minimal filtering, on the CPU.

A tile of m × m outputs depends on (m + 2) × (m + 2) inputs. If rows and columns are treated as
polynomials, which are multiplied via their values at m + 2 points, a tile takes (m + 2)² products
per pair of channels instead of the direct sum's 9·m², which is a quarter for m = 4 (A. Lavin and S.
Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308). With the points 0, ±1,
1/2, ±2 and infinity, the error stays close to that of the direct sum (B. Barabasz et al., "Error
Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks",
arXiv:1803.10986).

Rows and columns of outputs are split into fours and fives such that the number of products is
minimal: 13 is split into 4 + 4 + 5. Tiles of all sizes share the weights' values at their common
points, and therefore a matrix product.
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
"""Possible numbers of outputs in a row or column of a tile."""
POINTS = (0, 1, -1, 0.5, -2, math.inf, 2)
"""The interpolation points; m outputs in a row or column use the first m + 2 of them."""
CHANNELS = 128
"""The number of input and output channels from which the savings exceed the transforms' cost."""
IMAGES = 128
"""Number of images at a time, which limits the memory that an evaluation of many images takes."""
LANES = 16
"""Channels are padded with zeros to a multiple of this, which speeds up matrix products."""


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with a 3×3 kernel, stride 1 and no padding, accelerated where possible.

    It is faster on a CPU with many channels. The products are then computed in fp32, and outputs
    and gradients differ from the direct sum's by a few 1e-6 of their norm; under autocast to bf16,
    the outputs are rounded to bf16. In all other cases, and for bf16 on a CPU with its own units
    for bf16, PyTorch's own convolution is used.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, KERNEL)

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs [N, out, H - 2, W - 2] of `input` [N, in, H, W]."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        if (
            min(self.in_channels, self.out_channels) < CHANNELS
            or input.device.type != "cpu"
            or self.weight.dtype != torch.float32
            or dtype not in (torch.float32, torch.bfloat16)
            or (dtype == torch.bfloat16 and has_bf16_units())
            or input.dim() != 4
            or len(input) == 0
            or min(input.shape[2:]) < KERNEL  # PyTorch raises an error for these
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
    """Return whether this CPU has units for bf16 matrix products (Intel's AMX, ARM's BFMMLA).

    If the system does not say, it is assumed to have none.
    """
    try:
        flags = cpuinfo.read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"amx_bf16", "bf16"}.isdisjoint(flags)


def transforms(m: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrices for m outputs in a row, with one row for each of n = m + 2 points.

    They are B [n, n], G [n, 3] and A [n, m] in float64. With n inputs x and 3 weights w, the
    outputs are ``A.T @ ((G @ w) * (B @ x))`` (equation 6 of Lavin and Gray). Everything that
    depends on m is in A and B: at a given point, G is the same for every m.
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
    """Return the factors of a polynomial's coefficients in its value at `point`."""
    return np.eye(count)[-1] if point == math.inf else np.power(float(point), np.arange(count))


def _denominator(point: float, points: Sequence[float]) -> float:
    """Return the denominator of Lagrange's polynomial that is 1 at `point`, 0 at other `points`."""
    if point == math.inf:
        return 1.0
    return math.prod(point - node for node in points if node not in (point, math.inf))


class Pieces(NamedTuple):
    """Consecutive pieces of equal size that a row or column of outputs is split into."""

    first: int
    """The position where the first of them begins."""
    size: int
    number: int


def pieces(length: int) -> list[Pieces]:
    """Split a row or column of outputs with the fewest products; the last piece may overhang."""
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
    """By how many pixels a side exceeds the tile's outputs: 0, or the extra inputs they depend
    on."""

    def cut(self, images: Tensor) -> Tensor:
        """Cut `images` [N, H, W, C] into tiles: [pixels of a tile, tiles · padded channels].

        Where a tile extends beyond its image, it contains zeros.
        """
        places = (self.down.size + self.margin) * (self.across.size + self.margin)
        tiles = images.new_zeros(places, self.number(images) * filled_up(images.shape[3]))
        for inside, pixels in self._places(tiles, images):
            inside.copy_(pixels)
        return tiles

    def add(self, tiles: Tensor, images: Tensor) -> None:
        """Add `tiles` to the pixels of `images` from which `cut` would take them."""
        for inside, pixels in self._places(tiles, images):
            pixels.add_(inside)

    def number(self, images: Tensor) -> int:
        """Return the number of tiles in `images`."""
        return len(images) * self.down.number * self.across.number

    def _places(self, tiles: Tensor, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each position in a tile, the tiles' pixels there and those of the images."""
        down, across = self.down, self.across
        tiles = tiles.view(len(tiles), len(images), down.number, across.number, -1)
        for place, inside in enumerate(tiles):
            row, column = divmod(place, across.size + self.margin)
            pixels = images[:, down.first + row :: down.size, across.first + column :: across.size]
            pixels = pixels[:, : down.number, : across.number]
            yield inside[tuple(slice(size) for size in pixels.shape)], pixels


class Transform:
    """Transforms images to the values of their tiles at the points.

    Args:
        groups: groups of points at which the same tiles have values; the first has all tiles. Each
            group maps a kind of tiles to the matrix that multiplies their pixels: float32 [points,
            pixels].
    """

    def __init__(self, groups: list[dict[Tiles, Tensor]]) -> None:
        self.groups = groups

    def values(self, images: Tensor) -> list[Tensor]:
        """Transform `images` [N, H, W, C]; for each group: [points, tiles, padded channels]."""
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
        """Apply the transposed transform to `values`, and add the result to `images`."""
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
    """Return the transforms of inputs, weights and outputs for height × width outputs.

    The transform of the weights is a list of matrices, one for each group: [points, 9].
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
    """Yield groups of points with the pieces of `line` that have values there."""
    first = 0
    for place, point in enumerate(line):
        last = point.size + KERNEL - 1
        yield slice(first, last), line[place:]
        first = last


def filled_up(channels: int) -> int:
    """Return the number of channels after padding with zeros."""
    return -(-channels // LANES) * LANES


class Winograd(torch.autograd.Function):
    """Convolves float32 inputs [N, in, H, W] with weights [out, in, 3, 3] and biases [out]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the outputs, float32 [N, out, H - 2, W - 2], in channels_last."""
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
        """Return the gradients of inputs, weights and biases, by the transposed products."""
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
    """Multiply `matrix` [p, q] with a stack [q, ...]: [p, ...]."""
    return (matrix @ stack.flatten(1)).view(len(matrix), *stack.shape[1:])
