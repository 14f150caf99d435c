"""Batch-norm in its neighbours is batch-norm between them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d

from autol2.models.kernels.batch_norm import fused_weights, max_pool_normalized

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


def convolved(conv: nn.Conv2d, norm: nn.BatchNorm2d, images: Tensor) -> Tensor:
    return conv2d(images, *fused_weights(conv, norm, images))


def test_training() -> None:
    """Outputs, gradients and running statistics, against fp64."""
    images = photographs()
    conv, norm = pair(images)
    exact_conv, exact_norm = copy.deepcopy(conv).double(), copy.deepcopy(norm).double()
    gradient = torch.randn(16, 20, 10, 12)
    for _ in range(2):
        fused = convolved(conv, norm, images)
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
    convolved(conv, norm, images)
    conv, norm = conv.eval(), norm.eval()
    before = copy.deepcopy(norm.state_dict())
    with torch.inference_mode():
        fused = convolved(conv, norm, images)
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
        fused = convolved(conv, norm, images)
    assert fused.dtype == torch.bfloat16
    assert 1e-5 < distance(fused, exact) < 1e-2
    assert norm.running_mean is not None
    assert norm.running_mean.dtype == torch.float32


def background() -> Tensor:
    """Float32 [64, 20, 13, 11], most of it one value, in channels_last."""
    torch.manual_seed(4)
    x = torch.randn(64, 20, 13, 11)
    x = torch.where(torch.rand(x.shape) < 0.9, 1.7, x)
    return x.contiguous(memory_format=torch.channels_last)


def scales_of_both_signs() -> nn.BatchNorm2d:
    torch.manual_seed(5)
    norm = nn.BatchNorm2d(20)
    nn.init.uniform_(norm.weight, -1, 2)
    nn.init.normal_(norm.bias)
    assert 0 < (norm.weight < 0).sum() < 20
    return norm


@pytest.mark.usefixtures("threads")
def test_pooled_training() -> None:
    """Outputs, gradients and running statistics, against fp64; PyTorch's own are 2e-4 off."""
    norm = scales_of_both_signs()
    exact = copy.deepcopy(norm).double()
    gradient = torch.randn(64, 20, 6, 5)
    found = []
    for own, pooled in (
        (exact, lambda x: max_pool2d(exact(x), 2)),
        (norm, lambda x: max_pool_normalized(norm, x)),
    ):
        x = background().to(own.weight.dtype).requires_grad_()
        pooled(x)
        outputs = pooled(x)
        outputs.backward(gradient.to(own.weight.dtype))  # type: ignore[no-untyped-call]
        found.append([outputs, x.grad, own.weight.grad, own.bias.grad])
    for truth, ours in zip(*found, strict=True):
        assert ours.shape == truth.shape
        assert distance(ours, truth) < 1e-6
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(
            value.double(), exact.state_dict()[name].double(), rtol=1e-6, atol=1e-7
        )


def test_pooled_with_a_scale_of_zero() -> None:
    norm, x = scales_of_both_signs(), background()
    with torch.no_grad():
        norm.weight[7] = 0
    outputs = max_pool_normalized(norm, x)
    assert torch.equal(outputs[:, 7], norm.bias[7].expand(64, 6, 5))
    outputs[:, 7].sum().backward()  # type: ignore[no-untyped-call]
    assert norm.weight.grad is not None
    plain = nn.BatchNorm2d(20, affine=False).double()(x.double())
    assert norm.weight.grad[7].item() == pytest.approx(
        max_pool2d(plain, 2)[:, 7].sum().item(), rel=1e-4
    )


def test_variance_beyond_fp32() -> None:
    """The weights of a run that has gone astray: as with PyTorch's own, no NaN."""
    both = (
        lambda norm: max_pool_normalized(norm, 1e20 * background()),
        lambda norm: convolved(nn.Conv2d(3, 20, 3), norm, 1e22 * photographs()),
    )
    for outputs_of in both:
        norm = scales_of_both_signs()
        for training in (True, True, False):
            norm.train(training)
            outputs = outputs_of(norm)
            assert outputs.isfinite().all()
        assert norm.running_mean is not None
        assert norm.running_mean.isfinite().all()
        assert norm.running_var is not None
        assert norm.running_var.isposinf().all()


def test_pooled_evaluation() -> None:
    norm, x = scales_of_both_signs(), background()
    max_pool_normalized(norm, x)
    norm.eval()
    before = copy.deepcopy(norm.state_dict())
    assert torch.equal(max_pool_normalized(norm, x), max_pool2d(norm(x), 2))
    assert all(torch.equal(value, norm.state_dict()[name]) for name, value in before.items())


def test_pooled_bf16() -> None:
    """Values come in bf16, and everything is computed in fp32."""
    norm, x = scales_of_both_signs(), background().bfloat16().requires_grad_()
    outputs = max_pool_normalized(norm, x)
    exact = max_pool2d(scales_of_both_signs().double()(x.double()), 2)
    assert distance(outputs, exact) < 1e-6
    (gradient,) = torch.autograd.grad(outputs.square().sum(), x)
    (exact_gradient,) = torch.autograd.grad(exact.square().sum(), x)
    assert gradient.dtype == torch.bfloat16
    assert distance(gradient, exact_gradient.double()) < 5e-3


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
        fused_weights(conv, norm, photographs())


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (nn.BatchNorm2d(20, track_running_stats=False), "running statistics"),
        (nn.BatchNorm2d(20, momentum=None), "a momentum"),
    ],
)
def test_what_cannot_be_pooled(norm: nn.BatchNorm2d, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        max_pool_normalized(norm, background())
