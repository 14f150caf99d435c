"""Random numbers, buffers and devices: what a run of a user's network depends on beside weights."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.optim import SGD

from autol2.config import Config
from autol2.data import downloaded
from autol2.data.dataset import Dataset, load
from autol2.data.decoding import pixels
from autol2.errors import UserError
from autol2.models import rng
from autol2.models.initialization import initialize
from autol2.models.mlp import MLP
from autol2.models.probe import probed, require_single_images
from autol2.models.torchvision_models import Torchvision
from autol2.models.wrn import WRN
from autol2.recipe.lr_schedules.cosine import Cosine
from autol2.recipe.lr_schedules.step import Step
from autol2.storage.files import to_json
from autol2.training import hardware
from autol2.training.graph import RecordedGradients
from autol2.training.trainer import Trainer

from .conftest import composed


def config(*words: str) -> Config:
    small = ["data=digits", "batch_size=64", "epochs=2"]
    return composed(*small, *words)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(config().data)


class Chancy(nn.Module):
    """Depth, noise and dropout drawn from three generators, and a buffer that nobody saves."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(shape[0] * shape[1] * shape[2], 8)
        self.again, self.last = nn.Linear(8, 8), nn.Linear(8, classes)
        self.noise = random.random()
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        found = self.first(images.flatten(1)).relu() + self.seen
        if self.training:
            self.seen = self.seen + 0.01
        if random.random() < 0.5:
            found = self.again(found).relu()
        found = found + self.noise * float(np.random.rand())
        return self.last(dropout(found, 0.5))


def build(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Chancy(shape, classes)


def trainer(folder: Path, digits: Dataset, *words: str) -> Trainer:
    folder.mkdir(exist_ok=True)
    cfg = config("method=fixed", "model=custom", f"model.target={__name__}:build", *words)
    return Trainer(cfg, digits, folder, torch.device("cpu"))


def steps(one: Trainer, count: int) -> None:
    for _ in range(count):
        one.train_step()


def records(one: Trainer) -> list[bytes]:
    one.flush()
    return [(one.folder / name).read_bytes() for name in ("measurements.csv", "epochs.csv")]


def test_a_network_with_generators_and_buffers_of_its_own(digits: Dataset, tmp_path: Path) -> None:
    """The same in two runs of one seed, and through a checkpoint on disk."""
    whole = trainer(tmp_path / "whole", digits)
    whole.begin()
    steps(whole, 7)
    whole.evaluate()
    random.seed(99)
    np.random.seed(99)
    half = trainer(tmp_path / "half", digits)
    half.begin()
    steps(half, 3)
    torch.save(half.state_dict(), tmp_path / "state.pt")
    half.close()
    random.seed(5)
    np.random.seed(5)
    rest = trainer(tmp_path / "half", digits)
    rest.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert float(rest.model.seen) == pytest.approx(0.03)
    steps(rest, 4)
    rest.evaluate()
    assert records(rest) == records(whole)
    for ours, theirs in zip(rest.parameters, whole.parameters, strict=True):
        assert torch.equal(ours, theirs)


def test_an_evaluation_that_is_given_up_draws_nothing(digits: Dataset, tmp_path: Path) -> None:
    found = []
    for given_up in (False, True):
        one = trainer(tmp_path / str(given_up), digits, "evaluation.batch_size=50")
        one.begin()
        steps(one, 3)
        asked = iter([False, True])
        if given_up:
            assert not one.evaluate(lambda: next(asked))  # noqa: B023
        assert one.evaluate()
        steps(one, 2)
        found.append(records(one))
    assert found[0] == found[1]


def test_the_generators_go_on_where_they_stood() -> None:
    rng.begin(3)
    random.gauss(0, 1)  # which keeps a second number
    np.random.randn()
    cpu = torch.device("cpu")
    known = torch.load(_saved(rng.state(cpu)), weights_only=True)

    def drawn() -> list[float]:
        return [random.gauss(0, 1), random.random(), np.random.randn(), float(torch.rand(()))]

    first = drawn()
    with rng.seeded(7):
        inside = drawn()
    second = drawn()
    rng.restore(known, cpu)
    assert drawn() == first
    assert drawn() == second
    with rng.seeded(7):
        assert drawn() == inside


def _saved(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


# ---------------------------------------------------------------- a GPU


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0", "cuda:1"])
def test_the_device_is_set_by_its_index(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """By torch's own `set_device`, which takes no device without one."""
    seen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", seen.append, raising=False)
    cfg = config("method=fixed", f"device={name}")
    kept = torch.backends.cudnn.deterministic
    try:
        assert hardware.prepare(cfg) == torch.device(f"cuda:{int(name == 'cuda:1')}")
    finally:
        torch.backends.cudnn.deterministic = kept
    assert seen == [int(name == "cuda:1")]


def test_gradients_are_forgotten_without_a_graph(digits: Dataset, tmp_path: Path) -> None:
    """Whatever the device, as with cuda_graph=off; a graph forgets them itself."""
    one = trainer(tmp_path / "one", digits)
    one.begin()
    for graph in (None, object()):
        one.graph = graph  # type: ignore[assignment]
        one.train_step()
        assert all(weight.grad is None for weight in one.parameters) == (graph is None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_memory_that_is_used_up(error: Exception, expected: bool) -> None:
    assert hardware.out_of_memory(error) == expected


def test_a_capture_that_fails_without_a_word() -> None:
    weight = nn.Parameter(torch.ones(2))
    said: list[str] = []

    def work(index: Tensor, numbers: Tensor, place: Tensor) -> None:
        weight.sum().backward()

    def record(*_: Any) -> Any:
        raise NotImplementedError

    graph = RecordedGradients(work, [weight], list, said.append, record)
    graph(torch.zeros(2, dtype=torch.int64), torch.zeros(2, 1), torch.zeros(1, dtype=torch.int64))
    assert weight.grad is not None
    assert "NotImplementedError" in said[0]


# ---------------------------------------------------------------- learning rates


def rates(schedule: Any, count: int, *lrs: float) -> list[list[float]]:
    optimizer = SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in lrs], lr=1)
    moved = schedule.build(optimizer, count)
    found = []
    for _ in range(count):
        found.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        moved.step()
    return [*found, [float(group["lr"]) for group in optimizer.param_groups]]


@pytest.mark.parametrize("warmup", [0.0, 0.2])
def test_each_group_keeps_its_share_under_cosine(warmup: float) -> None:
    found = rates(Cosine(final=0.1, warmup=warmup), 50, 0.04, 0.01)
    for one, other in found:
        assert one == pytest.approx(4 * other)
    assert found[-1] == pytest.approx([0.004, 0.001])
    alone = rates(Cosine(final=0.1, warmup=warmup), 50, 0.01)
    for (_, ours), (theirs,) in zip(found, alone, strict=True):
        assert ours == pytest.approx(theirs)


@pytest.mark.parametrize(
    ("count", "warmup", "first"),
    [(10, 0.05, 3), (11250, 0.05, 3375), (11250, 0.15, 3375), (30, 0.15, 9), (100, 0.0, 30)],
)
def test_milestones_are_shares_of_all_of_training(count: int, warmup: float, first: int) -> None:
    found = [one for (one,) in rates(Step(milestones=[0.3], factor=0.5, warmup=warmup), count, 1.0)]
    assert found[first - 1] == 1.0
    assert found[first] == 0.5


def test_a_warm_up_leaves_a_step() -> None:
    assert len(rates(Cosine(warmup=0.99), 10, 0.1)) == 11


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("made", [weight_norm, spectral_norm])
@pytest.mark.parametrize("initialization", ["published", "paper"])
def test_weights_that_are_made_of_others_are_drawn_anew(made: Any, initialization: str) -> None:
    plain, other = nn.Conv2d(3, 64, 5), made(nn.Conv2d(3, 64, 5))
    for layer in (plain, other):
        initialize(nn.Sequential(layer), initialization, seed=1)
    assert torch.equal(other.bias, plain.bias)
    if made is weight_norm:
        torch.testing.assert_close(other.weight, plain.weight)
    else:  # divided by its norm
        ratio = other.eval().weight / plain.weight
        assert float(ratio.std()) < 1e-3 * float(ratio.mean())


def test_networks_that_are_wrong_with_one_image() -> None:
    class Squeezes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3, 10)

        def forward(self, images: Tensor) -> Tensor:
            return self.last(images.mean((2, 3))[..., None].squeeze())

    with pytest.raises(UserError, match=r"returns \[10\] for 1 images .*, not scores \[1, 10\]"):
        probed(Squeezes(), "it", (3, 8, 8), 10)
    with pytest.raises(UserError, match=r"a single image, .*\(its scores are \[10\]"):
        require_single_images(Squeezes(), torch.zeros(1, 3, 8, 8), 8)

    class Fails(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise NotImplementedError

    with pytest.raises(UserError, match=r"a single image, .*NotImplementedError"):
        require_single_images(Fails(), torch.zeros(1, 3, 8, 8), 8)


def test_a_builder_that_asserts() -> None:
    one = Torchvision(builder="vit_b_16", options={"image_size": 28})
    with pytest.raises(UserError, match=r"model.builder=vit_b_16: "):
        one.build((3, 32, 32), 10, batchnorm=False)


@pytest.mark.parametrize(
    "made", [lambda: MLP(widths=[2**62]), lambda: WRN(width=10**18), lambda: WRN(depth=60004)]
)
def test_networks_that_no_machine_has_room_for(made: Any) -> None:
    with pytest.raises(UserError, match="must be at most"):
        made()


def test_a_package_that_fails_is_told_by_who_imports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autol2.runs.code import own_code

    (tmp_path / "badpkg_of_mine").mkdir()
    (tmp_path / "badpkg_of_mine" / "__init__.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    cfg = config("method=fixed", "model=custom", "model.target=badpkg_of_mine.net:f")
    assert own_code(cfg) == {}
    sys.modules.pop("badpkg_of_mine", None)


# ---------------------------------------------------------------- files


def _packed(format: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format, **how)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "damaged"),
    [
        ("a.webp", _packed("WEBP", quality=80), slice(-400, None)),
        ("b.webp", _packed("WEBP", lossless=True), slice(-400, None)),
    ],
)
def test_damage_in_packed_pictures(
    tmp_path: Path, name: str, content: bytes, damaged: slice
) -> None:
    whole, broken = tmp_path / name, tmp_path / f"broken{name}"
    whole.write_bytes(content)
    assert pixels(str(whole)).shape == (3, 40, 40)
    changed = bytearray(content)
    changed[damaged] = bytes(len(changed[damaged]))
    broken.write_bytes(bytes(changed))
    with pytest.raises(UserError, match="cannot read the image"):
        pixels(str(broken))


def test_a_checksum_that_libtiff_does_not_look_at(tmp_path: Path) -> None:
    """Wherever bytes are lost; Pillow would take some of these."""
    shades = 60 * np.random.default_rng(0).integers(0, 4, (40, 40, 3), dtype=np.uint8)
    file, taken = tmp_path / "a.tif", 0
    Image.fromarray(shades).save(file, compression="tiff_adobe_deflate")
    content = file.read_bytes()
    assert (pixels(str(file)) == shades.transpose(2, 0, 1)).all()
    for first in range(300, 1500, 100):
        changed = content[:first] + bytes(16) + content[first + 16 :]
        file.write_bytes(changed)
        with contextlib.suppress(Exception), Image.open(io.BytesIO(changed)) as image:
            image.load()
            taken += 1
        with pytest.raises(UserError, match="cannot read the image"):
            pixels(str(file))
    assert taken > 0


def test_names_that_are_not_utf_8_can_be_written() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    text = to_json({"place": f"/data/{name}/x", "kinds": {"a": [name]}})
    assert json.loads(text.encode()) == {
        "place": "/data/caf\\udce9/x",
        "kinds": {"a": ["caf\\udce9"]},
    }


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_data_that_cannot_be_read_are_not_to_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    from .images import source

    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(number, "no")

    one = source("cifar10", tmp_path)
    monkeypatch.setattr(type(one), "_part", refused)
    with pytest.raises(UserError, match="cannot be read: no") as caught:
        one._checked(tmp_path)  # type: ignore[attr-defined]
    assert "delete" not in str(caught.value)


def test_the_advice_to_delete_can_be_pasted(tmp_path: Path) -> None:
    from .images import source

    one = source("cifar10", tmp_path)
    said = str(downloaded.Downloaded._damaged(one, Path("/data/my files/x")))  # type: ignore[arg-type]
    assert "`rm -r '/data/my files/x'`" in said
