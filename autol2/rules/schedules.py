"""Policies that give λ as a function of the step and use no measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .controller import Decision

if TYPE_CHECKING:
    from torch import Tensor

    from .method import LambdaPolicy


class Schedule:
    """A `LambdaPolicy` that knows every λ in advance.

    Args:
        lambda_at: returns the λ of a step, given its number from 0.
        reason: the reason that is given in each `Decision`.
    """

    measures = False
    before_update = False

    def __init__(self, lambda_at: Callable[[int], float], reason: str) -> None:
        self._lambda_at, self._reason = lambda_at, reason

    def lambda_at(self, step: int) -> float:
        """Return the λ of a step (see `LambdaPolicy`)."""
        return self._lambda_at(step)

    def observe(self) -> Tensor | None:
        """Return None, since the optimizer does not find λ (see `LambdaPolicy`)."""
        return None

    def measure(self, loss: float, accuracy: float, step: int, epoch_step: int) -> Decision:
        """Ignore the measurement (see `LambdaPolicy`)."""
        return Decision(self._lambda_at(step), "none", self._reason)

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state, since λ depends on the step alone."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing, since there is no state."""


def pulse(policy: LambdaPolicy, height: float, length: int) -> LambdaPolicy:
    """Replace the first `length` steps of `policy`, which uses no measurements, by λ = `height`."""
    return Schedule(
        lambda step: height if step < length else policy.lambda_at(step), "λ follows a pulse"
    )
