"""Train one run: ``python -m autol2.train method=combined alpha=5``.

Run the same command again and it resumes, or says that the run is finished. Several values and -m
make a sweep of it: ``python -m autol2.train -m method=fixed,advance 'seed=range(5)'``.
"""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from .cli.command import command
from .config import parse
from .errors import UserError
from .training.train import train


@command("config")
def main(cfg: DictConfig) -> int:
    """The Hydra entry point."""
    overrides = HydraConfig.get().overrides
    if HydraConfig.get().mode == RunMode.RUN:
        for override in overrides.hydra:
            if override.startswith(("hydra.launcher", "hydra/launcher")):
                raise UserError(f"{override} is for a sweep: put -m after autol2.train")
    return train(parse(cfg), overrides.task)


if __name__ == "__main__":
    main()
