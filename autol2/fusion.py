"""Batch-norm fused into the convolution before it, in training too.

Batch-norm subtracts a mean and multiplies by a scale, which a convolution can do with its own bias
and weights. Both follow from the means m and the covariance C of the windows that the convolution
looks at: the outputs of a filter w have the mean w·m and the variance w·C·w. For a first layer,
with its few inputs, that is little work, and nothing else as large as its outputs is computed or
kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d


def convolve_normalized(conv: nn.Conv2d, norm: nn.BatchNorm2d, images: Tensor) -> Tensor:
    """What ``norm(conv(images))`` gives, and does to the running statistics.

    The statistics are computed in fp64. PyTorch's own are summed up in fp32 in channels_last on a
    CPU: on digits, which are mostly background, its outputs were 5e-4 of their norm off.

    Args:
        conv: a convolution with a bias and a stride of 1, without padding.
        norm: on its outputs, with running statistics and a momentum.
        images: float32 [N, in, H, W]; there is no gradient for them.

    Raises:
        ValueError: one of these is missing.
    """
    momentum, batches = norm.momentum, norm.num_batches_tracked
    running_mean, running_var = norm.running_mean, norm.running_var
    if conv.bias is None or running_mean is None or running_var is None:
        raise ValueError("the convolution needs a bias, and batch-norm running statistics")
    if momentum is None or batches is None:
        raise ValueError("batch-norm needs a momentum")
    if norm.training:
        weight = conv.weight.permute(0, 2, 3, 1).flatten(1).double()
        windows = _windows(images.double(), *conv.kernel_size)
        count = len(windows) * windows.shape[2]
        means = windows.mean((0, 2))
        covariance = (windows @ windows.mT).sum(0) / count - means.outer(means)
        mean = weight @ means + conv.bias
        variance = ((weight @ covariance) * weight).sum(1)
        with torch.no_grad():
            running_mean.lerp_(mean.float(), momentum)
            running_var.lerp_((variance * (count / (count - 1))).float(), momentum)
            batches += 1
    else:
        mean, variance = running_mean, running_var
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    bias = (norm.bias + scale * (conv.bias - mean)).float()
    scaled = (conv.weight * scale[:, None, None, None]).float()
    return conv2d(images, scaled, bias)


def _windows(images: Tensor, height: int, width: int) -> Tensor:
    """All windows of `images` [N, C, ...]: [N, height · width · C, windows of an image].

    What `torch.nn.functional.unfold` gives, in the order of weights in channels_last; faster.
    """
    images = images.contiguous()
    down, across = images.shape[2] - height + 1, images.shape[3] - width + 1
    shifted = [
        images[..., row : row + down, column : column + across]
        for row in range(height)
        for column in range(width)
    ]
    return torch.cat(shifted, 1).flatten(2)
