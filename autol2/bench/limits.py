"""The floating-point operations of a training step, and the peak speed of this machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..config import Config
from ..models.kernels.fused_cnn import FusedCNN, seen
from .timing import alternate


def step_flops(model: nn.Module, images: int, sides: Sequence[int]) -> int:
    """Count the floating-point operations of a training step: those of its matrix products.

    Per image, a convolution with K inputs (9 × input channels), F filters and an output of H × W
    costs 2·K·F·H·W, and a dense layer 2·in·out. The backward pass costs twice as much, for the
    gradients of the weights and of the inputs; the first layer needs no gradient of its inputs. If
    the model trains on a crop of the image (see `crops`), only the outputs that the pooling layers
    use are counted. Normalization, ReLU, pooling, loss and update are not counted.

    Args:
        model: the network.
        images: the batch size.
        sides: the height and width of an image.
    """
    if crops(model):
        sides = seen(sides)
    total = 0
    for factor, name in ((2, "conv1"), (3, "conv2")):
        height, width = (side - 2 for side in sides)
        total += factor * 2 * weight_of(model, name).numel() * height * width
        sides = (height // 2, width // 2)
    for name in ("dense1", "dense2"):
        total += 3 * 2 * weight_of(model, name).numel()
    return images * total


def crops(model: nn.Module) -> bool:
    """Whether `model` trains only on the part of the image that its pooling layers use."""
    return isinstance(model, FusedCNN) and model.crops_training


def weight_of(model: nn.Module, layer: str) -> Tensor:
    """Return the weight of a layer of the paper's network."""
    return model.get_parameter(f"{layer}.weight")


def machine_gflops(
    config: Config, model: nn.Module, sides: Sequence[int], rounds: int
) -> dict[str, float]:
    """Measure the GFLOP/s of single PyTorch kernels on this machine, in the precision of `config`.

    Args:
        config: the run, for its precision and batch size.
        model: the network, for its layers and its device.
        sides: the height and width of an image.
        rounds: the number of rounds of timing, each in forward and then in reverse order.

    Returns:
        The GFLOP/s of ``matmul``, the product of two square matrices whose size depends on the
        width of the model; ``convolution``, the forward pass of the second convolution in
        channels_last format; and ``convolution_backward``, its forward and backward pass.
    """
    images, device = config.batch_size, next(model.parameters()).device
    dtype = torch.bfloat16 if config.precision.name == "bf16" else torch.float32
    width = len(weight_of(model, "conv2"))
    conv = nn.Conv2d(width, width, 3, device=device, dtype=dtype)
    conv = conv.to(memory_format=torch.channels_last)
    if crops(model):
        sides = seen(sides)
    height, across = ((side - 2) // 2 for side in sides)
    x = torch.randn(images, width, height, across, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.no_grad():
        y = conv(x).contiguous(memory_format=torch.channels_last)
    forward = 2 * conv.weight.numel() * images * y.shape[2] * y.shape[3]
    size = max(64, min(2048 if device.type == "cpu" else 8192, 32 * width))
    a = torch.randn(size, size, device=device, dtype=dtype)

    repeats = 1 if device.type == "cpu" else 50

    def multiply() -> None:
        for _ in range(repeats):
            a @ a

    def convolve() -> None:
        with torch.no_grad():
            for _ in range(repeats):
                conv(x)

    def both() -> None:
        for _ in range(repeats):
            torch.autograd.grad(conv(x), (x, conv.weight), y)

    kernels = {
        "matmul": multiply,
        "convolution": convolve,
        "convolution_backward": both,
    }
    alternate(kernels, 1, device)  # Warm up.
    taken = alternate(kernels, rounds, device)
    flops = {"matmul": 2 * size**3, "convolution": forward, "convolution_backward": 3 * forward}
    return {
        name: repeats * flops[name] / statistics.median(seconds) / 1e9
        for name, seconds in taken.items()
    }
