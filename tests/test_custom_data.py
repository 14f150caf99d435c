"""Arrays of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autol2.data import dataset as data
from autol2.data.custom import Custom
from autol2.errors import UserError


def make(
    count: int = 6,
    shape: tuple[int, ...] = (1, 12, 12),
    dtype: str = "uint8",
    labels: str = "int64",
    classes: int = 3,
    names: list[str] | None = None,
    tensors: bool = False,
    extra: int = 0,
) -> Any:
    images = np.arange(count * np.prod(shape)).reshape(count, *shape).astype(dtype)
    kinds = (np.arange(count) % classes).astype(labels)
    found: Any = [images, kinds, images[: count // 2], kinds[: count // 2 + extra]]
    if tensors:
        found = [torch.from_numpy(one) for one in found]
    return (*found, names) if names else found


def fail() -> None:
    raise ZeroDivisionError("no\nluck")


def nothing() -> None:
    return None


def below_zero() -> Any:
    images, labels, *rest = make()
    return (images, labels - 1, *rest)


def other_shapes() -> Any:
    images, labels, _, test_labels = make()
    return images, labels, images[: len(test_labels), :, :9], test_labels


def hungry() -> None:
    raise MemoryError


def custom(name: str = "make", **options: Any) -> Custom:
    return Custom(target=f"{__name__}:{name}", options=options)


@pytest.mark.parametrize("tensors", [False, True])
def test_what_a_function_returns(tensors: bool) -> None:
    loaded = data.load(custom(tensors=tensors))
    assert loaded.train_images.shape == (6, 1, 12, 12)
    assert loaded.train_images.dtype == torch.uint8
    assert loaded.train_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert loaded.test_images.shape == (3, 1, 12, 12)
    assert loaded.classes == ("0", "1", "2")
    assert loaded.digest == data.load(custom()).digest
    assert data.load(custom(names=["a", "b", "c", "d"])).classes == ("a", "b", "c", "d")
    assert len(data.load(custom(labels="uint8")).classes) == 3


def test_target_and_options_count() -> None:
    known = [custom(), custom(count=8), custom("fail"), Custom(target="a:b", name="x")]
    assert len({str(one.identity()) for one in known}) == 4
    assert custom().holds(data.load(custom()).digest)
    assert not custom(count=8).holds(data.load(custom()).digest)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (custom("nothing"), "must return .train_images, train_labels, .* not NoneType"),
        (custom("fail"), r"raised ZeroDivisionError: no \(.*test_custom_data.py, line \d+\)"),
        (custom(no_such=1), "raised TypeError: .*no_such"),
        (
            custom(dtype="float32"),
            r"returned float32 \[6, 1, 12, 12\] as train_images: images must be",
        ),
        (
            custom(shape=(12, 12)),
            r"returned uint8 \[6, 12, 12\] as train_images: images must be uint8",
        ),
        (custom(labels="float64"), r"returned float64 \[6\] as train_labels: labels must be whole"),
        (custom("below_zero"), "returned a label below 0 in train_labels"),
        (custom("other_shapes"), "training images .* and test images .* of different shapes"),
        (custom(extra=1), "returned 3 test images and 4 labels"),
        (custom(count=0), "returned 0 training images and 0 labels"),
        (custom(classes=1), "returned 1 class: there must be at least 2"),
        (custom(names=["a", "b"]), "returned a label 2 and 2 classes"),
        (custom("hungry"), "data=custom does not fit into memory"),
        (custom("absent"), "has no function absent"),
        (Custom(target="no_such_module_here:f"), "there is no module no_such_module_here"),
    ],
)
def test_what_is_no_data_set(wrong: Custom, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        data.load(wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["", "name", "a.b", "a:b:c", "a b:c"])
def test_what_names_no_function(target: str) -> None:
    with pytest.raises(UserError, match=r"does not name a function: write data.target=package.mod"):
        Custom(target=target)


def test_prepare_does_not_call(tmp_path: Path) -> None:
    assert custom("fail").prepare() == ""
    with pytest.raises(UserError, match="has no function absent"):
        custom("absent").prepare()
