"""A method of one's own: λ rises to its value, and stays."""

from dataclasses import dataclass

from autol2.rules.method import Circumstances, LambdaPolicy, Method
from autol2.rules.schedules import Schedule


@dataclass
class Warmup(Method):
    """λ rises in a straight line to its last value, and stays there."""

    final_lambda: float = 5e-4
    """λ after the warm-up."""
    steps: int = 100
    """How many steps it takes."""

    label = "λ with warm-up"

    def policy(self, given: Circumstances) -> LambdaPolicy:
        """The straight line."""
        return Schedule(
            lambda step: self.final_lambda * min(1.0, (step + 1) / self.steps), "λ warms up"
        )
