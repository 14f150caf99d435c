"""The best constant λ for a number of steps, forecast from runs that were cheap.

Lewkowycz & Gur-Ari (2020, section 3.1) find that a network is at its best after t* = c/λ steps, as
long as the learning rate is constant, and that λ is best for a training of T steps where t* = T. So
a short run at a large λ tells c, and c/T is the λ for a long one.
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
"""Of the intervals."""
WITHIN = 0.5
"""Points of test accuracy below its best at which a run counts as being at its best."""
AROUND = 1.1
"""Factor around a step within which test accuracies are averaged: when the highest of noisy ones
came says more on the noise."""
BEFORE = 0.5
"""A run tells c where it is at its best before this share of its steps; later, it may not be."""
GUESSING = 1.5
"""A best accuracy below so many times that of guessing says that a run never learned."""
FEWEST = 3
"""Values of λ at one number of steps, from which a best one is said to be measured."""
FREE = ("seed", "epochs", "fixed_lambda", "evaluation")
"""Parts of a run's identity in which the runs of one forecast may differ."""


@dataclass(frozen=True)
class Peak:
    """When a run with a constant λ was at its best."""

    run_id: str
    context: str
    """A name for all that runs of one forecast have in common."""
    family: str
    """The same, whatever the learning rate."""
    seed: int
    lr: float
    constant_lr: bool
    """Whether the learning rate stayed as it is."""
    lambda_: float
    steps: int
    """Of the whole run."""
    length: int
    """Steps of an epoch."""
    time: int
    """t*: the step of the first evaluation that is about as good as the best, in accuracies that
    are averaged over the time around them."""
    best: float
    """Highest test accuracy in percent."""
    resolved: bool = True
    """Whether `time` can be told: the best is not the first evaluation, nor that of guessing."""

    def at_unit_lr(self) -> Peak:
        """The run as it would be at lr = 1, where only lr·λ counts."""
        return replace(self, lr=1.0, lambda_=self.lr * self.lambda_)

    @property
    def tells(self) -> bool:
        """Whether c can be had from it."""
        early = self.time <= BEFORE * self.steps
        return self.constant_lr and self.lambda_ > 0 and self.resolved and early


@dataclass(frozen=True)
class Fit:
    """t* = c/λ, in steps."""

    runs: int
    c: float
    low: float
    """Of the interval that another run's t*·λ lies in with 95 %; NaN below three runs."""
    high: float
    slope: float
    """Of log t* against log λ when it is left free, which c/λ takes to be −1; NaN for one λ."""
    slope_low: float
    """Of its 95 % interval; NaN below three λ."""
    slope_high: float

    @property
    def holds(self) -> bool:
        """Whether c/λ lies within what these runs allow for; True where they cannot tell.

        Two λ have no interval: there, the exponent has to be nearer to −1 than to 0 or −2.
        """
        if math.isnan(self.slope_low):
            return math.isnan(self.slope) or abs(self.slope + 1) < 0.5
        return not (self.slope_low > -1 + 1e-6 or self.slope_high < -1 - 1e-6)

    def lambda_(self, steps: int) -> tuple[float, float, float]:
        """The forecast for a training of `steps` steps: λ, and its interval."""
        return self.c / steps, self.low / steps, self.high / steps


@dataclass(frozen=True)
class Forecast:
    """The best λ for a number of steps, and what was measured."""

    context: str
    lr: float
    steps: int
    epochs: float
    lambda_: float
    low: float
    high: float
    runs: tuple[Peak, ...]
    """The runs that it is made from: shorter ones, where there are any."""
    measured: float
    """The λ with the best mean test accuracy of the runs of so many steps; NaN without runs."""
    tried: tuple[float, ...]
    """Values of λ that these runs had, rising."""

    @property
    def factor(self) -> float:
        """The forecast over what was measured."""
        return self.lambda_ / self.measured

    @property
    def foreseen(self) -> bool:
        """Whether it was made from shorter runs alone."""
        return all(run.steps < self.steps for run in self.runs)

    @property
    def at_edge(self) -> bool:
        """Whether the measured one is the lowest or highest tried: the best may lie beyond."""
        return self.measured in (*self.tried[:1], *self.tried[-1:])


def peak(record: Record, within: float) -> Peak | None:
    """When the run of `record` was at its best; None where it has no constant λ or has not ended.

    Args:
        record: the run.
        within: points of test accuracy below its best that count as its best.
    """
    state = record.state
    if fault(state):
        return None
    identity = state.get("identity") or {}
    options = flat(identity)
    unlike = flat(identity.get("control") or {})
    pulse = unlike.get("pulse_length", 0)
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
    """At each of the rising `steps`, the mean of the `accuracies` within a factor of `AROUND`."""
    first = np.searchsorted(steps, steps / AROUND)
    last = np.searchsorted(steps, steps * AROUND, "right")
    sums = np.concatenate([[0.0], np.cumsum(accuracies)])
    means: NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return means


def peaks(records: Iterable[Record], within: float = WITHIN) -> list[Peak]:
    """Of each run that has one; see `peak`."""
    found = (peak(record, within) for record in records)
    return [item for item in found if item is not None]


def fit(runs: Sequence[Peak]) -> Fit:
    """The c of t* = c/λ: the geometric mean of t*·λ over the runs.

    Raises:
        ValueError: there are none.
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
    """For each context that tells c: the best λ for the numbers of steps that it has runs of.

    Args:
        found: when the runs of a study were at their best.
        wanted: further numbers of steps.
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
    """The best λ for each number of steps that has enough of them, and all that were tried."""
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
