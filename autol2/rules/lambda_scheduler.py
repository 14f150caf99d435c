"""`LambdaScheduler`, the common base class of `AutoL2` and the weight decay schedules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, SupportsFloat

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .controller import Decision
from .groups import Groups, sign_flip, warn


class LambdaScheduler(LRScheduler, ABC):
    """Sets an optimizer's ``weight_decay`` to 2λ after each step.

    Like torch's ``ReduceLROnPlateau``, it is a ``torch.optim.lr_scheduler.LRScheduler``, so that
    Lightning's ``configure_optimizers`` and Accelerate's ``prepare`` accept it. It leaves the
    learning rate alone.

    Args:
        optimizer: any torch optimizer with a ``weight_decay``.
        all_parameters: whether to also decay parameter groups with a ``weight_decay`` of 0 while
            other groups have some. None leaves them alone with a warning that names them.

    Attributes:
        optimizer: the optimizer.
        last_step: number of optimizer steps so far.
    """

    def __init__(self, optimizer: Optimizer, all_parameters: bool | None = None) -> None:
        # super().__init__() is not called, since it would take over the learning rate.
        self.optimizer = optimizer
        self.last_step = 0
        self._groups = Groups(optimizer, all_parameters)
        self._warned = False
        self._accelerated: bool | None = None
        """With Accelerate, whether the optimizer has made a step that was not counted yet."""
        self._step_count = 0  # Accelerate increments it during accumulation
        self.last_epoch = 0
        self.base_lrs = self.get_last_lr()

    needs_state: ClassVar[bool] = True
    """Whether resuming needs more state than the number of steps."""

    @property
    def needs_measurements(self) -> bool:
        """Whether `step` needs the training loss."""
        return False

    @property
    def due(self) -> bool:
        """Whether the next `step` uses the loss and error."""
        return False

    def add(
        self, loss: SupportsFloat, error: SupportsFloat | None = None, count: SupportsFloat = 1
    ) -> None:
        """Add a batch of the current step; a schedule ignores it."""

    @abstractmethod
    def step(  # type: ignore[override]
        self,
        loss: SupportsFloat | None = None,
        error: SupportsFloat | None = None,
        count: SupportsFloat = 1,
    ) -> Decision:
        """Count one optimizer step and set the λ of the next."""

    @abstractmethod
    def _lambda_of(self, index: int) -> float:
        """Return the λ of the parameter group `index` at the next step."""

    def start_epoch(self) -> None:
        """Say that the next step begins an epoch; a schedule ignores this."""

    def get_last_lambda(self) -> float:
        """Return the λ of the next optimizer step; if the groups differ, that of the first."""
        return self._lambda_of(self._groups.indices()[0])

    def get_last_lambdas(self) -> list[float | None]:
        """Return the λ of each parameter group at the next step; None if it is left alone."""
        return [
            self._lambda_of(index) if is_set else None
            for index, is_set in enumerate(self._groups.set_)
        ]

    def get_last_lr(self) -> list[Any]:
        """Return the learning rate of each parameter group, which is never changed here."""
        rates = [group.get("lr") for group in self.optimizer.param_groups]
        return [rate.clone() if isinstance(rate, torch.Tensor) else rate for rate in rates]

    def get_lr(self) -> list[Any]:
        """Return the same as `get_last_lr`."""
        return self.get_last_lr()

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Return all that later steps depend on, as strings, finite numbers and lists of them."""
        return {
            "kind": type(self).__name__,
            "last_step": self.last_step,
            "groups": list(self._groups.set_),
            "optional": list(self._groups.optional),
        }

    def load_state_dict(
        self, state_dict: Mapping[str, Any], *, accept_changes: bool = False
    ) -> None:
        """Restore a state, after ``optimizer.load_state_dict`` from the same checkpoint.

        Args:
            state_dict: the return value of `state_dict`.
            accept_changes: continue with the settings of this object even if the state was saved
                with others.

        Raises:
            ValueError: the optimizer's ``weight_decay`` does not match the state, or the state was
                saved with other settings. The object is then unchanged.
        """
        before = self._keep()
        try:
            self._restore(state_dict, accept_changes)
            # A scheduler that was created after the optimizer's state was loaded has overwritten
            # it.
            agrees = (
                accept_changes
                or self._groups.agrees(self._saved_lambda_of, len(state_dict["groups"]))
                or (
                    before["last_step"] == 0 and self._groups.agreed_at_first(self._saved_lambda_of)
                )
            )
            if not agrees:
                expected = sorted(
                    {2 * self._saved_lambda_of(index) for index in self._groups.indices()}
                )
                raise ValueError(
                    f"the optimizer's weight_decay is {self._groups.decays()}, but the restored λ "
                    f"needs {', '.join(f'{key:g}' for key in expected)}: load the optimizer's "
                    f"state first, from the same checkpoint as this state"
                )
        except ValueError:
            self.__dict__.update(before)
            raise
        self._groups.give_back(state_dict["groups"])
        self.apply()

    def continue_from(self, other: LambdaScheduler, *, accept_changes: bool = False) -> None:
        """Continue where `other` stopped, with a new optimizer whose decay is not yet set.

        Args:
            other: the previous scheduler.
            accept_changes: continue with the settings of this object even if `other` has others.

        Raises:
            ValueError: `other` has different settings.
        """
        self._restore(other.state_dict(), accept_changes)
        self.apply()

    def _keep(self) -> dict[str, Any]:
        return {**self.__dict__, "_groups": self._groups.copy()}

    def _saved_lambda_of(self, index: int) -> float:
        """Return the λ with which the restored state was saved."""
        return self._lambda_of(index)

    def _restore(self, state: Mapping[str, Any], accept_changes: bool) -> None:
        """Restore `state` without checking the optimizer's ``weight_decay``."""
        self._groups.look()
        own = self.state_dict()
        lacking, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        other_schedule = accept_changes and not self.needs_state and "kind" in state
        if (lacking or unknown) and not other_schedule:
            raise ValueError(
                f"not a state of {type(self).__name__} with these settings: missing "
                f"{', '.join(lacking) or 'nothing'}, unexpected {', '.join(unknown) or 'nothing'}"
            )
        self._groups.recall(state["optional"], len(state["groups"]))
        if not accept_changes:
            self._compare(state, ("kind", "groups"))
        self.last_step = self.last_epoch = int(state["last_step"])

    def _compare(self, state: Mapping[str, Any], names: tuple[str, ...]) -> None:
        own = self.state_dict()
        # Groups that were added after the last step before saving are new in this process, too.
        own["groups"] = own["groups"][: len(state["groups"])]
        for name in names:
            if state[name] != own[name]:
                what = name
                if name == "groups":
                    what = "other parameter groups decayed (all_parameters, auto_l2=False): groups"
                raise ValueError(
                    f"saved with {what}={state[name]}, not {own[name]}; accept_changes=True "
                    f"continues with the new one"
                )

    # ---------------------------------------------------------------- the optimizer

    def _count_step(self) -> None:
        self.last_step += 1
        self.last_epoch = self.last_step
        self._step_count += 1

    def apply(self) -> None:
        """Set the optimizer's ``weight_decay`` to 2λ, whatever its current value."""
        self._groups.look()
        self._groups.apply(self._lambda_of)
        self._warn_of_sign_flip()

    def _warn_of_sign_flip(self) -> None:
        groups = self.optimizer.param_groups
        decayed = [groups[index] for index in self._groups.indices()]
        if not self._warned and (warning := sign_flip(decayed)):
            self._warned = True
            warn(warning)

    def _repeated(self, caller: str) -> bool:
        """Return whether Accelerate calls `step` again for the same optimizer step.

        The wrapper of its schedulers calls `step` once for each process.

        Args:
            caller: the name of the module that calls `step`.
        """
        if caller != "accelerate.scheduler":
            return False
        if self._accelerated is None:
            # An optimizer that Accelerate has prepared has no hooks of its own.
            inner: Optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
            inner.register_step_post_hook(self._note_step)
            self._accelerated = True
        stepped, self._accelerated = self._accelerated, False
        return not stepped

    def _initial_step(self) -> None:
        """Set λ when torch's ``SequentialLR`` begins, before any optimizer step."""
        self.apply()

    def _update_lr(self, epoch: int | None = None) -> None:
        """Set λ when torch's ``SequentialLR`` switches to this scheduler."""
        self.apply()

    def _begins(self, caller: str, argument: object) -> bool:
        """Return whether this is the ``step(0)`` that begins ``SequentialLR`` before torch 2.14."""
        return caller == "torch.optim.lr_scheduler" and isinstance(argument, int) and argument == 0

    def _note_step(self, *_: object) -> None:
        self._accelerated = True
