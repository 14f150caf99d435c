"""λ as a function of the step alone: the policies that look at no measurement."""

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
        lambda_at: λ of a step, given its number from 0.
        reason: why λ is what it is, as a measurement's `Decision` says.
    """

    measures = False
    before_update = False

    def __init__(self, lambda_at: Callable[[int], float], reason: str) -> None:
        self._lambda_at, self._reason = lambda_at, reason

    def lambda_at(self, step: int) -> float:
        """See `LambdaPolicy`."""
        return self._lambda_at(step)

    def observe(self) -> Tensor | None:
        """See `LambdaPolicy`."""
        return None

    def measure(self, loss: float, accuracy: float, step: int, epoch_step: int) -> Decision:
        """See `LambdaPolicy`."""
        return Decision(self._lambda_at(step), "none", self._reason)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: λ depends on the step alone."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


def pulse(policy: LambdaPolicy, height: float, length: int) -> LambdaPolicy:
    """`policy`, which looks at no measurement, after `height` for the first `length` steps."""
    return Schedule(
        lambda step: height if step < length else policy.lambda_at(step), "λ follows a pulse"
    )
