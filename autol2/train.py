"""Train one run: ``python -m autol2.train method=combined alpha=5``.

Run the same command again to resume the run; if it is finished, the command says so. With -m and
several values it is a sweep: ``python -m autol2.train -m method=fixed,advance 'seed=range(5)'``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from .cli.command import command
from .cli.composition import as_typed, resolved, sources
from .config import parse
from .errors import UserError
from .training.train import train


@command("config", works=True)
def main(cfg: DictConfig) -> int:
    """Train the run that the configuration describes, and return the exit status."""
    chosen = HydraConfig.get()
    overrides = list(chosen.overrides.task)
    for override in chosen.overrides.hydra:
        if override.startswith(("hydra.launcher", "hydra/launcher", "hydra.sweeper", "hydra/sw")):
            raise UserError(f"{override} is for a sweep: put -m after autol2.train")
    _refuse_a_sweep(chosen.sweeper.params or {}, overrides)
    options = resolved(cfg, overrides)
    typed = [as_typed(word, options) for word in overrides]
    return train(parse(cfg), [*sources(chosen.overrides.hydra), *typed])


def _refuse_a_sweep(params: Mapping[str, str], overrides: Iterable[str]) -> None:
    """Raise an error if the chosen experiment sweeps over options that have no single value."""
    given = {word.partition("=")[0].lstrip("+").partition(".")[0] for word in overrides}
    open_ = [key for key in params if key.partition(".")[0] not in given]
    if open_:
        raise UserError(
            f"this experiment sweeps over {', '.join(open_)}: put -m after autol2.train, or give "
            f"each of them one value"
        )


if __name__ == "__main__":
    main()
