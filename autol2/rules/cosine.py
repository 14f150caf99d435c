"""The method with a cosine schedule of λ."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import require_finite
from . import curves
from .method import Circumstances, LambdaPolicy, Method
from .schedules import Schedule


@dataclass
class Cosine(Method):
    """λ goes from its first to its last value along half a cosine, one step at a time, like DINO's
    weight decay from 0.04 to 0.4 (Caron et al., 2021, "Emerging properties in self-supervised
    vision transformers", ICCV, section 3.2 and the authors' ``cosine_scheduler``)."""

    initial_lambda: float = 5e-5
    """λ at the first step."""
    final_lambda: float = 5e-4
    """The λ that the curve reaches right after the last step."""

    label = "cosine λ"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite("method.initial_lambda", self.initial_lambda)
        require_finite("method.final_lambda", self.final_lambda)

    def policy(self, given: Circumstances) -> LambdaPolicy:
        """Return the cosine schedule over the steps of the run."""
        first, last, steps = self.initial_lambda, self.final_lambda, given.steps
        return Schedule(lambda step: curves.cosine(step, steps, first, last), "λ follows a cosine")
