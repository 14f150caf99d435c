"""Weight decay schedules for your own training loop, with the interface of `AutoL2`.

They set ``weight_decay`` to 2λ, use no measurements and keep little more than a step counter, which
is what PyTorch's issue 22343 asks for. Call ``step()`` after each ``optimizer.step()`` and after
the learning rate scheduler's, or pass them wherever a learning rate scheduler is expected.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, SupportsFloat

from torch.optim import Optimizer

from .controller import Decision, Event
from .curves import cosine, linear
from .lambda_scheduler import LambdaScheduler
from .rule import number, plain, whole


class WeightDecaySchedule(LambdaScheduler):
    """Base class of schedules, whose λ does not depend on the loss.

    Args:
        optimizer: any torch optimizer with a ``weight_decay``.
        all_parameters: see `AutoL2`.
    """

    needs_state = False

    def __init__(self, optimizer: Optimizer, all_parameters: bool | None = None) -> None:
        super().__init__(optimizer, all_parameters)
        self.apply()

    def step(  # type: ignore[override]
        self,
        loss: SupportsFloat | None = None,
        error: SupportsFloat | None = None,
        count: SupportsFloat = 1,
    ) -> Decision:
        """Count one optimizer step and set the λ of the next; the arguments are ignored."""
        before, caller = self.get_last_lambda(), str(sys._getframe(1).f_globals.get("__name__"))
        if self._repeated(caller):
            return Decision(before, "none", "the same optimizer step again")
        if self._begins(caller, loss):
            self.apply()
            return Decision(self.get_last_lambda(), "none", "it begins")
        self._count_step()
        self.apply()
        after = self.get_last_lambda()
        event: Event = "none" if after == before else "decayed" if after < before else "raised"
        return Decision(after, event, f"step {self.last_step} of {type(self).__name__}")

    def options(self) -> dict[str, Any]:
        """Return the schedule's own arguments, which have to match when a state is loaded."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return all that later steps depend on; save the optimizer's state along with it."""
        return {**super().state_dict(), **self.options()}

    def _restore(self, state: Mapping[str, Any], accept_changes: bool) -> None:
        options = self.options()
        super()._restore(state, accept_changes)
        if not accept_changes:
            self._compare(state, tuple(options))


class LinearWeightDecay(WeightDecaySchedule):
    """λ changes linearly from one value to another over a given number of steps.

    Args:
        optimizer: any torch optimizer with a ``weight_decay``, which is set to 2λ.
        steps: number of optimizer steps until λ is `final_lambda`, where it stays.
        initial_lambda: λ at the first step.
        final_lambda: λ at the end.
        all_parameters: see `AutoL2`.

    Raises:
        ValueError: an argument is invalid, or the optimizer has no ``weight_decay``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        steps: int,
        *,
        initial_lambda: float,
        final_lambda: float = 0.0,
        all_parameters: bool | None = None,
    ) -> None:
        self.steps = whole("steps", steps)
        if self.steps < 1:
            raise ValueError("steps must be at least 1")
        self.initial_lambda = _strength("initial_lambda", initial_lambda)
        self.final_lambda = _strength("final_lambda", final_lambda)
        super().__init__(optimizer, all_parameters)

    def options(self) -> dict[str, Any]:
        """Return the number of steps and the first and last λ."""
        names = ("steps", "initial_lambda", "final_lambda")
        return {name: getattr(self, name) for name in names}

    def _lambda_of(self, index: int) -> float:
        return linear(self.last_step, self.steps, self.initial_lambda, self.final_lambda)


class CosineWeightDecay(LinearWeightDecay):
    """λ follows half a cosine, like DINO's weight decay; otherwise it is a `LinearWeightDecay`."""

    def _lambda_of(self, index: int) -> float:
        return cosine(self.last_step, self.steps, self.initial_lambda, self.final_lambda)


class FollowLR(WeightDecaySchedule):
    """λ is inversely proportional to the learning rate, so that lr·λ, a step's decay, is constant.

    torch's optimizers decay the weights by lr·2λ in a step, so a falling learning rate also reduces
    the decay. This schedule keeps it constant (Loshchilov & Hutter, 2019, decay without the
    learning rate). A group with learning rate 0 keeps its λ.

    Args:
        optimizer: any torch optimizer with ``lr`` and ``weight_decay``, which is set to 2λ.
        initial_lambda: λ at a group's reference learning rate.
        reference_lr: the reference learning rate; by default each group's own, before a scheduler's
            warm-up (its ``initial_lr``).
        all_parameters: see `AutoL2`.

    Raises:
        ValueError: an argument is invalid, the optimizer has no ``lr`` or ``weight_decay``, or a
            group's own learning rate is 0 and there is no `reference_lr`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        initial_lambda: float,
        *,
        reference_lr: float | None = None,
        all_parameters: bool | None = None,
    ) -> None:
        self.initial_lambda = _strength("initial_lambda", initial_lambda)
        self.reference_lr = None if reference_lr is None else number("reference_lr", reference_lr)
        if self.reference_lr is not None and not 0 < self.reference_lr < math.inf:
            raise ValueError("reference_lr must be above 0")
        self._lambdas: dict[int, float] = {}
        self._references: dict[int, float] = {}
        super().__init__(optimizer, all_parameters)

    def apply(self) -> None:
        """Set the optimizer's ``weight_decay`` to 2λ for the current learning rate."""
        self._groups.look()
        for index in self._groups.indices():
            self._references[index] = self._reference(index)
            self._lambdas[index] = self._lambda_of(index)
        super().apply()

    def _reference(self, index: int) -> float:
        if index in self._references:
            return self._references[index]
        group, first = self.optimizer.param_groups[index], self.reference_lr
        if first is None:
            first = group.get("initial_lr", group.get("lr"))
        if first is None:
            raise ValueError(f"parameter group {index} has no learning rate to follow")
        if not float(first) > 0:
            raise ValueError(
                f"parameter group {index} has learning rate {float(first):g}, which cannot be a "
                f"reference: give reference_lr, the learning rate that initial_lambda is for"
            )
        return float(first)

    def _lambda_of(self, index: int) -> float:
        rate, kept = self.optimizer.param_groups[index].get("lr"), self._lambdas.get(index)
        if rate is None:
            raise ValueError(f"parameter group {index} has no learning rate to follow")
        if float(rate) > 0:
            lambda_ = self.initial_lambda * self._reference(index) / float(rate)
            if math.isfinite(lambda_):
                return lambda_
        return self.initial_lambda if kept is None else kept

    def options(self) -> dict[str, Any]:
        """Return the initial λ and the learning rate that it belongs to."""
        return {"initial_lambda": self.initial_lambda, "reference_lr": self.reference_lr}

    def state_dict(self) -> dict[str, Any]:
        """Return all that later steps depend on; save the optimizer's state along with it."""
        return {
            **super().state_dict(),
            "references": [
                [index, plain(reference)] for index, reference in self._references.items()
            ],
            "lambdas": [[index, plain(value)] for index, value in self._lambdas.items()],
        }

    def _restore(self, state: Mapping[str, Any], accept_changes: bool) -> None:
        super()._restore(state, accept_changes)
        if accept_changes and not {"references", "lambdas"} <= state.keys():
            return  # the state of another kind of schedule
        self._references = {
            int(index): float(reference) for index, reference in state["references"]
        }
        self._lambdas = {int(index): float(value) for index, value in state["lambdas"]}

    def _saved_lambda_of(self, index: int) -> float:
        return self._lambdas.get(index, self.initial_lambda)


def _strength(name: str, value: float) -> float:
    value = number(name, value)
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be at least 0")
    return value
