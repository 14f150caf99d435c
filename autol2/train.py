"""Train one run: ``python -m autol2.train method=combined alpha=5``.

Run the same command again and it resumes, or says that the run is finished.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from .cli import command
from .config import Config, parse
from .run import Run, summary


@command("config")
def main(cfg: DictConfig) -> int:
    """The Hydra entry point."""
    return train(parse(cfg), HydraConfig.get().overrides.task)


def train(config: Config, overrides: Sequence[str] = ()) -> int:
    """Do the run that `config` describes, unless it is done; the exit status (see `attempt`).

    Args:
        config: the run.
        overrides: what the user typed, for messages and run.json.
    """
    run = Run(config, overrides)
    if run.finished and not config.rerun:
        print(f"{run.folder}: already {summary(run.state)}; rerun=true does it over")
        return 0
    # Only now what takes seconds to import.
    from . import data, hardware
    from .attempt import attempt

    device = hardware.prepare(config)
    return attempt(run, data.load(config.data), device)


if __name__ == "__main__":
    main()
