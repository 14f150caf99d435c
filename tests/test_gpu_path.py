"""What happens on a GPU, or where one is not to be had, as far as a CPU can show it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from autol2.cli.command import CONF, numbers_to_options
from autol2.config import Config, parse
from autol2.data.dataset import Dataset, load
from autol2.errors import UserError
from autol2.runs.run import Run
from autol2.training import attempt as attempts
from autol2.training import hardware, visible_gpus
from autol2.training.graph import RecordedGradients, rehearse
from autol2.training.trainer import Diverged, Trainer

from .conftest import composed

CPU = torch.device("cpu")


def config(*overrides: str) -> Config:
    small = ["data=digits", "model.width=4", "model.hidden=6", "batch_size=256", "epochs=2"]
    return composed(*small, *overrides)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(config().data)


def cannot(work: Callable[[], None], changes: Sequence[Tensor]) -> Callable[[], None]:
    """Found out when it is recorded, after what goes before it."""
    rehearse(work, changes)
    raise RuntimeError("operation not permitted when stream is capturing\nmore of it")


def lies(work: Callable[[], None], changes: Sequence[Tensor]) -> Callable[[], None]:
    """A recording of nothing, as of a stream of another device (pytorch#87794)."""
    rehearse(work, changes)
    return lambda: None


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (cannot, "RuntimeError: operation not permitted when stream is capturing"),
        (lies, "its first replay differs from the step itself"),
    ],
)
@pytest.mark.parametrize("batchnorm", ["on", "off"])
def test_a_recording_that_fails_is_done_without(
    digits: Dataset,
    tmp_path: Path,
    record: Callable[..., Callable[[], None]],
    why: str,
    batchnorm: str,
) -> None:
    cfg = config(f"batchnorm={batchnorm}", f"outputs={tmp_path}")
    plain = Trainer(cfg, digits, tmp_path, CPU)
    plain.begin()
    for _ in range(plain.steps):
        plain.train_step()
    plain.close()
    said: list[str] = []
    run = Run(cfg)
    with run.open():
        trainer = Trainer(cfg, digits, run.folder, CPU)
        trainer.graph = trainer.gradients = RecordedGradients(
            trainer._gradients, trainer.parameters, trainer.changing, said.append, record
        )
        assert attempts.Attempt(run, trainer).do() == 0
    assert len(said) == 1
    assert why in said[0]
    assert "\n" not in said[0]
    theirs = trainer.model.state_dict()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    state = json.loads((run.folder / "run.json").read_text())
    assert state["status"] == "completed"
    assert why in state["attempts"][-1]["cuda_graph"]


@pytest.mark.parametrize("method", ["fixed", "cosine"])
def test_rows_are_written_at_each_epochs_end_whatever_else_is_due(
    digits: Dataset, tmp_path: Path, method: str
) -> None:
    """Where measurements wait on the device: no checkpoint, no evaluation after the first epoch."""
    cfg = config(f"method={method}", "evaluation.every_epochs=2", "method.k=4")
    at_once, late = (tmp_path / name for name in ("at_once", "late"))
    for folder, reads_at_once in ((at_once, True), (late, False)):
        folder.mkdir()
        trainer = Trainer(cfg, digits, folder, CPU)
        trainer.reads_at_once = reads_at_once
        trainer.begin()
        for _ in range(trainer.steps_per_epoch):
            trainer.train_step()
        trainer.close()
    rows = (late / "measurements.csv").read_bytes()
    assert rows == (at_once / "measurements.csv").read_bytes()
    assert len(rows.splitlines()) == 2  # six steps, measured at the fourth


def test_a_loss_that_is_not_finite_is_noticed_at_the_epochs_end(
    digits: Dataset, tmp_path: Path
) -> None:
    cfg = config("method=fixed", "evaluation.every_epochs=2")
    trainer = Trainer(cfg, digits, tmp_path, CPU)
    trainer.reads_at_once = False
    trainer.begin()
    for _ in range(trainer.steps_per_epoch - 1):
        trainer.train_step()
    trainer.losses[5 - 1] = float("nan")
    with pytest.raises(Diverged, match="at step 5, "):
        trainer.train_step()


GIVEN = {"SLURM_JOB_GPUS": "0"}


SEEN = "echo 'X, 550.54'"
"""An nvidia-smi that sees a GPU."""
MISMATCH = "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18"
NOT_LOADED = "echo 'NVIDIA-SMI has failed because it could not reach the driver.' >&2; exit 9"
NOTHING = "echo 'No devices were found'; exit 6"
HAS_NO = "is built without CUDA: install PyTorch's cu126 wheel"


@pytest.mark.parametrize(
    ("environment", "cuda", "smi", "said"),
    [
        ({}, None, "", ""),
        ({"CUDA_VISIBLE_DEVICES": "0"}, None, "", "given a GPU (CUDA_VISIBLE_DEVICES=0), but this"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a"}, "13.0", "", "needs a driver for CUDA 13.0"),
        (GIVEN, None, "", "this job was given a GPU (SLURM_JOB_GPUS=0), but this PyTorch"),
        (GIVEN, "13.0", "", "needs a driver for CUDA 13.0"),
        ({"SLURM_STEP_GPUS": "0,1"}, None, "", "given a GPU (SLURM_STEP_GPUS=0,1)"),
        ({"SLURM_GPUS": "1"}, None, "", "given a GPU (SLURM_GPUS=1)"),
        ({"SLURM_GPUS_PER_NODE": "a100:2"}, None, "", "given a GPU (SLURM_GPUS_PER_NODE=a100:2)"),
        ({}, "13.0", SEEN, "X with driver 550.54, but PyTorch"),
        (
            {},
            "13.0",
            SEEN,
            "install PyTorch's cu126 wheel, which suits this driver (see https://pytorch.org); or",
        ),
        ({}, "13.0", "echo 'X, 470.82'", "install PyTorch's cu118 wheel, which"),
        ({}, "12.6", "echo 'X, 390.1'", "install PyTorch for your driver's CUDA, as https://py"),
        ({}, None, SEEN, HAS_NO),
        ({}, None, "echo 'X, 580.95'", "install PyTorch's cu130 wheel, which"),
        ({"CUDA_VISIBLE_DEVICES": "7"}, "13.0", SEEN, "'7' hides it"),
        ({**GIVEN, "CUDA_VISIBLE_DEVICES": "0"}, "13.0", SEEN, "needs a driver"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a"}, "13.0", SEEN, "needs a driver"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "13.0", SEEN, ""),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "13.0", SEEN, ""),
        ({"SLURM_GPUS_ON_NODE": "0"}, None, "", ""),
        ({"SLURM_GPUS_ON_NODE": "0", "SLURM_GPUS_PER_NODE": "1"}, None, "", ""),
        ({}, "13.0", MISMATCH, "does not work (Failed to initialize NVML: Driver/library version"),
        ({}, "13.0", NOT_LOADED, "could not reach the driver): restart the machine or reinstall"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "13.0", MISMATCH, "restart the machine or reinstall"),
        ({}, None, "echo 'X, 579.1'", "install PyTorch's cu126 wheel"),
        ({}, None, "echo 'X, 525.1'", "install PyTorch's cu126 wheel"),
        ({}, None, "echo 'X, 524.1'", "install PyTorch's cu118 wheel"),
        ({}, None, "echo 'X, 449.1'", "install PyTorch for your driver's CUDA"),
        ({}, None, "echo 'Failed to initialize NVML'; exit 12", "restart the machine or reinstall"),
        ({}, None, "echo 'Unable to determine the device handle'; exit 15", "restart the machine"),
        ({}, "13.0", NOTHING, ""),
        (GIVEN, "13.0", NOTHING, "this job was given a GPU (SLURM_JOB_GPUS=0), but PyTorch"),
    ],
)
def test_a_gpu_that_torch_does_not_see(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    cuda: str | None,
    smi: str,
    said: str,
) -> None:
    for name in hardware.GIVEN:
        monkeypatch.delenv(name, raising=False)
    if smi:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(hardware, "_is_on_the_bus", lambda: True)
    monkeypatch.setattr(visible_gpus, "_installed", lambda: [("0", "GPU-aaaa")])
    assert hardware.device(config("device=cpu")) == CPU
    if not said:
        assert hardware.device(config()) == CPU
        return
    with pytest.raises(UserError) as caught:
        hardware.device(config())
    assert said in str(caught.value)
    assert "device=cpu" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_driver_that_fails_where_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A login node whose image has the driver's tools."""
    for name in hardware.GIVEN:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{NOT_LOADED}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "_is_on_the_bus", lambda: False)
    assert hardware.device(config()) == CPU


def test_the_chosen_gpu_becomes_the_current_device(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert hardware.prepare(config("device=cuda:1")) == torch.device("cuda:1")
    assert chosen == [torch.device("cuda:1")]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
    ],
)
@pytest.mark.parametrize("when", ["build", "step"])
def test_memory_that_is_used_up(
    digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    when: str,
) -> None:
    def fails(*arguments: object) -> None:
        raise error

    if when == "build":
        monkeypatch.setattr(attempts, "Trainer", fails)
    else:
        monkeypatch.setattr(Trainer, "_gradients", fails)
    run = Run(config(f"outputs={tmp_path}"))
    with pytest.raises(UserError, match=r"batch_size.*network.*precision=bf16") as caught:
        attempts.attempt(run, digits, CPU)
    assert "\n" not in str(caught.value)
    state = json.loads((run.folder / "run.json").read_text())
    assert state["status"] == "failed"
    assert state["error"] == str(caught.value)


@pytest.mark.parametrize(
    ("capability", "built", "works"),
    [
        ((9, 0), ["sm_75", "sm_90"], True),
        ((8, 9), ["sm_75", "sm_86"], True),
        ((7, 0), ["sm_75", "sm_80", "sm_120"], False),
        ((12, 1), ["sm_90", "sm_120"], True),
        ((10, 0), ["sm_90a"], False),
        ((10, 0), ["sm_75", "compute_90"], True),
        ((7, 0), ["sm_75", "compute_75"], False),
        ((6, 0), [], True),
        ((9, 0), ["gfx90a"], True),
    ],
)
def test_a_gpu_that_this_pytorch_is_not_built_for(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], built: list[str], works: bool
) -> None:
    for name, value in (
        ("is_available", True),
        ("device_count", 1),
        ("get_device_capability", capability),
        ("get_arch_list", built),
        ("get_device_name", "Tesla X"),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    if works:
        assert hardware.device(config()) == torch.device("cuda:0")
        return
    with pytest.raises(UserError, match=r"Tesla X is an sm_\d+, which this PyTorch"):
        hardware.device(config("device=cuda:0"))


class Draws(torch.nn.Module):
    """Leaves a layer out by Python's generator."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.first = torch.nn.Linear(shape[0] * shape[1] * shape[2], classes)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.first(images.flatten(1))
        return scores * (2 if self.training and random.random() < 0.2 else 1)


class Replaces(torch.nn.Module):
    """Puts a new tensor in the place of its buffer."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.first = torch.nn.Linear(shape[0] * shape[1] * shape[2], classes)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.seen = self.seen + 1
        scores: Tensor = self.first(images.flatten(1))
        return scores


class Counts(Replaces):
    """Changes it in its place, and nobody saves it."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(shape, classes)
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.seen.add_(0.01)
        scores: Tensor = self.first(images.flatten(1))
        return scores * (1 + self.seen)


def own(name: str) -> Config:
    words = "data=digits", "model=custom", f"model.target={__name__}:{name}", "batch_size=100"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse(compose("config", numbers_to_options([*words, "epochs=2", "method=fixed"])))


def recorded(trainer: Trainer, said: list[str]) -> RecordedGradients:
    """As on a GPU, whose replay has no part for Python."""

    def record(work: Callable[[], None], changes: Sequence[Tensor]) -> Callable[[], None]:
        rehearse(work, changes)
        work()
        kept = [one.grad for one in trainer.parameters]

        def repeat() -> None:
            work()
            for parameter, gradient in zip(trainer.parameters, kept, strict=True):
                gradient.copy_(parameter.grad)
                parameter.grad = gradient

        return repeat

    return RecordedGradients(
        trainer._gradients, trainer.parameters, trainer.changing, said.append, record
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Draws", "the network draws random numbers on the CPU"),
        ("Replaces", "the network replaces its buffers by new tensors"),
    ],
)
def test_what_a_graph_cannot_repeat_is_done_without(
    digits: Dataset, tmp_path: Path, name: str, why: str
) -> None:
    found = []
    for with_graph in (False, True):
        folder = tmp_path / str(with_graph)
        folder.mkdir()
        said: list[str] = []
        trainer = Trainer(own(name), digits, folder, CPU)
        if with_graph:
            trainer.graph = trainer.gradients = recorded(trainer, said)
        trainer.begin()
        for _ in range(8):
            trainer.train_step()
        trainer.flush()
        found.append([weight.clone() for weight in trainer.parameters])
        assert [why in one for one in said] == [True] * with_graph
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_resumed_run_is_recorded_with_its_own_buffers(digits: Dataset, tmp_path: Path) -> None:
    """Those that a checkpoint brought; what recording does to them is undone."""
    said: list[str] = []

    def begun(folder: Path, state: dict[str, Any] | None = None) -> Trainer:
        folder.mkdir(exist_ok=True)
        trainer = Trainer(own("Counts"), digits, folder, CPU)
        trainer.graph = trainer.gradients = recorded(trainer, said)
        if state is None:
            trainer.begin()
        else:
            trainer.load_state_dict(state)
        return trainer

    whole = begun(tmp_path / "whole")
    for _ in range(8):
        whole.train_step()
    half = begun(tmp_path / "half")
    for _ in range(4):
        half.train_step()
    state = half.state_dict()
    half.close()
    rest = begun(tmp_path / "half", state)
    for _ in range(4):
        rest.train_step()
    assert said == []
    assert float(rest.model.seen) == pytest.approx(0.08)
    for one, other in zip(rest.parameters, whole.parameters, strict=True):
        assert torch.equal(one, other)


def test_an_amd_gpu_wants_rocm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in hardware.GIVEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_GPUS", "1")
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/dev/kfd" or exists(path))
    assert "install PyTorch for ROCm, as https://pytorch.org says" in hardware.unseen_gpu()
