"""A method of one's own that looks at measurements: λ is halved when the loss stops falling."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autol2.rules.controller import Decision
from autol2.rules.method import Circumstances, LambdaPolicy, Method


@dataclass
class Plateau(Method):
    """λ is halved after some measurements in a row without a lower loss."""

    initial_lambda: float = 0.1
    """λ at the first step."""
    patience: int = 2
    """How many such measurements."""

    def policy(self, given: Circumstances) -> LambdaPolicy:
        """See `Method`."""
        return Halving(self.initial_lambda, self.patience)


class Halving:
    """See `LambdaPolicy`."""

    measures = True
    before_update = False

    def __init__(self, lambda_: float, patience: int) -> None:
        self.lambda_, self.patience = lambda_, patience
        self.lowest, self.waited = math.inf, 0

    def lambda_at(self, step: int) -> float:
        """See `LambdaPolicy`."""
        return self.lambda_

    def observe(self) -> None:
        """See `LambdaPolicy`."""

    def measure(self, loss: float, accuracy: float, step: int, epoch_step: int) -> Decision:
        """See `LambdaPolicy`."""
        self.waited = 0 if loss < self.lowest else self.waited + 1
        self.lowest = min(self.lowest, loss)
        if self.waited < self.patience:
            return Decision(self.lambda_, "none", f"{self.waited} without a lower loss")
        self.lambda_, self.waited = self.lambda_ / 2, 0
        return Decision(self.lambda_, "decayed", f"{self.patience} without a lower loss")

    def state_dict(self) -> dict[str, Any]:
        """See `LambdaPolicy`."""
        return {"lambda": self.lambda_, "lowest": self.lowest, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `LambdaPolicy`."""
        self.lambda_, self.lowest = state["lambda"], state["lowest"]
        self.waited = state["waited"]
