"""The fast convolution gives what the textbook's gives, to a stated bound, with fewer products."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, max_pool2d
from torch.utils.flop_counter import FlopCounterMode

from autol2.bench.limits import step_flops
from autol2.models.cnn import CNN
from autol2.models.kernels import fused_cnn, winograd
from autol2.models.kernels.fused_cnn import FusedCNN
from autol2.models.kernels.winograd import (
    CHANNELS,
    IMAGES,
    SIZES,
    Conv2d,
    has_bf16_units,
    pieces,
    transforms,
)

from .conftest import distance

BOUND = 1e-5
"""‖difference‖ over ‖exact‖; the textbook's sum itself comes to about 5e-7."""


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(("down", "across"), list(itertools.product(SIZES, repeat=2)))
def test_one_tile(down: int, across: int) -> None:
    """Equation 8 of Lavin and Gray, for one pair of channels and tiles that need not be square."""
    columns, rows = transforms(down), transforms(across)
    for m, matrices in ((down, columns), (across, rows)):
        assert [one.shape for one in matrices] == [(m + 2, m + 2), (m + 2, 3), (m + 2, m)]
    x, w = draw(down + 2, across + 2), draw(3, 3)
    (b, g, a), (b_, g_, a_) = ([one.float() for one in matrices] for matrices in (columns, rows))
    y = a.T @ ((g @ w @ g_.T) * (b @ x @ b_.T)) @ a_
    exact = conv2d(x.double()[None, None], w.double()[None, None])
    assert distance(y, exact[0, 0]) < 3e-6  # a Xeon with AMX: 2.2e-6; Zen 3 and 4 below 2e-6


def test_sizes_share_the_weights_values() -> None:
    small, large = (transforms(m)[1] for m in SIZES)
    assert torch.equal(small, large[: len(small)])


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (1, [(0, 4, 1)]),
        (5, [(0, 5, 1)]),
        (10, [(0, 5, 2)]),
        (12, [(0, 4, 3)]),
        (13, [(0, 4, 2), (8, 5, 1)]),
        (29, [(0, 4, 1), (4, 5, 5)]),
    ],
)
def test_pieces_of_a_line(length: int, expected: list[tuple[int, int, int]]) -> None:
    assert pieces(length) == expected


def test_pieces_take_the_fewest_products() -> None:
    for length in range(1, 70):
        fewest = min(
            6 * fours + 7 * fives
            for fours, fives in itertools.product(range(20), repeat=2)
            if 4 * fours + 5 * fives >= length
        )
        assert sum((one.size + 2) * one.number for one in pieces(length)) == fewest


@pytest.mark.parametrize(
    ("images", "channels", "out", "height", "width"),
    [
        (3, 128, 144, 14, 14),  # tiles of 4 × 4
        (3, 130, 150, 15, 15),  # tiles of both sizes, channels that are filled up
        (1, 128, 128, 12, 15),
        (1, 128, 128, 15, 7),
        (2, 128, 131, 3, 9),  # one row, in tiles that jut out
        (2, 129, 128, 22, 6),
        (1, 128, 128, 3, 3),  # one pixel
        (IMAGES + 1, CHANNELS, CHANNELS, 4, 4),  # more images than are taken at a time
    ],
)
def test_same_as_the_textbook(
    images: int, channels: int, out: int, height: int, width: int
) -> None:
    """Outputs and all three gradients, against fp64."""
    x = draw(images, channels, height, width).relu()
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    layer = Conv2d(channels, out)
    before = copy.deepcopy(layer.state_dict())
    y = layer(x)
    gradient = draw(*y.shape)
    gradients = torch.autograd.grad(y, (x, layer.weight, layer.bias), gradient)
    assert all(torch.equal(value, layer.state_dict()[name]) for name, value in before.items())
    exact_in = [one.detach().double().requires_grad_() for one in (x, layer.weight, layer.bias)]
    exact = conv2d(*exact_in)
    exact_gradients = torch.autograd.grad(exact, exact_in, gradient.double())
    assert y.is_contiguous(memory_format=torch.channels_last)
    for ours, truth in zip((y, *gradients), (exact, *exact_gradients), strict=True):
        assert ours.shape == truth.shape
        assert distance(ours, truth) < BOUND


@pytest.mark.parametrize(("side", "share"), [(14, 0.33), (15, 0.31)])
def test_few_products(side: int, share: float) -> None:
    """What the paper's second convolution takes, forwards and backwards, beside the textbook's.

    That is without batch-norm and with it, the transforms included.
    """
    x = draw(32, 300, side, side).requires_grad_()
    counted = []
    for layer in (Conv2d(300, 300), nn.Conv2d(300, 300, 3)):
        with FlopCounterMode(display=False) as counter:
            layer(x).sum().backward()
        counted.append(counter.get_total_flops())
    assert counted[0] < share * counted[1]


def test_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not, the result is PyTorch's own, bit for bit."""
    wide, narrow = Conv2d(CHANNELS, CHANNELS), Conv2d(CHANNELS - 1, CHANNELS)

    def fast(layer: Conv2d, dtype: torch.dtype = torch.float32) -> bool:
        x = draw(2, layer.in_channels, 6, 6).to(dtype)
        ours, theirs = layer.to(dtype)(x), nn.Conv2d.forward(layer, x)
        assert ours.dtype == theirs.dtype
        return not torch.equal(ours, theirs)

    assert fast(wide)
    assert not fast(narrow)
    assert not fast(Conv2d(CHANNELS, CHANNELS - 1))
    assert not fast(Conv2d(CHANNELS, CHANNELS), torch.float64)
    for units in (True, False):
        monkeypatch.setattr(winograd, "has_bf16_units", lambda units=units: units)
        with torch.autocast("cpu", torch.bfloat16):
            assert fast(wide) is not units
        assert fast(wide)
    assert not fast(Conv2d(CHANNELS, CHANNELS), torch.bfloat16)
    with torch.autocast("cpu", torch.float16):
        assert not fast(wide)


@pytest.mark.parametrize("batchnorm", [False, True])
def test_the_network_uses_it(batchnorm: bool) -> None:
    model = FusedCNN(CNN(300, 10).build((3, 32, 32), 10, batchnorm=batchnorm))
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(8, 3, 32, 32)).sum().backward()
    assert counter.get_total_flops() < 0.5 * step_flops(model, 8, (32, 32))


def test_gradients_differ_only_by_maxima_that_rounding_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where two values of a window are equal but for rounding, another one may be the maximum.

    A few in a hundred thousand are, and move the gradient by 1e-4 of its length. Given the same
    choices, fp64 comes to the same gradient.
    """
    torch.manual_seed(0)
    network = CNN(CHANNELS, 20).build((3, 32, 32), 10, batchnorm=False)
    exact = copy.deepcopy(network).double()
    images, labels = draw(16, 3, 32, 32), torch.arange(16) % 10
    places: list[Tensor] = []
    signs: list[Tensor] = []

    def pool(x: Tensor, size: int) -> Tensor:
        pooled, place = max_pool2d(x, size, return_indices=True)
        places.append(place)
        return pooled

    def relu_(x: Tensor) -> Tensor:
        signs.append((x > 0).detach())
        return x.relu_()

    monkeypatch.setattr(fused_cnn, "max_pool2d", pool)
    monkeypatch.setattr(torch, "relu_", relu_)
    cross_entropy(FusedCNN(network)(images), labels).backward()

    def chosen(x: Tensor, own: list[Tensor]) -> Tensor:
        place, sign = places.pop(0), signs.pop(0)
        with torch.no_grad():
            value, own_place = max_pool2d(x, 2, return_indices=True)
            own.append((own_place != place) & (value > 0) | ((value > 0) != sign))
        return x.flatten(2).gather(2, place.contiguous().flatten(2)).reshape(sign.shape) * sign

    height, width = fused_cnn.seen((32, 32))
    differing: list[Tensor] = []
    x = chosen(exact.conv1(images[..., :height, :width].double()), differing)
    x = chosen(exact.conv2(x), differing).flatten(1)
    cross_entropy(exact.dense2(exact.dense1(x) * signs.pop()), labels).backward()
    for one in differing:
        assert one.double().mean() < 1e-4
    ours, truth = (
        torch.cat([one.grad.double().flatten() for one in net.parameters()])
        for net in (network, exact)
    )
    assert distance(ours, truth) < BOUND


@pytest.mark.parametrize(
    ("flags", "units"),
    [
        ("flags\t\t: avx512f avx512_bf16 amd_lbr_v2", False),
        ("flags\t\t: avx512_bf16 amx_bf16 amx_tile", True),
        ("Features\t: asimd i8mm bf16 dgh", True),
        ("Features\t: asimd", False),
    ],
)
def test_units_for_bf16(tmp_path: Path, flags: str, units: bool) -> None:
    """Vector instructions for bf16 (avx512_bf16) are no such units."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{flags}\n", encoding="utf-8")
    assert has_bf16_units(cpuinfo) is units
    assert not has_bf16_units(tmp_path / "missing")


def test_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearer to the exact outputs and gradients than products in bf16 are."""
    monkeypatch.setattr(winograd, "has_bf16_units", lambda: False)
    layer, x, gradient = Conv2d(130, 140), draw(3, 130, 9, 9), draw(3, 140, 7, 7)
    x = x.bfloat16()

    def gradients_of(forward: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
        x = x.detach().requires_grad_()
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.bfloat16):
            y = forward(x)
        y.backward(gradient.to(y.dtype))  # type: ignore[no-untyped-call]
        assert x.grad is not None
        assert layer.weight.grad is not None
        return [y.detach(), x.grad, layer.weight.grad.clone()]

    ours = gradients_of(layer, x)
    theirs = gradients_of(functools.partial(nn.Conv2d.forward, layer), x)
    exact = gradients_of(functools.partial(nn.Conv2d.forward, layer.double()), x.double())
    for one, other, truth in zip(ours, theirs, exact, strict=True):
        assert one.dtype == other.dtype
        assert distance(one, truth) < min(4e-3, 1.01 * distance(other, truth))


def test_repeats_bit_for_bit() -> None:
    layer, x = Conv2d(130, 140), draw(5, 130, 15, 15)
    first = layer(x)
    first.square().sum().backward()
    gradient = layer.weight.grad
    layer.weight.grad = None
    with torch.inference_mode():
        assert torch.equal(layer(x), first)
    layer(x).square().sum().backward()
    assert gradient is not None
    assert layer.weight.grad is not None
    assert torch.equal(gradient, layer.weight.grad)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_batch_of_no_images(precision: torch.dtype) -> None:
    """As PyTorch has it: no outputs, and gradients of zero."""
    conv, x = Conv2d(CHANNELS, CHANNELS), torch.empty(0, CHANNELS, 6, 7, requires_grad=True)
    with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
        outputs = conv(x)
    assert (outputs.shape, outputs.dtype) == ((0, CHANNELS, 4, 5), precision)
    outputs.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.shape == x.shape
    assert conv.weight.grad is not None
    assert not conv.weight.grad.any()


def test_one_image_without_a_batch() -> None:
    conv, x = Conv2d(CHANNELS, CHANNELS), draw(CHANNELS, 6, 7)
    assert conv(x).shape == (CHANNELS, 4, 5)
    assert distance(conv(x), conv(x[None])[0]) < BOUND


def test_images_smaller_than_the_kernel_are_refused() -> None:
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        Conv2d(CHANNELS, CHANNELS)(draw(2, CHANNELS, 2, 7))
