"""3×3 convolution by Winograd's minimal filtering, on the CPU.

A tile of m × m outputs depends on (m + 2) × (m + 2) inputs. Taken as polynomials, in rows and in
columns, that are multiplied through their values at m + 2 points, it needs (m + 2)² products for
each pair of channels where the textbook's sum needs 9·m²: a quarter of them for m = 4 (A. Lavin and
S. Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308). With the points 0,
±1, 1/2, −2 and infinity, the error stays near the textbook's (B. Barabasz et al., "Error Analysis
and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", arXiv:1803.10986).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

KERNEL = 3
POINTS = {4: (0, 1, -1, 0.5, -2), 5: (0, 1, -1, 2, -2, 0.5)}
"""Of a tile with so many outputs a side: the points beside infinity."""
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


@functools.cache
def transforms(m: int) -> tuple[Tensor, Tensor, Tensor]:
    """What tiles of m × m outputs, their weights and their inputs are multiplied with.

    They are matrices A [m², n²], G [n², 9] and B [n², n²], n = m + 2. For a pair of channels the
    outputs of a tile are ``A @ ((G @ w) * (B @ x))``, x being its n² inputs and w the 9 weights,
    row by row: equation 8 of Lavin and Gray, as Kronecker products.
    """
    points = POINTS[m]
    powers = np.vander(points, m + KERNEL - 1, increasing=True)
    infinity = np.eye(m + KERNEL - 1)
    others = [[other for other in points if other != point] for point in points]
    scale = [
        [np.prod(np.subtract(point, rest))] for point, rest in zip(points, others, strict=True)
    ]
    a = np.vstack([powers[:, :m], infinity[m - 1, :m]]).T
    g = np.vstack([powers[:, :KERNEL] / scale, infinity[KERNEL - 1, :KERNEL]])
    b = np.vstack([[*np.poly(rest)[::-1], 0] for rest in others] + [np.poly(points)[::-1]])
    in_rows_and_columns = [torch.from_numpy(np.kron(one, one)).float() for one in (a, g, b)]
    return in_rows_and_columns[0], in_rows_and_columns[1], in_rows_and_columns[2]


class Tiles:
    """How the outputs of images are cut into tiles.

    Args:
        height, width: of the outputs of an image.
    """

    def __init__(self, height: int, width: int) -> None:
        self.m = min(POINTS, key=lambda m: -(-max(height, width) // m) * (m + KERNEL - 1))
        """Outputs a side of a tile: that which needs the fewest products."""
        self.n = self.m + KERNEL - 1
        """Inputs a side of a tile."""
        self.shape = (-(-height // self.m), -(-width // self.m))
        """Tiles in an image."""

    def cut(self, images: Tensor, side: int) -> Tensor:
        """Tiles of `side` × `side` pixels, [side², tiles of all images, channels filled up].

        Args:
            images: [N, H, W, C]; where a tile juts out of it, there are zeros.
            side: `m` or `n`.
        """
        tiles = images.new_zeros(side**2, len(images), *self.shape, filled_up(images.shape[3]))
        for inside, pixels in self._places(tiles, images, side):
            inside.copy_(pixels)
        return tiles.flatten(1, 3)

    def add(self, tiles: Tensor, images: Tensor, side: int) -> None:
        """Add to `images` what `cut` would have made `tiles` of."""
        tiles = tiles.view(side**2, len(images), *self.shape, -1)
        for inside, pixels in self._places(tiles, images, side):
            pixels.add_(inside)

    def _places(self, tiles: Tensor, images: Tensor, side: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each place in a tile: the tiles' pixels there, and the same pixels of the images."""
        height, width = self.shape
        for place in range(side**2):
            row, column = divmod(place, side)
            pixels = images[:, row :: self.m, column :: self.m][:, :height, :width]
            yield tiles[place][tuple(slice(size) for size in pixels.shape)], pixels


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
        tiles = Tiles(height, width)
        a, g, b = transforms(tiles.m)
        filters = x.new_zeros(KERNEL**2, filled_up(channels), filled_up(out))
        filters[:, :channels, :out] = weight.flatten(2).permute(2, 1, 0)
        filters = times(g, filters)
        cut = times(b, tiles.cut(images, tiles.n))
        outputs = x.new_empty(len(x), height, width, out)
        outputs[:] = bias
        tiles.add(times(a, cut @ filters), outputs, tiles.m)
        ctx.save_for_backward(cut, filters)
        ctx.tiles, ctx.images, ctx.weight = tiles, images.shape, weight.shape
        return outputs.permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of the three: the same products, each the other way round."""
        cut, filters = ctx.saved_tensors
        tiles, (out, channels) = ctx.tiles, ctx.weight[:2]
        a, g, b = (matrix.T for matrix in transforms(tiles.m))
        gradients = gradient.permute(0, 2, 3, 1)
        products = times(a, tiles.cut(gradients, tiles.m))
        for_filters = cut.mT @ products
        for_images = gradients.new_zeros(ctx.images)
        tiles.add(times(b, products @ filters.mT), for_images, tiles.n)
        for_weight = times(g, for_filters)[:, :channels, :out].permute(2, 1, 0)
        return (
            for_images.permute(0, 3, 1, 2),
            for_weight.reshape(ctx.weight),
            gradients.sum((0, 1, 2)),
        )


def times(matrix: Tensor, stack: Tensor) -> Tensor:
    """`matrix` [p, q] times a stack [q, ...]: [p, ...]."""
    return (matrix @ stack.flatten(1)).view(len(matrix), *stack.shape[1:])
