"""The networks of the group `model`: shapes, what they refuse, how many parameters they have."""

from __future__ import annotations

import importlib
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from autol2.errors import UserError
from autol2.models.custom import Custom
from autol2.models.mlp import MLP
from autol2.models.model import Model
from autol2.models.probe import require_single_images
from autol2.models.resnet18 import ResNet18
from autol2.models.torchvision_models import Torchvision
from autol2.models.wrn import WRN

SHAPE = (3, 32, 32)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("model", "batchnorm", "shape"),
    [
        (MLP(), False, SHAPE),
        (MLP([]), False, (1, 7, 5)),
        (WRN(10, 1), True, SHAPE),
        (WRN(10, 2, 3), False, SHAPE),
        (WRN(16, 1, 3, 0.3), True, (1, 28, 28)),
        (ResNet18(), True, SHAPE),
        (ResNet18(), False, (1, 9, 8)),
        (Torchvision("squeezenet1_1"), False, SHAPE),
    ],
)
def test_scores(model: Model, batchnorm: bool, shape: tuple[int, int, int]) -> None:
    network = model.build(shape, 7, batchnorm=batchnorm)
    scores = network(torch.randn(2, *shape))
    assert scores.shape == (2, 7)
    assert scores.dtype == torch.float32
    norms = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d)]
    assert bool(norms) == batchnorm


def test_parameters_of_the_papers_network() -> None:
    """WRN-28-10 and WRN-16-8: the counts of the authors' table, 36.5 and 11.0 million."""
    with torch.device("meta"):
        assert count(WRN().build(SHAPE, 10, batchnorm=True)) == 36_479_194
        assert count(WRN(16, 8).build(SHAPE, 100, batchnorm=True)) == 11_007_540
        original = WRN(28, 10, 3).build(SHAPE, 10, batchnorm=True)
    shortcuts = 16 * 160 + 160 * 320 + 320 * 640
    assert count(original) == 36_479_194 + 8 * shortcuts
    kernels = [one for one in original.modules() if isinstance(one, nn.Conv2d)]
    assert {one.kernel_size for one in kernels} == {(3, 3)}
    assert sorted({one.out_channels for one in kernels}) == [16, 160, 320, 640]


def test_resnet18_keeps_the_resolution_of_small_images() -> None:
    network = ResNet18().build(SHAPE, 10, batchnorm=True)
    assert count(network) == 11_173_962  # as every CIFAR ResNet-18
    sides: list[int] = []
    network.layer1.register_forward_hook(lambda _m, _i, out: sides.append(out.shape[-1]))
    network.layer4.register_forward_hook(lambda _m, _i, out: sides.append(out.shape[-1]))
    network.eval()(torch.zeros(1, *SHAPE))
    assert sides == [32, 4]


@pytest.mark.parametrize("model", [MLP(), Torchvision(), Custom("a:b")])
def test_no_place_for_batchnorm(model: Model) -> None:
    with pytest.raises(UserError, match=f"model={model.name} does not support batchnorm=on"):
        model.build(SHAPE, 10, batchnorm=True)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: WRN(27), "6·n \\+ 4"),
        (lambda: WRN(4), "6·n \\+ 4"),
        (lambda: WRN(width=0), "model.width"),
        (lambda: WRN(shortcut_kernel=2), "1 or 3"),
        (lambda: WRN(dropout=1.0), "model.dropout"),
        (lambda: MLP([100, 0]), "model.widths"),
        (lambda: Torchvision(""), "model.builder"),
        (lambda: Custom(), "package.module:factory"),
        (lambda: Custom("module.factory"), "package.module:factory"),
        (lambda: Custom("module:"), "package.module:factory"),
    ],
)
def test_refused_options(build, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_torchvision_names_what_is_close() -> None:
    with pytest.raises(UserError, match=r"model\.builder=resnet5: try resnet50"):
        Torchvision("resnet5").build(SHAPE, 10, batchnorm=False)
    with pytest.raises(UserError, match=r"model\.builder=resnet18: .*flavour"):
        Torchvision("resnet18", {"flavour": 1}).build(SHAPE, 10, batchnorm=False)


OWN = """
    import torch
    from torch import nn

    def factory(shape, classes, width=4):
        return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], width),
                             nn.Dropout(0.2), nn.Linear(width, classes))

    def other_scores(shape, classes):
        return nn.Flatten()

    def other_images(shape, classes):
        return nn.Conv2d(5, classes, 3)

    def no_network(shape, classes):
        return 3

    class Several(nn.Module):
        def __init__(self, shape, classes):
            super().__init__()

        def forward(self, images):
            return images, images

    class Pair(nn.Module):
        def __init__(self, shape, classes):
            super().__init__()
            self.one = factory(shape, classes)

        def forward(self, images):
            scores = self.one(images)
            return scores if self.training else (scores, scores)

    def no_parameters(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(classes))

    def frozen(shape, classes):
        return factory(shape, classes).requires_grad_(False)

    class Whole(Pair):
        def forward(self, images):
            return self.one(images).long()

    def fails(shape, classes):
        return nn.Linear("wide", classes)

    def exits(shape, classes):
        raise SystemExit(3)

    def lazy(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.LazyBatchNorm1d(),
                             nn.LazyLinear(classes))

    def weight_norm(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(3072, classes)))

    constant = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_networks_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_custom(own: str) -> None:
    network = Custom(f"{own}:factory", {"width": 9}).build(SHAPE, 5, batchnorm=False)
    assert network(torch.zeros(3, *SHAPE)).shape == (3, 5)
    assert count(network) == 3072 * 9 + 9 + 9 * 5 + 5
    one, other = Custom("a:b", {"width": 9}).identity(), Custom("a:b").identity()
    assert one == {"name": "custom", "target": "a:b", "options": {"width": 9}}
    assert other == {"name": "custom", "target": "a:b"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "has no function absent"),
        ("constant", "has no function constant"),
        ("other_scores", r"returns \[2, 3072\] for 2 images \[N, 3, 32, 32\], not scores \[2, 5\]"),
        ("other_images", r"does not take images \[N, 3, 32, 32\]"),
        ("no_network", "returned int, not a torch.nn.Module"),
        ("Several", r"returns tuple for 2 images"),
        ("Pair", r"returns tuple for 2 images"),
        ("no_parameters", "cannot be trained: its scores do not depend on any parameter"),
        ("frozen", "cannot be trained: its scores do not depend on any parameter"),
        ("Whole", "cannot be trained: its scores do not depend on any parameter"),
        ("fails", r"raised TypeError: .* \(.*own_networks_.*\.py, line \d+\)$"),
        ("exits", r"raised SystemExit: 3 \(.*own_networks_.*\.py, line \d+\)$"),
    ],
)
def test_custom_that_is_no_network(own: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Custom(f"{own}:{name}").build(SHAPE, 5, batchnorm=False)
    assert "\n" not in str(caught.value)


def test_shapes_that_the_first_images_settle(own: str) -> None:
    """torch.nn's lazy layers, whose statistics the probing leaves as they were."""
    network = Custom(f"{own}:lazy").build(SHAPE, 5, batchnorm=False)
    assert count(network) == 3072 * 4 + 4 + 2 * 4 + 4 * 5 + 5
    assert int(network[2].num_batches_tracked) == 0
    assert torch.equal(network[2].running_var, torch.ones(4))


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_probing_leaves_weights_and_generators_alone(own: str) -> None:
    before = torch.get_rng_state()
    network = Custom(f"{own}:weight_norm").build(SHAPE, 5, batchnorm=False)
    drawn = torch.get_rng_state()
    torch.set_rng_state(before)
    plain = importlib.import_module(own).weight_norm(SHAPE, 5)
    assert torch.equal(torch.get_rng_state(), drawn)
    for mine, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("network", "fits"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5)), False),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5)), True),
    ],
)
def test_a_batch_of_one_image(network: nn.Module, fits: bool) -> None:
    images = torch.zeros(1, 3, 2, 2)
    if fits:
        require_single_images(network, images, 8)
        return
    with pytest.raises(UserError, match="use a batch_size other than 8 ") as caught:
        require_single_images(network, images, 8)
    assert "\n" not in str(caught.value)


def test_custom_module_that_is_not_there(own: str) -> None:
    with pytest.raises(UserError, match="there is no module absent_package"):
        Custom("absent_package.networks:factory").build(SHAPE, 5, batchnorm=False)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import absent_dependency", r"ModuleNotFoundError: .*absent_dependency.* \(.*, line 1\)$"),
        ("3 / 0", r"ZeroDivisionError: division by zero \(.*broken.*py, line 1\)$"),
        ("raise SystemExit(2)", r"SystemExit: 2 \(.*broken.*py, line 1\)$"),
        ("def broken(:", r"SyntaxError: .*, line 1\)$"),
        ("raise ValueError", r"raised ValueError \(.*, line 1\)$"),
    ],
)
def test_a_module_that_cannot_be_imported(own: str, tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / f"{own}_broken.py").write_text(f"{text}\n")
    with pytest.raises(UserError, match=f"importing {own}_broken .*{told}") as caught:
        Custom(f"{own}_broken:factory").build(SHAPE, 5, batchnorm=False)
    assert "\n" not in str(caught.value)


def test_the_way_out_is_one() -> None:
    googlenet, vit = Torchvision("googlenet", {"aux_logits": False}), Torchvision("vit_b_16")
    assert googlenet._way_out((3, 32, 32), "x") == ""
    assert vit._way_out((3, 8, 16), "x") == "; try model.options.image_size=8"
    assert Torchvision("vit_b_16", {"image_size": 32})._way_out((3, 32, 32), "x") == ""
