"""The λ rules (paper, Algorithms 1 to 4): they turn measurements into decisions with reasons.

λ multiplies the sum of squares of *all* parameters, with no factor ½: the penalty is λ·Σθ², which
for SGD is a weight decay of 2λ. (Lewkowycz & Gur-Ari, 2020, write ½λ‖θ‖².) Loss is a batch's mean
cross-entropy without the penalty, accuracy is its accuracy in percent, and error is 100 − accuracy.

The paper's text, its pseudo-code and the code behind its figures disagree. Each is a *protocol*:

published
    What produced the paper's figures. It compares accuracies instead of errors. Ties count as worse
    and as better. Loss may give the signal at one of the two measurements and accuracy at the
    other. The step counter of the cool-down restarts at 0 in each epoch.
pseudocode
    Algorithms 1 to 4 as printed. Comparisons are strict, and the same signal has to hold at both
    measurements. In methods that raise λ, the minimum is still ∞ at the second measurement, so λ
    rises until training diverges.
corrected
    What the text means. It is like pseudocode, but the minimum starts with the first measurement
    and includes each later one after its comparison, and λ has an upper bound. For a minimum M
    below 0, the threshold is on the correct side: above M + α/100·|M| is worse, below
    M - α/100·|M| is better.
original
    The rule of Auto L2's authors (Lewkowycz & Gur-Ari, 2020, released code), for auto_l2 only. Ties
    count as worse, and the same signal has to hold at both measurements. A step is measured before
    its update, including the first one (0). The cool-down 0.1/λ also applies from the start.

A task without an error (a language model, a regression) is judged by its loss alone.

This module is plain Python without tensors or files. The cost of a measurement does not depend on
how many came before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .rule import Rule, plain

Event = Literal["none", "decayed", "raised"]


@dataclass(frozen=True)
class Decision:
    """The result of a measurement."""

    lambda_: float
    """The λ from the next step on."""
    event: Event
    """Whether λ decayed, was raised, or neither."""
    reason: str
    """The reason, a sentence with the figures that decided."""


@dataclass(frozen=True)
class _Measurement:
    loss: float
    accuracy: float

    @property
    def error(self) -> float:
        return 100.0 - self.accuracy

    @property
    def measured(self) -> bool:
        """Whether there is an accuracy."""
        return math.isfinite(self.accuracy)

    @property
    def finite(self) -> bool:
        """Whether the values are usable; an accuracy of NaN means that it was not measured."""
        return math.isfinite(self.loss) and not math.isinf(self.accuracy)

    def plain(self) -> list[float | str]:
        return [plain(self.loss), plain(self.accuracy)]


_NOTHING = _Measurement(math.inf, -math.inf)
"""The minimum and the previous measurement as long as there are none."""


class Controller:
    """Decides λ from the measurements of a training run, taken in order.

    Args:
        rule: the rule to apply.

    Attributes:
        rule: the rule to apply.
        lambda_: the λ of the next step.
    """

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
        if rule.protocol == "original":
            self._rests_until = self._cooldown
        self._best = _NOTHING
        self._stale = 0

    @property
    def measures(self) -> bool:
        """Whether measurements can change λ."""
        return self.rule.method != "fixed"

    def lambda_at(self, step: int) -> float:
        """Return the λ of the next step, whatever its number."""
        return self.lambda_

    def measure(self, loss: float, accuracy: float | None, step: int, epoch_step: int) -> Decision:
        """Process the measurement of a step that was made with the current λ.

        Args:
            loss: mean training loss of the step's batch, without the penalty.
            accuracy: training accuracy of the step's batch in percent. If it is None or NaN, it was
                not measured and the loss alone decides.
            step: number of the step in the run, from 1. With original, it is the step whose update
                comes next, so that its i is ``step - 1``.
            epoch_step: number of the step in its epoch, from 1.

        Returns:
            The λ from the next step on, and the reason.
        """
        if self.rule.method == "fixed":
            return Decision(self.lambda_, "none", "λ is fixed")
        now = _Measurement(float(loss), math.nan if accuracy is None else float(accuracy))
        step, epoch_step = int(step), int(epoch_step)
        self._count += 1
        self._track_convergence(now)
        if self.rule.protocol == "published":
            decision = self._published(now, epoch_step - 1)
        elif self.rule.protocol == "original":
            decision = self._original(now, step - 1)
        elif self.rule.protocol == "pseudocode":
            decision = self._pseudocode(now, step)
        else:
            decision = self._corrected(now, step)
        self._previous = now
        return decision

    @property
    def before_update(self) -> bool:
        """Whether a step is measured before its update (see `autol2.rules.method.LambdaPolicy`)."""
        return self.rule.protocol == "original"

    def observe(self) -> None:
        """Return None, since the optimizer does not find λ (see `LambdaPolicy`)."""

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
                    self._minimum = _least(_NOTHING, self._previous)
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

    def _original(self, now: _Measurement, clock: int) -> Decision:
        decision = self._stay(clock)
        if self._count > 2 and clock > self._rests_until:
            if why := self._no_better(now):
                decision = self._decay(clock, why)
            decision = self._or_converged(decision, clock)
        if decision.event == "none":
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
        for measurement in (self._previous, now):
            if measurement.loss >= least.loss * r:
                words.append(f"loss {measurement.loss:.4g} ≥ {least.loss:.4g}{self._times}")
            elif measurement.accuracy * r <= least.accuracy:
                words.append(
                    f"accuracy {measurement.accuracy:.4g}{self._times} ≤ {least.accuracy:.4g}"
                )
            else:
                return None
        return ", then ".join(words)

    def _better(self, now: _Measurement) -> str | None:
        """Published: M_loss ≥ loss_j·r or M_acc·r ≤ accuracy_j, at both measurements."""
        r, least, words = self.rule.ratio, self._minimum, []
        for measurement in (self._previous, now):
            if measurement.finite and math.inf > least.loss >= measurement.loss * r:
                words.append(f"loss {measurement.loss:.4g}{self._times} ≤ {least.loss:.4g}")
            elif measurement.finite and -math.inf < least.accuracy * r <= measurement.accuracy:
                words.append(
                    f"accuracy {measurement.accuracy:.4g} ≥ {least.accuracy:.4g}{self._times}"
                )
            else:
                return None
        return ", then ".join(words)

    def _no_better(self, now: _Measurement) -> str | None:
        """Original: loss is no better than its best at both measurements, or accuracy is."""
        least, before = self._minimum, self._previous
        if least.loss <= before.loss and least.loss <= now.loss:
            return f"loss {before.loss:.4g}, then {now.loss:.4g} ≥ {least.loss:.4g}"
        if least.accuracy >= before.accuracy and least.accuracy >= now.accuracy:
            first, second = before.accuracy, now.accuracy
            return f"accuracy {first:.4g}, then {second:.4g} ≤ {least.accuracy:.4g}"
        return None

    def _increases(self, now: _Measurement) -> str | None:
        """Pseudocode and corrected: loss is above its minimum·r at both, or error is."""
        before, corrected = self._previous, self.rule.protocol == "corrected"
        if corrected and not (now.finite and before.finite):
            return None
        for what in ("loss", "error"):
            first, second, bound = (
                getattr(measurement, what) for measurement in (before, now, self._minimum)
            )
            r, times = self.rule.ratio, self._times
            if corrected and bound < 0 and r > 1:
                r = 2 - r
                times = f" · {r:g}"
            if first > bound * r and second > bound * r:
                return f"{what} {first:.4g}, then {second:.4g} > {bound:.4g}{times}"
        return None

    def _decreases(self, now: _Measurement) -> str | None:
        """Pseudocode and corrected: loss·r is below its minimum at both, or error·r is."""
        r, before = self.rule.ratio, self._previous
        if not (now.finite and before.finite):
            return None
        for what in ("loss", "error"):
            first, second, bound = (
                getattr(measurement, what) for measurement in (before, now, self._minimum)
            )
            if self.rule.protocol == "corrected" and not math.isfinite(bound):
                continue  # there is no minimum to compare with yet
            if self.rule.protocol == "corrected" and bound <= 0:
                if first < bound * r and second < bound * r:
                    return f"{what} {first:.4g}, then {second:.4g} < {bound:.4g}{self._times}"
            elif first * r < bound and second * r < bound:
                return f"{what} {first:.4g}, then {second:.4g}{self._times} < {bound:.4g}"
        return None

    @property
    def _times(self) -> str:
        return f" · {self.rule.ratio:g}" if self.rule.ratio > 1 else ""

    # ------------------------------------------------------------ consequences

    def _decay(self, clock: int, why: str) -> Decision:
        factor = self.rule.decay_factor
        lower = self.lambda_ * factor
        if self.rule.protocol == "original":  # λ/10 is 0.01, but λ·0.1 is slightly more
            lower = self.lambda_ / (1 / factor)
        return self._change(lower, clock, "decayed", why)

    def _raise(self, clock: int, why: str) -> Decision:
        return self._change(self.lambda_ / self.rule.decay_factor, clock, "raised", why)

    def _change(self, lambda_: float, clock: int, event: Event, why: str) -> Decision:
        """Bound λ and start the cool-down; there is no event if λ stays as it is.

        Nearly equal counts as equal: 0.1 · 0.1 is above 0.01 by a rounding error, which is not a
        decay.
        """
        lambda_ = self.rule.bounded(lambda_)
        same = math.isclose(lambda_, self.lambda_, rel_tol=1e-12)
        if same or not math.isfinite(lambda_):
            verb = "fall" if event == "decayed" else "rise"
            return Decision(self.lambda_, "none", f"λ = {self.lambda_:g} cannot {verb}: {why}")
        self.lambda_ = lambda_
        self._rests_until = clock + self._cooldown
        self._stale = 0
        return Decision(lambda_, event, why)

    @property
    def _cooldown(self) -> float:
        """Number of steps for which the current λ stays constant after a change."""
        return self.rule.cooldown / self.lambda_ if self.lambda_ else math.inf

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
            f"converged: no loss below {self._best.loss:.4g}"
            + (f" and no error below {self._best.error:.4g} %" if self._best.measured else "")
            + f" in {self._stale} measurements",
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
        """Return all that later decisions depend on: strings and finite numbers (JSON has no ∞)."""
        return {
            "rule": self.rule.plain(),
            "lambda": self.lambda_,
            "count": self._count,
            "minimum": self._minimum.plain(),
            "previous": self._previous.plain(),
            "rests_until": plain(self._rests_until),
            "best": self._best.plain(),
            "stale": self._stale,
        }

    def load_state_dict(self, state: Mapping[str, Any], *, accept_changes: bool = False) -> None:
        """Restore a state.

        Args:
            state: the return value of `state_dict`.
            accept_changes: apply this controller's rule even if `state` was saved with another one.
                λ is then that of `state` within the rule's bounds; if the rule's λ is fixed, it is
                that one, and if the λ of `state` is 0 and could never change, it is the rule's
                initial one.

        Raises:
            ValueError: the state was saved with another rule, or is not a controller's state. The
                controller is then unchanged.
        """
        if state.keys() != self.state_dict().keys():
            raise ValueError(f"not a controller's state: it has {sorted(state)}")
        differences = self.rule.differences(state["rule"])
        if differences and not accept_changes:
            raise ValueError(
                f"saved under another rule: {differences}; accept_changes=True continues under the "
                f"new one"
            )
        if self.rule.method == "fixed":
            lambda_ = self.rule.fixed_lambda
        else:
            lambda_ = float(state["lambda"])
            if differences:
                lambda_ = self.rule.bounded(lambda_ or self.rule.initial_lambda)
        self.lambda_ = lambda_
        self._count = int(state["count"])
        self._minimum = _Measurement(*map(float, state["minimum"]))
        self._previous = _Measurement(*map(float, state["previous"]))
        self._rests_until = float(state["rests_until"])
        self._best = _Measurement(*map(float, state["best"]))
        self._stale = int(state["stale"])


def _least(one: _Measurement, other: _Measurement) -> _Measurement:
    """Return the smaller loss and the larger accuracy, ignoring values that are not finite."""
    loss = min(one.loss, other.loss) if math.isfinite(other.loss) else one.loss
    accuracy = max(one.accuracy, other.accuracy) if math.isfinite(other.accuracy) else one.accuracy
    return _Measurement(loss, accuracy)
