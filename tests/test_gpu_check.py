"""The check of a GPU, tried on the CPU: it passes, and it notices."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir

from autol2.bench import gpu_check
from autol2.cli.command import CONF
from autol2.data.dataset import Dataset, load
from autol2.training.trainer import Trainer

from .test_gpu_path import CPU, config


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(config().data)


def test_it_passes(digits, tmp_path, capsys) -> None:
    found = list(gpu_check.check(config(), digits, CPU, tmp_path))
    assert len(found) == 2
    assert not any(failure for _, failure in found)
    assert "steps a second" in capsys.readouterr().out


def test_it_notices_a_resume_that_differs(
    digits,
    tmp_path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load_state_dict = Trainer.load_state_dict

    def forgets(self: Trainer, state: dict) -> None:
        load_state_dict(self, state)
        self.parameters[0].data.mul_(1.0001)

    monkeypatch.setattr(Trainer, "load_state_dict", forgets)
    found = dict(gpu_check.check(config(), digits, CPU, tmp_path))
    assert "tensors differ" in found["a resumed run, bits"]
    assert found["a resumed run, records"] == "measurements.csv, epochs.csv differ"


def test_the_command_composes_and_passes(run_command) -> None:
    done = run_command("bench.gpu_check", "device=cpu", "epochs=1", "model.width=4", "threads=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("PASS\n")


def test_no_other_launcher(run_command) -> None:
    done = run_command("bench.gpu_check", "device=cpu", "hydra/launcher=submitit_local")
    assert done.returncode == 2
    assert done.stderr == (
        "error: this check supports only SLURM's launcher: hydra/launcher=submitit_slurm\n"
    )


def test_a_training_that_fails_is_a_check_that_failed(
    monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore of it")

    monkeypatch.setattr(gpu_check, "check", fails)
    monkeypatch.setattr(
        gpu_check.HydraConfig,
        "get",
        lambda: SimpleNamespace(runtime=SimpleNamespace(choices={"hydra/launcher": "basic"})),
    )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("gpu_check", ["data=digits", "device=cpu"])
    assert gpu_check.main.__wrapped__(cfg) == 1
    *_, line, last = capsys.readouterr().out.splitlines()
    error = "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert line == f"a training: FAILED, {error}"
    assert last.startswith("FAILED: 1 of the checks above")
