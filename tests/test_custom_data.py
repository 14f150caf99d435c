"""Arrays of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autol2.data import dataset as data
from autol2.data import memory
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


def changed(at: int, change: str, both: bool = False, **make_options: Any) -> Any:
    """What `make` returns, with the array at a place, and its test part's, made into another."""
    found = list(make(**make_options))
    for place in (at, at + 2) if both else (at,):
        found[place] = eval(change, {"x": found[place], "np": np, "torch": torch})
    return tuple(found)


def with_names(names: Any) -> Any:
    return (*make(), names)


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
        (
            custom("below_zero"),
            "returned labels from -1 to 1 as train_labels: they must count from 0",
        ),
        (custom("other_shapes"), "training images .* and test images .* of different shapes"),
        (custom(extra=1), "returned 3 test images and 4 labels"),
        (custom(count=0), "returned 0 training images and 0 labels"),
        (custom(classes=1), "returned 1 class: there must be at least 2"),
        (custom(names=["a", "b"]), "returned a label 2, but only 2 classes"),
        (custom("hungry"), "data=custom does not fit into memory: a data set must fit"),
        (
            custom("changed", at=0, change="np.empty((2**40, 3, 640, 640), np.uint8)"),
            r"data=custom does not fit into memory \(Unable to allocate 1.17 EiB",
        ),
        (
            custom("changed", at=0, change="(one for one in x)"),
            "returned generator as train_images",
        ),
        (custom("changed", at=2, change="None"), "returned NoneType as test_images, not an array"),
        (
            custom("changed", at=0, change="[x, x[:, :, :9]]"),
            "returned train_images that cannot be converted to an array: ",
        ),
        (
            custom("changed", at=0, change="torch.tensor(x).bfloat16()"),
            "returned train_images that cannot be converted to an array",
        ),
        (
            custom("changed", at=0, change="torch.tensor(x).to_sparse()"),
            "returned train_images that cannot be converted to an array",
        ),
        (custom("changed", at=0, change="x[:, :, :0]", both=True), "images must be uint8"),
        (custom("changed", at=1, change="x + 1", both=True), "no training image with label 0"),
        (custom("changed", at=1, change="2 * x", both=True), "no training image with label 1, but"),
        (custom("changed", at=1, change="x + 10**9 * (x == 2)"), "no training image with label 2"),
        (custom("changed", at=3, change="x + 1"), "returned a label 3, but only 3 classes"),
        (
            custom("changed", at=1, change="x.astype('u8') + np.uint64(2**64 - 2)"),
            r"labels from .* as train_lab",
        ),
        (custom("changed", at=1, change="np.eye(3)[x]"), r"float64 \[6, 3\] as train_labels"),
        (custom("changed", at=1, change="x == 1"), r"returned bool \[6\] as train_labels"),
        (custom("changed", at=1, change="x.astype(str)"), r"returned <U\d+ \[6\] as train_labels"),
        (custom(shape=(12, 12, 1)), "channels are last"),
        (custom(shape=(12, 12, 4)), "channels are last"),
        (custom("with_names", names="abc"), "returned str as class names"),
        (custom("with_names", names=3), "returned int as class names"),
        (custom("with_names", names=["a", "b", "b"]), "two classes with the same name"),
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


@pytest.mark.parametrize(
    "change",
    [
        "torch.tensor(x)",
        "list(x)",
        "x[:, ::-1, ::-1][:, ::-1, ::-1]",
        "np.broadcast_to(x, x.shape)",
        "np.ma.array(x)",
        "torch.nn.Parameter(torch.tensor(x), requires_grad=False)",
    ],
)
@pytest.mark.filterwarnings("error")
def test_whatever_holds_the_same_pixels(change: str) -> None:
    one = data.load(custom("changed", at=0, change=change))
    assert one.digest == data.load(custom()).digest
    one.train_images.add_(1)  # an array that may be written to


@pytest.mark.filterwarnings("error")
def test_a_file_that_is_mapped_has_to_fit_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "images.npy", make()[0])
    mapped = custom("changed", at=0, change=f"np.load('{tmp_path}/images.npy', mmap_mode='r')")
    assert data.load(mapped).digest == data.load(custom()).digest
    monkeypatch.setattr(memory, "available", lambda: 800)
    with pytest.raises(
        UserError, match=r"\[6, 1, 12, 12\] take 864 bytes and do not fit into the 8"
    ):
        data.load(mapped)


def test_few_channels_or_pixels_are_no_channels_last() -> None:
    for shape in ((3, 12, 4), (1, 12, 1), (64, 1, 1), (3, 4, 4)):
        assert data.load(custom(shape=shape)).train_images.shape[1:] == shape


def test_with_names_a_class_may_be_missing() -> None:
    from_one = {"at": 1, "change": "x + 1", "both": True}
    letters = data.load(custom("changed", **from_one, names=["n/a", "a", "b", "c"]))
    assert letters.train_labels.tolist() == [1, 2, 3, 1, 2, 3]
    with pytest.raises(UserError, match="without gaps, unless class names are given"):
        data.load(custom("changed", **from_one))
