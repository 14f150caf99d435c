"""What happens on a GPU, or where one is not to be had, as far as a CPU can show it."""

from __future__ import annotations

import json
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
from autol2.training import hardware
from autol2.training.graph import RecordedGradients, rehearse
from autol2.training.trainer import Diverged, Trainer

CPU = torch.device("cpu")


def config(*overrides: str) -> Config:
    small = ["data=digits", "model.width=4", "model.hidden=6", "batch_size=256", "epochs=2"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse(compose("config", numbers_to_options([*small, *overrides])))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(config().data)


def cannot(work: Callable[[], None], changes: Sequence[Tensor]) -> Callable[[], None]:
    raise RuntimeError("operation not permitted when stream is capturing\nmore of it")


def lies(work: Callable[[], None], changes: Sequence[Tensor]) -> Callable[[], None]:
    """A recording of nothing, as of a stream of another device (pytorch#87794)."""
    rehearse(work, changes)
    return lambda: None


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (cannot, "RuntimeError: operation not permitted when stream is capturing"),
        (lies, "its first repetition differs from the step itself"),
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
            trainer._gradients, trainer.parameters, trainer.changing(), said.append, record
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


@pytest.mark.parametrize(
    ("environment", "cuda", "smi", "said"),
    [
        ({}, None, "", ""),
        ({"CUDA_VISIBLE_DEVICES": "0"}, None, "", ""),
        (GIVEN, None, "", "this job was given a GPU (SLURM_JOB_GPUS=0), but this PyTorch"),
        (GIVEN, "13.0", "", "needs a driver for CUDA 13.0"),
        ({}, "13.0", "there is a GPU, X with driver 525", "X with driver 525, but PyTorch"),
        ({}, None, "there is a GPU, X with driver 525", "is built without CUDA: install one"),
        ({"CUDA_VISIBLE_DEVICES": "7"}, "13.0", "there is a GPU, X", "'7' hides it"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "13.0", "there is a GPU, X", ""),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "13.0", "there is a GPU, X", ""),
        ({"SLURM_GPUS_ON_NODE": "0"}, None, "", ""),
    ],
)
def test_a_gpu_that_torch_does_not_see(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    cuda: str | None,
    smi: str,
    said: str,
) -> None:
    for name in (*hardware.SLURM_GPUS, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(hardware, "nvidia_smi", lambda: smi)
    assert hardware.device(config("device=cpu")) == CPU
    if not said:
        assert hardware.device(config()) == CPU
        return
    with pytest.raises(UserError) as caught:
        hardware.device(config())
    assert said in str(caught.value)
    assert "device=cpu" in str(caught.value)
    assert "\n" not in str(caught.value)


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
