"""Forecast the best constant λ for a number of epochs: ``python -m autol2.forecast study=NAME``.

A run at a large λ reaches its best test accuracy early, after t* = c/λ steps. The command fits c to
such cheap runs of the study, forecasts the best λ for longer runs, and compares the forecast with
longer runs if there are any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from .cli.command import command
from .config import parse_as, study_name
from .errors import UserError, require
from .report.forecast import BEFORE, WITHIN, Fit, Forecast, Peak, fit, forecasts, peaks
from .sweeps.study import find, records


@dataclass
class ForecastConfig:
    """The options of the command."""

    study: str | None = None
    """Name of the study; by default, the one that was changed last."""
    outputs: str = "outputs"
    """Folder in which studies are stored."""
    epochs: int | None = None
    """Number of epochs to forecast the best λ for, in addition to the study's training lengths."""
    within: float = WITHIN
    """A run counts as being at its best once its test accuracy (averaged over a tenth of the time
    around) is at most this many points below its maximum."""

    def __post_init__(self) -> None:
        if self.study is not None:
            study_name(self.study)
        require(
            self.epochs is None or self.epochs >= 1, f"epochs must be at least 1, not {self.epochs}"
        )
        require(
            math.isfinite(self.within) and self.within >= 0,
            f"within must be at least 0 points, not {self.within:g}",
        )


@command("forecast")
def main(cfg: DictConfig) -> None:
    """Print the forecasts for the study that the configuration names."""
    config = parse_as(ForecastConfig, cfg)
    study = find(Path(config.outputs), config.study)
    console = Console(highlight=False, soft_wrap=True)
    found = peaks(records(study), config.within)
    telling = [item for item in found if item.tells]
    if not telling:
        raise UserError(_why_not(study.name, found))
    for context in dict.fromkeys(run.context for run in telling):
        runs = [run for run in telling if run.context == context]
        console.print(said(fit(runs), runs), markup=False)
        wanted = {config.epochs * runs[0].length} if config.epochs else set()
        rows = forecasts([item for item in found if item.context == context], wanted)
        if rows:
            console.print(_table(rows))
        else:
            console.print("for a forecast: python -m autol2.forecast epochs=N", markup=False)


def said(known: Fit, runs: list[Peak]) -> str:
    """Describe in one line the fit of t* = c/λ to the cheap runs."""
    lambdas = sorted({run.lambda_ for run in runs})
    between = f"{lambdas[0]:g}" + f" to {lambdas[-1]:g}" * (len(lambdas) > 1)
    text = f"lr {runs[0].lr:g}: t* = c/λ with c = {known.c:.3g} steps"
    if not math.isnan(known.low):
        text += f" (95 %: {known.low:.3g} to {known.high:.3g})"
    else:
        text += " (an interval needs at least three runs)"
    text += f", from {known.runs} run{'s' * (known.runs > 1)} at λ = {between}"
    if not math.isnan(known.slope):
        text += f"; with a free exponent, t* is proportional to λ^{known.slope:.2f}"
    if not math.isnan(known.slope_low):
        text += f" ({known.slope_low:.2f} to {known.slope_high:.2f})"
    if not known.holds:
        text += ": t* = c/λ does not hold here, so do not rely on the forecast"
    return text


def _table(rows: list[Forecast]) -> Table:
    table = Table(
        *("epochs", "best λ, forecast", "95 %", "from", "best λ, measured", "forecast / measured")
    )
    for row in rows:
        edge = ", at the edge" * row.at_edge
        known = not math.isnan(row.measured)
        table.add_row(
            f"{row.epochs:g}",
            f"{row.lambda_:.2g}",
            "" if math.isnan(row.low) else f"{row.low:.2g} to {row.high:.2g}",
            _source(row),
            f"{row.measured:g} (of {len(row.tried)} tried{edge})" if known else "",
            f"{row.factor:.2g}" if known else "",
        )
    return table


def _source(row: Forecast) -> str:
    """Describe the runs that a forecast is based on, as in ``2 runs of 5 epochs``."""
    epochs = sorted({run.steps / run.length for run in row.runs})
    lengths = f"{epochs[0]:g}" + f" to {epochs[-1]:g}" * (len(epochs) > 1)
    kind = "" if row.foreseen else ", none shorter"
    return f"{len(row.runs)} run{'s' * (len(row.runs) > 1)} of {lengths} epochs{kind}"


def _why_not(study: str, found: list[Peak]) -> str:
    if not found:
        return (
            f"{study} has no completed run of method=fixed: a forecast needs short runs at large "
            f"λ, as in fixed_lambda=1e-2,2e-2"
        )
    if not any(item.constant_lr for item in found):
        return (
            f"in {study} no learning rate is constant, but t* = c/λ holds only for a constant one: "
            f"add runs with lr_schedule=constant"
        )
    return (
        f"in {study} no run that learns is at its best before {BEFORE:.0%} of its steps and after "
        f"the first evaluation: add runs at a larger λ, longer runs, or evaluation.every_steps=10"
    )


ConfigStore.instance().store(name="forecast_schema", node=ForecastConfig)

if __name__ == "__main__":
    main()
