"""The methods with a constant λ, coupled and decoupled; they are the baselines."""

from __future__ import annotations

from dataclasses import dataclass

from .method import Circumstances, LambdaPolicy, Method
from .rule import Rule
from .schedules import Schedule


@dataclass
class Fixed(Method):
    """Constant λ, the baseline (paper, section 4)."""

    label = "fixed λ"
    place = 0
    uses = ("fixed_lambda",)
    baseline = True

    def policy(self, given: Circumstances) -> LambdaPolicy:
        """Return a schedule with the same λ at every step."""
        value = given.fixed_lambda.value
        return Schedule(lambda step: value, "λ is fixed")

    def rule(self, given: Circumstances) -> Rule:
        """Return the rule that never changes λ."""
        return Rule("fixed", fixed_lambda=given.fixed_lambda.value)


@dataclass
class Decoupled(Fixed):
    """Constant decoupled decay: AdamW (Loshchilov & Hutter, 2019, "Decoupled weight decay
    regularization", ICLR), with weight_decay = 2·fixed_lambda. With plain SGD, it is the same as
    `Fixed`."""

    label = "decoupled λ"
    place = Method.place
    optimizers = ("adamw",)
