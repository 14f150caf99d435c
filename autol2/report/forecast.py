"""Forecasts the best constant λ for a number of steps from cheap runs.

Lewkowycz & Gur-Ari (2020, section 3.1) find that, at a constant learning rate, a network reaches
its best test accuracy after t* = c/λ steps, and that the best λ for T steps is the one with t* = T.
A short run at a large λ therefore determines c, and c/T is the best λ for a long run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ..runs.identity import digest, flat
from ..sweeps.study import Record
from .faults import fault
from .speed import lr_stays

LEVEL = 0.95
"""Confidence level of the intervals."""
WITHIN = 0.5
"""Points below its best test accuracy at which a run already counts as being at its best."""
AROUND = 1.1
"""Factor around a step within which test accuracies are averaged.

Without averaging, the step of the highest accuracy would depend mostly on noise.
"""
BEFORE = 0.5
"""Share of the steps before which a run must be at its best, to be used for c."""
GUESSING = 1.5
"""Multiple of chance level that the best accuracy of a run must exceed to count as learning."""
FEWEST = 3
"""Minimum number of values of λ at one number of steps for the best one to count as measured."""
FREE = ("seed", "epochs", "fixed_lambda", "evaluation")
"""Parts of the identity in which the runs of one forecast may differ."""


@dataclass(frozen=True)
class Peak:
    """The time at which a run with a constant λ reached its best test accuracy."""

    run_id: str
    context: str
    """A digest of the options that all runs of one forecast have in common."""
    family: str
    """Like `context`, but without the learning rate."""
    seed: int
    lr: float
    constant_lr: bool
    """Whether the learning rate was constant."""
    lambda_: float
    steps: int
    """Number of steps of the whole run."""
    length: int
    """Number of steps per epoch."""
    time: int
    """t*: the step of the first evaluation whose averaged accuracy is close to the best."""
    best: float
    """Highest test accuracy in percent."""
    resolved: bool = True
    """Whether `time` is reliable.

    It is not if it is that of the first evaluation, or if the run is not much better than chance.
    """

    def at_unit_lr(self) -> Peak:
        """Return an equivalent run at lr = 1, since only the product lr·λ matters."""
        return replace(self, lr=1.0, lambda_=self.lr * self.lambda_)

    @property
    def tells(self) -> bool:
        """Whether the run can be used to determine c."""
        early = self.time <= BEFORE * self.steps
        return self.constant_lr and self.lambda_ > 0 and self.resolved and early


@dataclass(frozen=True)
class Fit:
    """A fit of t* = c/λ, with t* in steps."""

    runs: int
    """The number of runs."""
    c: float
    """The constant c."""
    low: float
    """Lower end of the 95 % prediction interval for t*·λ of another run; NaN below three runs."""
    high: float
    """Upper end of that interval."""
    slope: float
    """Slope of a free fit of log t* against log λ; −1 if the law holds, and NaN for a single λ."""
    slope_low: float
    """Lower end of the 95 % interval of the slope; NaN below three values of λ."""
    slope_high: float
    """Upper end of that interval."""

    @property
    def holds(self) -> bool:
        """Whether the runs are compatible with t* = c/λ; True if there is a single value of λ.

        There is no interval for two values of λ; the slope must then be closer to −1 than to 0 or
        −2.
        """
        if math.isnan(self.slope_low):
            return math.isnan(self.slope) or abs(self.slope + 1) < 0.5
        return not (self.slope_low > -1 + 1e-6 or self.slope_high < -1 - 1e-6)

    def lambda_(self, steps: int) -> tuple[float, float, float]:
        """Return the best λ for `steps` steps, and the lower and upper end of its interval."""
        return self.c / steps, self.low / steps, self.high / steps


@dataclass(frozen=True)
class Forecast:
    """A forecast of the best λ for a number of steps, and the measured one."""

    context: str
    lr: float
    steps: int
    epochs: float
    lambda_: float
    low: float
    high: float
    runs: tuple[Peak, ...]
    """The runs that the forecast is based on: only shorter ones if there are any."""
    measured: float
    """The λ whose runs with this number of steps have the highest mean of `Peak.best`; NaN if fewer
    than `FEWEST` values were tried."""
    tried: tuple[float, ...]
    """The values of λ of these runs, in increasing order; empty if `measured` is NaN."""

    @property
    def factor(self) -> float:
        """The forecast λ divided by the measured one."""
        return self.lambda_ / self.measured

    @property
    def foreseen(self) -> bool:
        """Whether the forecast is based only on shorter runs."""
        return all(run.steps < self.steps for run in self.runs)

    @property
    def at_edge(self) -> bool:
        """Whether the measured λ is the lowest or highest one tried, so that a better may exist."""
        return self.measured in (*self.tried[:1], *self.tried[-1:])


def peak(record: Record, within: float) -> Peak | None:
    """Find when a run reached its best test accuracy.

    Args:
        record: the run.
        within: the points below its best test accuracy at which it already counts as its best.

    Returns:
        The peak; None if the run has no constant λ, is not completed, or has unreadable records.
    """
    state = record.state
    if fault(state):
        return None
    identity = state.get("identity") or {}
    options = flat(identity)
    pulse = options.get("control.pulse_length", 0)
    if state.get("status") != "completed" or options.get("method.name") != "fixed" or pulse:
        return None
    numbers = [options.get(name) for name in ("lr", "epochs", "fixed_lambda.value")]
    if not all(name is not None and math.isfinite(float(name)) for name in numbers):
        return None
    names = ["epoch", "step", "test_accuracy"]
    try:
        rows = pd.read_csv(record.folder / "epochs.csv", usecols=names).astype(float)
    except (OSError, ValueError):
        return None
    length = int(state["steps_per_epoch"])
    steps = (rows["epoch"] * length + rows["step"]).to_numpy()
    accuracies = rows["test_accuracy"].to_numpy()
    rise = np.diff(steps, prepend=0.0) > 0
    if rows.empty or not (rise.all() and np.isfinite(accuracies).all()):
        return None
    best = float(accuracies.max())
    smooth = _smooth(steps, accuracies)
    first = int(np.argmax(smooth >= smooth.max() - within))
    guessing = 100 / ((state.get("data") or {}).get("classes") or math.inf)
    common = {name: value for name, value in identity.items() if name not in FREE}
    return Peak(
        run_id=record.run_id,
        context=digest(common),
        family=digest({name: value for name, value in common.items() if name != "lr"}),
        seed=int(options["seed"]),
        lr=float(options["lr"]),
        constant_lr=lr_stays(options),
        lambda_=float(options["fixed_lambda.value"]),
        steps=int(options["epochs"]) * length,
        length=length,
        time=int(steps[first]),
        best=best,
        resolved=first > 0 and best > GUESSING * guessing,
    )


def _smooth(steps: NDArray[np.float64], accuracies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the `accuracies` around each of the increasing `steps`, within a factor `AROUND`."""
    first = np.searchsorted(steps, steps / AROUND)
    last = np.searchsorted(steps, steps * AROUND, "right")
    sums = np.concatenate([[0.0], np.cumsum(accuracies)])
    means: NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return means


def peaks(records: Iterable[Record], within: float = WITHIN) -> list[Peak]:
    """Return the `peak` of each run that has one."""
    found = (peak(record, within) for record in records)
    return [item for item in found if item is not None]


def fit(runs: Sequence[Peak]) -> Fit:
    """Fit t* = c/λ, where c is the geometric mean of t*·λ over the runs.

    Raises:
        ValueError: if there are no runs.
    """
    if not runs:
        raise ValueError("no run tells c")
    lambdas = np.log([run.lambda_ for run in runs])
    times = np.log([run.time for run in runs])
    products = lambdas + times
    mean, n = float(products.mean()), len(products)
    half = math.nan
    if n > 2:
        spread = float(products.std(ddof=1)) * math.sqrt(1 + 1 / n)
        half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * spread
    slope = reach = math.nan
    values = len(np.unique(lambdas))
    if values > 1:
        line = stats.linregress(lambdas, times)
        slope = float(line.slope)
        if values > 2:
            reach = float(line.stderr) * float(stats.t.ppf((1 + LEVEL) / 2, n - 2))
    low, high = math.exp(mean - half), math.exp(mean + half)
    return Fit(n, math.exp(mean), low, high, slope, slope - reach, slope + reach)


def forecasts(found: Sequence[Peak], wanted: Iterable[int] = ()) -> list[Forecast]:
    """Forecast the best λ for each context that determines c.

    There is a forecast for each number of steps for which the best λ has been measured.

    Args:
        found: the peaks of the runs of a study.
        wanted: other numbers of steps to make a forecast for.
    """
    made = []
    for context in dict.fromkeys(item.context for item in found):
        runs = [item for item in found if item.context == context]
        telling = [run for run in runs if run.tells]
        if not telling:
            continue
        measured = best_lambdas(runs)
        for steps in sorted({*measured, *wanted}):
            chosen = tuple(run for run in telling if run.steps < steps) or tuple(telling)
            value, low, high = fit(chosen).lambda_(steps)
            best, tried = measured.get(steps, (math.nan, ()))
            lr, epochs = runs[0].lr, steps / runs[0].length
            made.append(Forecast(context, lr, steps, epochs, value, low, high, chosen, best, tried))
    return made


def best_lambdas(runs: Sequence[Peak]) -> Mapping[int, tuple[float, tuple[float, ...]]]:
    """Return the best λ and all λ that were tried, for each number of steps with enough of them."""
    frame = pd.DataFrame(
        [{"steps": run.steps, "lambda": run.lambda_, "best": run.best} for run in runs]
    )
    found = {}
    for steps, some in frame.groupby("steps"):
        means = some.groupby("lambda")["best"].mean()
        tried = tuple(means.index.to_numpy(float).tolist())
        if len(tried) >= FEWEST:
            found[int(str(steps))] = tried[int(means.argmax())], tried
    return found
