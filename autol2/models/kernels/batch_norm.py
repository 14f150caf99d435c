"""Batch-norm fused with the convolution before it or the max pooling after it.

On a CPU in channels_last, PyTorch's own batch-norm sums up its statistics in fp32, value by value.
On digits, which are mostly background, the outputs of the network's first batch-norm were off by
5e-4 of their norm, and weights by 1e-3 after 30 steps. The functions here are exact up to rounding
and, at the paper's width, faster.

Batch-norm subtracts a mean and multiplies by a scale, which a convolution can do with its own bias
and weights. Both follow from the means m and the covariance C of the windows of the convolution's
input: the outputs of a filter w have mean w·m and variance w·C·w. For a first layer with few input
channels, this takes little work, and no other tensor as large as the outputs is computed or stored.
Since batch-norm preserves the order of a channel's values, or reverses it if its scale is negative,
only one value of each pooling window needs to be scaled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, max_unpool2d

WINDOW = 2


def fused_weights(conv: nn.Conv2d, norm: nn.BatchNorm2d, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights and biases with which `conv` computes ``norm(conv(images))``.

    The running statistics are updated as by ``norm``.

    Args:
        conv: a convolution with a bias and a stride of 1, without padding.
        norm: batch-norm of its outputs, with running statistics and a momentum.
        images: float32 [N, in, H, W]; no gradient is computed for them.

    Raises:
        ValueError: the bias, the running statistics or the momentum are missing.
    """
    if conv.bias is None:
        raise ValueError("the convolution needs a bias")
    if norm.training:
        weight = conv.weight.permute(0, 2, 3, 1).flatten(1).double()
        windows = _windows(images.double(), *conv.kernel_size)
        count = len(windows) * windows.shape[2]
        means = windows.mean((0, 2))
        covariance = (windows @ windows.mT).sum(0) / count - means.outer(means)
        mean = weight @ means + conv.bias
        variance = ((weight @ covariance) * weight).sum(1)
        _track(norm, mean, variance, count)
    else:
        mean, variance = _running(norm)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    bias = norm.bias + scale * (conv.bias - mean)
    return (conv.weight * scale[:, None, None, None]).float(), bias.float()


def max_pool_normalized(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Compute ``max_pool2d(norm(x), 2)`` and update the running statistics.

    If a weight of `norm` is exactly 0, all values of a window are equal. Its gradient is then that
    of the largest value of `x` here, but that of the first value in PyTorch.

    Args:
        norm: batch-norm with running statistics and a momentum.
        x: [N, C, H, W], in channels_last.

    Raises:
        ValueError: the running statistics or the momentum are missing.
    """
    if not (norm.training and x.device.type == "cpu"):
        return max_pool2d(norm(x), 2)
    values = x.permute(0, 2, 3, 1).float()
    outputs, mean, variance = _NormalizedPool.apply(values, norm.weight, norm.bias, norm.eps)
    _track(norm, mean, variance, x.numel() // x.shape[1])
    pooled: Tensor = outputs.permute(0, 3, 1, 2)
    return pooled


class _NormalizedPool(torch.autograd.Function):
    """Maps float32 values [N, H, W, C], weight, bias and eps to outputs, means and variances."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = values[..., 0].numel()
        mean = values.sum((0, 1, 2)) / count
        # for a negative weight, the largest output is the smallest value
        sign = torch.where(weight < 0, -1.0, 1.0)
        centred = torch.addcmul(-sign * mean, values, sign)
        variance = centred.square().sum((0, 1, 2)) / count
        deviation = torch.sqrt(variance + eps)
        largest, places = max_pool2d(centred.permute(0, 3, 1, 2), WINDOW, return_indices=True)
        normalized = largest.permute(0, 2, 3, 1) / deviation
        ctx.save_for_backward(weight, sign, deviation, centred, normalized, places)
        ctx.mark_non_differentiable(mean, variance)
        return torch.addcmul(bias, normalized, weight.abs()), mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        weight, sign, deviation, centred, normalized, places = ctx.saved_tensors
        count = centred[..., 0].numel()
        for_bias = gradient.sum((0, 1, 2))
        for_weight = (gradient * normalized).sum((0, 1, 2))
        scale = weight / deviation
        for_values = max_unpool2d(
            (gradient * scale).permute(0, 3, 1, 2),
            places,
            [WINDOW, WINDOW],
            output_size=list(centred.shape[1:3]),
        ).permute(0, 2, 3, 1)
        for_values.addcmul_(centred, -scale * for_weight / deviation / count)
        for_values.sub_(scale * for_bias / count)
        return for_values, sign * for_weight, for_bias, None


def _running(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the running mean and variance of `norm`."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("batch-norm needs running statistics")
    return norm.running_mean, norm.running_var


def _track(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update the running statistics of `norm` with those of `count` values per channel."""
    running_mean, running_var = _running(norm)
    if norm.momentum is None or norm.num_batches_tracked is None:
        raise ValueError("batch-norm needs a momentum")
    with torch.no_grad():
        for running, new in ((running_mean, mean), (running_var, variance * count / (count - 1))):
            running.mul_(1 - norm.momentum).add_(new.float(), alpha=norm.momentum)
        norm.num_batches_tracked += 1


def _windows(images: Tensor, height: int, width: int) -> Tensor:
    """Return all windows of `images` [N, C, ...]: [N, height · width · C, windows per image].

    The result is that of `torch.nn.functional.unfold` in the order of channels_last weights; this
    is faster.
    """
    images = images.contiguous()
    down, across = images.shape[2] - height + 1, images.shape[3] - width + 1
    shifted = [
        images[..., row : row + down, column : column + across]
        for row in range(height)
        for column in range(width)
    ]
    return torch.cat(shifted, 1).flatten(2)
