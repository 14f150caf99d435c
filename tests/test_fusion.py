"""Batch-norm in the convolution before it is batch-norm after it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from autol2.fusion import convolve_normalized

from .conftest import distance


def pair(images: Tensor) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    torch.manual_seed(3)
    conv, norm = nn.Conv2d(images.shape[1], 20, 3), nn.BatchNorm2d(20)
    with torch.no_grad():
        norm.weight.uniform_(-1, 2)
        norm.bias.normal_()
    return conv, norm


def photographs() -> Tensor:
    """Images whose neighbouring pixels are alike, with a frame; float32 [16, 3, 12, 14]."""
    torch.manual_seed(2)
    rough = nn.functional.interpolate(torch.randn(16, 3, 3, 4), (12, 14), mode="bilinear")
    images = rough + 0.02 * torch.randn(rough.shape) + 0.3
    images[:, :, :5] = -1
    return images


def test_training() -> None:
    """Outputs, gradients and running statistics, against fp64."""
    images = photographs()
    conv, norm = pair(images)
    exact_conv, exact_norm = copy.deepcopy(conv).double(), copy.deepcopy(norm).double()
    gradient = torch.randn(16, 20, 10, 12)
    for _ in range(2):
        fused = convolve_normalized(conv, norm, images)
        exact = exact_norm(exact_conv(images.double()))
        assert distance(fused, exact) < 2e-6
    fused.backward(gradient)  # type: ignore[no-untyped-call]
    exact.backward(gradient.double())  # type: ignore[no-untyped-call]
    for ours, truth in zip(
        (conv.weight, norm.weight, norm.bias),
        (exact_conv.weight, exact_norm.weight, exact_norm.bias),
        strict=True,
    ):
        assert ours.grad is not None
        assert truth.grad is not None
        assert distance(ours.grad, truth.grad) < 2e-5
    # a shift of the outputs does not matter: no gradient, but weight decay still sees the bias
    assert conv.bias is not None
    assert conv.bias.grad is not None
    assert torch.equal(conv.bias.grad, torch.zeros(20))
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(
            value.double(), exact_norm.state_dict()[name].double(), rtol=1e-5, atol=1e-6
        )


def test_evaluation() -> None:
    images = photographs()
    conv, norm = pair(images)
    convolve_normalized(conv, norm, images)
    conv, norm = conv.eval(), norm.eval()
    before = copy.deepcopy(norm.state_dict())
    with torch.inference_mode():
        fused = convolve_normalized(conv, norm, images)
    exact = norm.double()(conv.double()(images.double()))
    assert distance(fused, exact) < 2e-6
    assert all(torch.equal(value, norm.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize("training", [True, False])
def test_bf16(training: bool) -> None:
    """Under autocast the convolution is in bf16, and the statistics are not."""
    images = photographs()
    conv, norm = pair(images)
    norm.train(training)
    exact = copy.deepcopy(norm).double()(copy.deepcopy(conv).double()(images.double()))
    with torch.autocast("cpu", torch.bfloat16):
        fused = convolve_normalized(conv, norm, images)
    assert fused.dtype == torch.bfloat16
    assert 1e-5 < distance(fused, exact) < 1e-2
    assert norm.running_mean is not None
    assert norm.running_mean.dtype == torch.float32


@pytest.mark.parametrize(
    ("conv", "norm", "message"),
    [
        (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), "needs a bias"),
        (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), "running statistics"),
        (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None), "a momentum"),
    ],
)
def test_what_cannot_be_fused(conv: nn.Conv2d, norm: nn.BatchNorm2d, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convolve_normalized(conv, norm, photographs())
