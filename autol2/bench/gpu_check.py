"""Check that training works on this GPU: ``python -m autol2.bench.gpu_check``.

Run this first on a new machine, or use ``make gpu-check``. With ``hydra/launcher=submitit_slurm``
and the options of the launcher, the check runs on a GPU of the cluster. It trains the network for a
few epochs. The last line is PASS, or says how many checks failed; then report all lines.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from ..cli.command import command
from ..config import Config, PrecisionConfig, parse
from ..data.dataset import Dataset, load
from ..errors import UserError, first_line
from ..runs import checkpoint
from ..sweeps import command_job, sbatch
from ..sweeps.slurm_launcher import SlurmLauncher
from ..training import hardware
from ..training.trainer import Trainer
from .limits import machine_gflops, step_flops
from .timing import seconds

LAUNCHER = ("hydra/launcher=", "hydra.launcher.")
"""The prefixes of overrides that choose where the command runs."""
BOUND = 1e-3
"""Maximum relative difference between the weights on GPU and CPU after an epoch in fp32."""


@command("gpu_check")
def main(cfg: DictConfig) -> int:
    """Run the checks; return 0 if all of them passed, and 1 if any of them failed."""
    config = parse(cfg)
    if HydraConfig.get().runtime.choices["hydra/launcher"] != "basic":
        return _in_a_job(Path(config.outputs) / "gpu-check")
    device = hardware.prepare(config)
    print(f"device: {device}, {hardware.environment(device)['hardware']}")
    print(hardware.nvidia_smi()[0] or "nvidia-smi finds no GPU")
    print(f"PyTorch {torch.__version__}, for CUDA {torch.version.cuda or 'none'}")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="autol2-gpu-check-") as folder:
        try:
            for name, found in check(config, load(config.data), device, Path(folder)):
                failed += bool(found)
                print(f"{name}: {f'FAILED, {found}' if found else 'passed'}", flush=True)
        except UserError:
            raise
        except Exception as error:  # To find such errors is the purpose of the check.
            failed += 1
            print(f"a training: FAILED, {type(error).__name__}: {first_line(error)}", flush=True)
    print(f"FAILED: {failed} of the checks above; report all of these lines" if failed else "PASS")
    return int(failed > 0)


def _in_a_job(folder: Path) -> int:
    """Run the same command in a SLURM job, and return its exit status."""
    asked = HydraConfig.get()
    if not issubclass(get_class(asked.launcher._target_), SlurmLauncher):
        raise UserError("this check supports only SLURM's launcher: hydra/launcher=submitit_slurm")
    options = cast("dict[str, Any]", OmegaConf.to_container(asked.launcher, resolve=True))
    words = [word for word in sys.argv[1:] if not word.lstrip("+~").startswith(LAUNCHER)]
    command = [sys.executable, "-m", __spec__.name, *words]
    chosen = sbatch.without_rivals(
        sbatch.check(options), sbatch.named(asked.overrides.hydra, options)
    )
    return command_job.run(command, chosen, folder)


def check(
    config: Config, data: Dataset, device: torch.device, folder: Path
) -> Iterator[tuple[str, str]]:
    """Run the checks, and print the speed at the end.

    Yields:
        The name of each check and how it failed; the latter is empty if it passed.
    """
    runs = _Runs(data, folder)
    eager, recorded = (replace(config, cuda_graph=mode) for mode in ("off", "auto"))
    plain = fastest = runs.trained("eager", eager, device)
    if device.type == "cuda":
        graph = fastest = runs.trained("graph", recorded, device)
        assert graph.graph is not None
        refused = graph.graph.refused
        yield "CUDA graph", f"it was not used: {refused}" if refused else ""
        yield "CUDA graph, bits", _different(plain, graph)
    stopped = runs.stopped(recorded, device)
    yield "a resumed run, bits", _different(plain, stopped)
    yield "a resumed run, records", runs.different_records("eager", "stopped")
    if device.type == "cuda":
        once = replace(config, epochs=1, precision=PrecisionConfig("fp32"))
        hardware.prepare(once)  # This disables TF32.
        here = runs.trained("here", once, device)
        there = runs.trained("there", replace(once, device="cpu"), torch.device("cpu"))
        hardware.prepare(config)
        distance = _distance(here, there)
        yield (
            "GPU against CPU after an epoch",
            "" if distance < BOUND else f"weights differ by {distance:.1e}, bound {BOUND:g}",
        )
    print(_speed(fastest, config, data, device))


class _Runs:
    """Trains runs on one data set, each in a folder of its own."""

    def __init__(self, data: Dataset, folder: Path) -> None:
        self._data, self._folder = data, folder

    def trained(self, name: str, config: Config, device: torch.device) -> Trainer:
        """Train a run to its end, and return its trainer."""
        trainer = self._trainer(name, config, device)
        trainer.begin()
        self._go_on(trainer, trainer.steps)
        trainer.close()
        return trainer

    def stopped(self, config: Config, device: torch.device) -> Trainer:
        """Train a run that is saved halfway and resumed by a new trainer; return that trainer."""
        first = self._trainer("stopped", config, device)
        first.begin()
        self._go_on(first, first.steps // 2 + 1)
        checkpoint.save(first.folder, first.state_dict())
        first.close()
        second = self._trainer("stopped", config, device)
        state: dict[str, Any] = checkpoint.read(first.folder / checkpoint.NAME)
        second.load_state_dict(state)
        self._go_on(second, second.steps)
        second.close()
        return second

    def different_records(self, one: str, other: str) -> str:
        """Say which record files differ between two runs; empty if none do."""
        names = ("measurements.csv", "epochs.csv")
        differing = [
            name
            for name in names
            if (self._folder / one / name).read_bytes()
            != (self._folder / other / name).read_bytes()
        ]
        return f"{', '.join(differing)} differ" if differing else ""

    def _trainer(self, name: str, config: Config, device: torch.device) -> Trainer:
        (self._folder / name).mkdir(exist_ok=True)
        return Trainer(config, self._data, self._folder / name, device)

    @staticmethod
    def _go_on(trainer: Trainer, until: int) -> None:
        while trainer.step < until:
            trainer.train_step()
            if trainer.evaluation_pending:
                trainer.evaluate()


def _different(one: Trainer, other: Trainer) -> str:
    theirs = other.model.state_dict()
    names = [
        name
        for name, value in one.model.state_dict().items()
        if not torch.equal(value, theirs[name])
    ]
    return f"{len(names)} tensors differ, among them {names[0]}" if names else ""


def _distance(one: Trainer, other: Trainer) -> float:
    def weights(trainer: Trainer) -> torch.Tensor:
        flat = [parameter.detach().cpu().double().flatten() for parameter in trainer.parameters]
        return torch.cat(flat)

    return float((weights(one) - weights(other)).norm() / weights(other).norm())


def _speed(trainer: Trainer, config: Config, data: Dataset, device: torch.device) -> str:
    """Describe the speed: steps per second, GFLOP/s, and their share of the fastest product."""
    index = torch.arange(config.batch_size, device=device) % len(data.train_images)
    place = torch.zeros(1, dtype=torch.int64, device=device)
    numbers = trainer._drawn(config.batch_size)
    steps = 20 if device.type == "cuda" else 2
    trainer.model.train()

    def work() -> None:
        for _ in range(steps):
            trainer.gradients(index, numbers, place)
            trainer.optimizer.step()
            if trainer.graph is None:
                trainer.optimizer.zero_grad()

    work()
    per_step = seconds(work, device) / steps
    sides = data.train_images.shape[2:]
    gflops = step_flops(trainer.model, config.batch_size, sides) / per_step / 1e9
    best = max(machine_gflops(config, trainer.model, sides, 2).values())
    return (
        f"speed: {1 / per_step:.4g} steps a second, {gflops:.4g} GFLOP/s, {gflops / best:.0%} of "
        f"this device's fastest product"
    )


if __name__ == "__main__":
    main()
