"""Train one run: ``python -m autol2.train method=combined alpha=5``.

Run the same command again and it resumes, or says that the run is finished. Several values and -m
make a sweep of it: ``python -m autol2.train -m method=fixed,advance 'seed=range(5)'``.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from .cli.command import command
from .config import Config, parse
from .errors import UserError
from .runs.identity import unused
from .runs.run import Run, summary


@command("config")
def main(cfg: DictConfig) -> int:
    """The Hydra entry point."""
    overrides = HydraConfig.get().overrides
    if HydraConfig.get().mode == RunMode.RUN:
        for override in overrides.hydra:
            if override.startswith(("hydra.launcher", "hydra/launcher")):
                raise UserError(f"{override} is for a sweep: put -m after autol2.train")
    return train(parse(cfg), overrides.task)


def train(config: Config, overrides: Sequence[str] = ()) -> int:
    """Do the run that `config` describes, unless it is done; the exit status (see `attempt`).

    Args:
        config: the run.
        overrides: what the user typed, for messages and run.json.
    """
    run = Run(config, overrides)
    for group in unused(config, overrides):
        print(f"warning: method={config.method.name} does not use {group}")
    if run.finished and not config.rerun:
        _refuse_other_data(run)
        print(f"{run.folder}: already {summary(run.state)}; rerun=true does it over")
        return 0
    # Only now what takes seconds to import.
    from .data import dataset as data
    from .training import hardware
    from .training.attempt import attempt

    device = hardware.prepare(config)
    return attempt(run, data.load(config.data), device)


def _refuse_other_data(run: Run) -> None:
    """Refuse to pass off a result as that of other images, unless those are gone."""
    recorded, source = run.state["data"], run.config.data
    same_place = recorded["root"] == (str(source.place) if source.place else None)
    if same_place and source.place and not source.place.exists():
        return
    if not source.holds(recorded["digest"]):
        where = "which lay in the same folder" if same_place else f"those in {recorded['root']}"
        raise UserError(
            f"{run.folder} was made from other data, {where}: "
            f"give these another name with data.name=NAME"
        )


if __name__ == "__main__":
    main()
