"""The λ rules (paper, Algorithms 1 to 4): measurements in, decisions with their reasons out.

λ multiplies the sum of squares of *all* parameters, with no factor ½: the penalty is λ·Σθ², which
for SGD is a weight decay of 2λ. (Lewkowycz & Gur-Ari, 2020, write ½λ‖θ‖².) Loss means a batch's
mean cross-entropy without the penalty, accuracy is its accuracy in percent, error 100 − accuracy.

The paper's text, its pseudo-code and the code behind its figures disagree. Each is a *protocol*:

published
    What drew the figures. Compares accuracies; ties count as worse and as better; either signal
    may hold at either of the two measurements; the clock of the cool-down falls back to 0 at each
    epoch.
pseudocode
    Algorithms 1 to 4 as printed. Strict comparisons; the same signal at both measurements. With
    raising, the minimum is still ∞ at the second measurement, so λ rises until training diverges.
corrected
    What the text means: as pseudocode, but the minimum starts at the first measurement, takes in
    every one after it has been compared, and λ has an upper bound.

Plain Python: no tensors, no files. A measurement costs the same however many came before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Method = Literal["fixed", "auto_l2", "threshold", "advance", "combined"]
Protocol = Literal["published", "pseudocode", "corrected"]
Event = Literal["none", "decayed", "raised"]

LAMBDA_MAX = 10.0
"""The upper bound of λ under corrected, unless a rule says otherwise."""

METHODS = ("fixed", "auto_l2", "threshold", "advance", "combined")
PROTOCOLS = ("published", "pseudocode", "corrected")


@dataclass(frozen=True)
class Rule:
    """Which rule, with which constants. The paper's values are the defaults.

    Raises:
        ValueError: a constant makes no sense.
    """

    method: str
    """fixed, auto_l2 (Algorithm 1), threshold (2), advance (3) or combined (4)."""
    protocol: str = "published"
    """published, pseudocode or corrected."""
    alpha: float = 0.0
    """The threshold α in percent; counts as 0 in methods that have none."""
    fixed_lambda: float = 0.0
    """λ of the method fixed."""
    initial_lambda: float = 0.1
    """λ at the first step of an adaptive method."""
    decay_factor: float = 0.1
    """λ is multiplied by it when it decays, divided by it when it is raised."""
    cooldown: float = 0.1
    """After a change to λ, it rests for ``cooldown / λ`` steps."""
    lambda_min: float = 0.0
    """λ of an adaptive method never falls below this."""
    lambda_max: float | None = None
    """λ of an adaptive method never rises above this. None becomes 10 under corrected and ∞ under
    the other protocols, which have no bound."""
    raise_when_converged: int = 0
    """Raise λ after this many measurements in a row without a new minimum of loss or error (the
    paper's future work); 0 never does. The count goes on during the cool-down, but λ rises only
    outside of it and where the measurement changes λ in no other way. Each change of λ, whatever
    made it, starts the count anew."""

    def __post_init__(self) -> None:
        highest = self.lambda_max
        if highest is None:
            highest = LAMBDA_MAX if self.protocol == "corrected" else math.inf
            object.__setattr__(self, "lambda_max", highest)
        checks = {
            f"method must be one of {', '.join(METHODS)}": self.method in METHODS,
            f"protocol must be one of {', '.join(PROTOCOLS)}": self.protocol in PROTOCOLS,
            "alpha must be a percentage of at least 0": 0 <= self.alpha < math.inf,
            "fixed_lambda must be at least 0": 0 <= self.fixed_lambda < math.inf,
            "initial_lambda must be at least 0": 0 <= self.initial_lambda < math.inf,
            "decay_factor must lie between 0 and 1": 0 < self.decay_factor < 1,
            "cooldown must be at least 0": 0 <= self.cooldown < math.inf,
            "lambda_min must be at least 0": 0 <= self.lambda_min < math.inf,
            "lambda_max must be at least lambda_min": highest >= self.lambda_min,
            "raise_when_converged must be at least 0": self.raise_when_converged >= 0,
        }
        for message, holds in checks.items():
            if not holds:
                raise ValueError(message)

    @property
    def ratio(self) -> float:
        """r = 1 + α/100, 1 in methods without a threshold."""
        return 1 + self.alpha / 100 if self.method in ("threshold", "combined") else 1.0

    def bounded(self, lambda_: float) -> float:
        """`lambda_`, or the bound that it lies beyond."""
        assert self.lambda_max is not None
        return min(max(lambda_, self.lambda_min), self.lambda_max)

    @property
    def raises(self) -> bool:
        """Whether λ may also rise when loss or error gets better."""
        return self.method in ("advance", "combined")


@dataclass(frozen=True)
class Decision:
    """What a measurement led to."""

    lambda_: float
    """λ from the next step on."""
    event: Event
    """Whether λ decayed, was raised, or neither."""
    reason: str
    """Why, in a sentence with the figures that decided."""


@dataclass(frozen=True)
class _Measurement:
    loss: float
    accuracy: float

    @property
    def error(self) -> float:
        return 100.0 - self.accuracy

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.accuracy)


_NOTHING = _Measurement(math.inf, -math.inf)
"""The minimum, and the previous measurement, before there is one."""


class Controller:
    """Decides λ from the measurements of a training run, in order.

    Args:
        rule: the rule.

    Attributes:
        rule: the rule.
        lambda_: λ of the next step.
    """

    measures = True

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        if rule.method == "fixed":
            self.lambda_ = rule.fixed_lambda
        else:
            self.lambda_ = rule.bounded(rule.initial_lambda)
        self._count = 0
        self._minimum = _NOTHING
        self._previous = _NOTHING
        self._rests_until = 0.0
        self._best = _NOTHING
        self._stale = 0

    def measure(self, loss: float, accuracy: float, step: int, epoch_step: int) -> Decision:
        """Take in the measurement of a step, made with the present λ.

        Args:
            loss: mean training loss of the step's batch, without the penalty.
            accuracy: training accuracy of the step's batch in percent.
            step: the step, counted from 1 over the whole run.
            epoch_step: the step, counted from 1 within its epoch.

        Returns:
            λ from the next step on, and why.
        """
        if self.rule.method == "fixed":
            return Decision(self.lambda_, "none", "λ is fixed")
        now = _Measurement(loss, accuracy)
        self._count += 1
        self._track_convergence(now)
        if self.rule.protocol == "published":
            decision = self._published(now, epoch_step - 1)
        elif self.rule.protocol == "pseudocode":
            decision = self._pseudocode(now, step)
        else:
            decision = self._corrected(now, step)
        self._previous = now
        return decision

    def lambda_at(self, step: int) -> float:
        """λ of the next step; see `autol2.rules.method.LambdaPolicy`."""
        return self.lambda_

    @property
    def before_update(self) -> bool:
        """Whether a step is measured before its update; see `autol2.rules.method.LambdaPolicy`."""
        return self.rule.protocol == "original"

    def observe(self) -> None:
        """Nothing: λ is set; see `autol2.rules.method.LambdaPolicy`."""

    # ------------------------------------------------------------ protocols

    def _published(self, now: _Measurement, clock: int) -> Decision:
        decision = self._stay(clock)
        if self._count <= 2:
            self._take_in(self._previous)
            return decision
        cooling = clock <= self._rests_until
        if not cooling:
            if why := self._worse(now):
                decision = self._decay(clock, why)
            elif self.rule.raises and (why := self._better(now)):
                decision = self._raise(clock, why)
                if decision.event == "raised":
                    self._minimum = self._previous
            decision = self._or_converged(decision, clock)
        if decision.event == "none" and (cooling or not self.rule.raises):
            self._take_in(self._previous)
        return decision

    def _pseudocode(self, now: _Measurement, clock: int) -> Decision:
        decision = self._strict(now, clock)
        if decision.event == "none":
            self._take_in(self._previous)
        return decision

    def _corrected(self, now: _Measurement, clock: int) -> Decision:
        decision = self._stay(clock) if self._count <= 2 else self._strict(now, clock)
        self._take_in(self._previous)
        return decision

    def _strict(self, now: _Measurement, clock: int) -> Decision:
        decision = self._stay(clock)
        if clock <= self._rests_until:
            return decision
        if why := self._increases(now):
            decision = self._decay(clock, why)
        elif self.rule.raises and (why := self._decreases(now)):
            decision = self._raise(clock, why)
        return self._or_converged(decision, clock)

    # ------------------------------------------------------------ signals

    def _worse(self, now: _Measurement) -> str | None:
        """Published: loss_j ≥ M_loss·r or accuracy_j·r ≤ M_acc, at both measurements."""
        r, least, words = self.rule.ratio, self._minimum, []
        for one in (self._previous, now):
            if one.loss >= least.loss * r:
                words.append(f"loss {one.loss:.4g} ≥ {least.loss:.4g}{self._times}")
            elif one.accuracy * r <= least.accuracy:
                words.append(f"accuracy {one.accuracy:.4g}{self._times} ≤ {least.accuracy:.4g}")
            else:
                return None
        return ", then ".join(words)

    def _better(self, now: _Measurement) -> str | None:
        """Published: M_loss ≥ loss_j·r or M_acc·r ≤ accuracy_j, at both measurements."""
        r, least, words = self.rule.ratio, self._minimum, []
        for one in (self._previous, now):
            if one.finite and least.loss >= one.loss * r:
                words.append(f"loss {one.loss:.4g}{self._times} ≤ {least.loss:.4g}")
            elif one.finite and least.accuracy * r <= one.accuracy:
                words.append(f"accuracy {one.accuracy:.4g} ≥ {least.accuracy:.4g}{self._times}")
            else:
                return None
        return ", then ".join(words)

    def _increases(self, now: _Measurement) -> str | None:
        """Pseudocode: the same of loss and error is above its minimum·r at both measurements."""
        r, least, before = self.rule.ratio, self._minimum, self._previous
        if self.rule.protocol == "corrected" and not (now.finite and before.finite):
            return None
        for what in ("loss", "error"):
            first, second, bound = (getattr(one, what) for one in (before, now, least))
            if first > bound * r and second > bound * r:
                return f"{what} {first:.4g}, then {second:.4g} > {bound:.4g}{self._times}"
        return None

    def _decreases(self, now: _Measurement) -> str | None:
        """Pseudocode: the same of loss and error, times r, is below its minimum at both."""
        r, least, before = self.rule.ratio, self._minimum, self._previous
        if not (now.finite and before.finite):
            return None
        for what in ("loss", "error"):
            first, second, bound = (getattr(one, what) for one in (before, now, least))
            if first * r < bound and second * r < bound:
                return f"{what} {first:.4g}, then {second:.4g}{self._times} < {bound:.4g}"
        return None

    @property
    def _times(self) -> str:
        return f" · {self.rule.ratio:g}" if self.rule.ratio > 1 else ""

    # ------------------------------------------------------------ consequences

    def _decay(self, clock: int, why: str) -> Decision:
        return self._change(self.lambda_ * self.rule.decay_factor, clock, "decayed", why)

    def _raise(self, clock: int, why: str) -> Decision:
        return self._change(self.lambda_ / self.rule.decay_factor, clock, "raised", why)

    def _change(self, lambda_: float, clock: int, event: Event, why: str) -> Decision:
        """λ within its bounds, and the cool-down; no event where that leaves λ as it is.

        Or nearly: 0.1 · 0.1 is above 0.01 by a rounding error, which is not to decay.
        """
        lambda_ = self.rule.bounded(lambda_)
        same = math.isclose(lambda_, self.lambda_, rel_tol=1e-12)
        if same or not math.isfinite(lambda_):
            verb = "fall" if event == "decayed" else "rise"
            return Decision(self.lambda_, "none", f"λ = {self.lambda_:g} cannot {verb}: {why}")
        self.lambda_ = lambda_
        self._rests_until = clock + (self.rule.cooldown / lambda_ if lambda_ else math.inf)
        self._stale = 0
        return Decision(lambda_, event, why)

    def _track_convergence(self, now: _Measurement) -> None:
        best = _least(self._best, now)
        self._stale = 0 if best != self._best else self._stale + 1
        self._best = best

    def _or_converged(self, decision: Decision, clock: int) -> Decision:
        patience = self.rule.raise_when_converged
        if decision.event != "none" or not patience or self._stale < patience:
            return decision
        return self._raise(
            clock,
            f"converged: no loss below {self._best.loss:.4g} and no error below "
            f"{self._best.error:.4g} % in {self._stale} measurements",
        )

    def _take_in(self, one: _Measurement) -> None:
        self._minimum = _least(self._minimum, one)

    def _stay(self, clock: int) -> Decision:
        if self._count <= 2:
            why = "first measurement" if self._count == 1 else "second measurement"
        elif clock <= self._rests_until:
            why = f"cooling down until step {self._rests_until:g}"
        else:
            why = "no change beyond the threshold twice in a row"
        return Decision(self.lambda_, "none", why)

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """All that later decisions depend on, as plain numbers and strings."""
        return {
            "rule": asdict(self.rule),
            "lambda": self.lambda_,
            "count": self._count,
            "minimum": [self._minimum.loss, self._minimum.accuracy],
            "previous": [self._previous.loss, self._previous.accuracy],
            "rests_until": self._rests_until,
            "best": [self._best.loss, self._best.accuracy],
            "stale": self._stale,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`.

        Raises:
            ValueError: it was saved under another rule, or is no controller's state.
        """
        expected = self.state_dict()
        if state.keys() != expected.keys():
            raise ValueError(f"not a controller's state: it has {sorted(state)}")
        if state["rule"] != expected["rule"]:
            raise ValueError(f"saved under another rule: {state['rule']}")
        self.lambda_ = state["lambda"]
        self._count = state["count"]
        self._minimum = _Measurement(*state["minimum"])
        self._previous = _Measurement(*state["previous"])
        self._rests_until = state["rests_until"]
        self._best = _Measurement(*state["best"])
        self._stale = state["stale"]


def _least(one: _Measurement, other: _Measurement) -> _Measurement:
    """The smaller loss and the larger accuracy; a value that is not finite is passed over."""
    loss = min(one.loss, other.loss) if math.isfinite(other.loss) else one.loss
    accuracy = max(one.accuracy, other.accuracy) if math.isfinite(other.accuracy) else one.accuracy
    return _Measurement(loss, accuracy)
