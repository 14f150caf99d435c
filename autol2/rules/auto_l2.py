"""`AutoL2`: the λ rules for your own training loop, used like torch's ``ReduceLROnPlateau``.

λ follows the paper's convention: the penalty is λ·Σθ², without a factor ½. What an optimizer does
with it:

=========================  ===============  ==================================================
optimizer                  weight_decay     what λ means
=========================  ===============  ==================================================
SGD (with or without       2λ, coupled      exactly the gradient of the penalty λ·Σθ²
momentum)
Adam, RMSprop, Adagrad, …  2λ, coupled      the penalty's gradient is added to the loss's, and
                                            both go through the optimizer's scaling
AdamW, Muon, …, and        2λ, decoupled    every step first multiplies the weights by
``decoupled_weight_decay``                  1 − lr·2λ, as plain SGD on the penalised loss would;
                                            no penalty's gradient
=========================  ===============  ==================================================

Hence λ = weight_decay/2 everywhere; `convert` converts from and to other conventions. With a
learning rate schedule, the decay per step, lr·2λ, follows lr.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from typing import Any, SupportsFloat, TypedDict

import torch
from torch.optim import Optimizer

from .controller import Controller, Decision
from .groups import sign_flip as sign_flip
from .groups import warn
from .lambda_scheduler import LambdaScheduler
from .rule import Method, Protocol, Rule, whole
from .step_mean import StepMean, kept, processes

ROUNDING = 1e-6
"""How far a share may lie outside of [0, 1] because of rounding."""

_log = logging.getLogger("autol2")


class Settings(TypedDict, total=False):
    """The keyword arguments of `AutoL2`."""

    alpha: float
    protocol: Protocol
    measure_every: int | None
    steps_per_epoch: int | None
    fixed_lambda: float
    initial_lambda: float
    decay_factor: float
    cooldown: float
    lambda_min: float
    lambda_max: float | None
    raise_when_converged: int
    all_parameters: bool | None
    sync: bool


class AutoL2(LambdaScheduler):
    """Controls an optimizer's ``weight_decay`` based on the training loss and error.

    Create it after the optimizer, and call `step` after each ``optimizer.step()``::

        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        l2 = AutoL2(optimizer, "combined", alpha=5)
        for images, labels in loader:
            scores = model(images)
            loss = cross_entropy(scores, labels)   # without a penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            l2.step(loss, (scores.argmax(1) != labels).float().mean())

    For a task without an error (a language model, a regression), call ``l2.step(loss)``: the rule
    then uses the loss alone. If a step has several batches (gradient accumulation), pass each to
    `add` and call `step` without arguments; the means are weighted by the counts::

        for batch in step:
            loss, error, tokens = …
            l2.add(loss, error, tokens)
        optimizer.step()
        l2.step()

    With a process group of several processes, the means are taken over all of them, so that λ is
    the same everywhere. Each process has to call `step` equally often (with
    ``DistributedDataParallel.join``, which lets some stop earlier, choose ``sync=False``).

    The optimizer's own ``weight_decay`` is overwritten, also in groups that are added later (from
    the next `step` on). A group with ``auto_l2=False`` is left alone, and so is one whose
    ``weight_decay`` is 0 while other groups have some; see `all_parameters`. A group can have its
    own controller with different settings::

        torch.optim.SGD(
            [
                {"params": backbone, "auto_l2": {"initial_lambda": 0.01}},
                {"params": head, "auto_l2": {"method": "fixed", "fixed_lambda": 1e-4}},
                {"params": biases, "auto_l2": False},
            ],
            lr=0.01,
        )

    Learning rate schedulers and ``GradScaler`` work as usual; a step that the scaler skips counts
    unless you do not call `step` for it. A compiled ``optimizer.step`` is compiled once more at the
    first change of λ and accepts any value from then on (SGD with momentum: 3 graphs over 8 values
    of λ). Leave ``weight_decay`` a number in this case: SGD branches on its value, so that with a
    tensor nothing is compiled at all. Changes are logged to the logger ``autol2`` at level INFO.

    Args:
        optimizer: any torch optimizer with a ``weight_decay``, which is set to 2λ. For SGD, this is
            the gradient of the penalty λ·Σθ²; for other coupled optimizers (Adam), that gradient is
            scaled like the loss's; for decoupled ones (AdamW), it is a factor 1 − lr·2λ on the
            weights.
        method: auto_l2 (paper, Algorithm 1), threshold (2), advance (3), combined (4) or fixed.
        alpha: the threshold α of threshold and combined, in percent.
        protocol: ``corrected`` (what the paper's text means; for new work), ``published`` (what
            produced its figures; needs to know where epochs begin), ``pseudocode`` (as printed:
            advance and combined diverge) or ``original`` (auto_l2 only, as its authors released
            it). See `autol2.rules.controller`.
        measure_every: steps between two measurements (the paper's k); by default 5, and 10 with
            ``original``. Loss and error are read only then (the error also at the first step, to
            check it), so that the CPU waits for the GPU only once in this many steps.
        steps_per_epoch: optimizer steps in an epoch, ``len(loader)`` without gradient accumulation.
            With ``published``, the step counter restarts at each epoch: set this, or call
            `start_epoch`. If the epochs are known, every k-th step of an epoch is measured; with
            ``original``, every k-th step of the run, including the first.
        fixed_lambda: λ of ``method="fixed"``.
        initial_lambda: λ at the first step of the other methods.
        decay_factor: factor by which λ is multiplied when it decays and divided when it is raised.
        cooldown: after a change, λ stays constant for ``cooldown / λ`` steps.
        lambda_min, lambda_max: bounds of λ. By default, `lambda_max` is 10 with ``corrected`` and
            infinite with the other protocols.
        raise_when_converged: raise λ after this many measurements without a new minimum of loss or
            error; 0 never does.
        all_parameters: whether to also decay parameter groups with a ``weight_decay`` of 0 while
            other groups have some (the paper penalises all parameters). None leaves them alone with
            a warning that names them; False does so without a warning.
        sync: whether to take the means over all processes of the default process group. Choose
            False if each process trains a network of its own.

    Raises:
        ValueError: an argument is invalid, or the optimizer has no ``weight_decay``.

    Attributes:
        optimizer: the optimizer.
        last_step: number of optimizer steps so far.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        method: Method = "auto_l2",
        *,
        alpha: float = 5.0,
        protocol: Protocol = "corrected",
        measure_every: int | None = None,
        steps_per_epoch: int | None = None,
        fixed_lambda: float = 0.0,
        initial_lambda: float = 0.1,
        decay_factor: float = 0.1,
        cooldown: float = 0.1,
        lambda_min: float = 0.0,
        lambda_max: float | None = None,
        raise_when_converged: int = 0,
        all_parameters: bool | None = None,
        sync: bool = True,
    ) -> None:
        self._rule = Rule(
            method=method,
            protocol=protocol,
            alpha=alpha,
            fixed_lambda=fixed_lambda,
            initial_lambda=initial_lambda,
            decay_factor=decay_factor,
            cooldown=cooldown,
            lambda_min=lambda_min,
            lambda_max=lambda_max,
            raise_when_converged=raise_when_converged,
        )
        if measure_every is None:
            measure_every = 10 if protocol == "original" else 5
        self.measure_every = whole("measure_every", measure_every)
        if self.measure_every < 1:
            raise ValueError("measure_every must be at least 1")
        self.steps_per_epoch: int | None = None
        if steps_per_epoch is not None:
            self.steps_per_epoch = whole("steps_per_epoch", steps_per_epoch)
            if self.steps_per_epoch < 1:
                raise ValueError("steps_per_epoch must be at least 1")
        super().__init__(optimizer, all_parameters)
        self.sync = bool(sync)
        self._controller = Controller(self._rule)
        self._own: dict[int, Controller] = {}
        """The controllers of groups with their own settings, by group index."""
        self._mean = StepMean()
        self._epoch_step = 0
        self._epochs_known = steps_per_epoch is not None
        self._measured = False
        """Whether a step was measured, or this is unknown."""
        self._checked = False
        self._before_restoring: dict[int, float] = {}
        self._take_in_groups()
        epoch = self.steps_per_epoch
        if epoch is not None and epoch < self.measure_every and self._counts_epochs:
            raise ValueError(
                f"an epoch of {epoch} steps is never measured with measure_every="
                f"{self.measure_every}: λ could never change; try measure_every={epoch}"
            )
        self.apply()

    # ---------------------------------------------------------------- steps

    @property
    def needs_measurements(self) -> bool:
        """Whether `step` needs the training loss, which it does unless λ is fixed."""
        controllers = [self._controller, *self._own.values()]
        return any(controller.measures for controller in controllers)

    @property
    def due(self) -> bool:
        """Whether the next `step` uses the loss and error."""
        if not self._within_epochs:
            return self.last_step % self.measure_every == 0
        return self._clock % self.measure_every == 0

    def add(
        self, loss: SupportsFloat, error: SupportsFloat | None = None, count: SupportsFloat = 1
    ) -> None:
        """Add a batch of the current step; this costs nothing if the step is not measured.

        Args:
            loss: mean training loss of the batch without a penalty, a number or a tensor of one
                element.
            error: share of the batch that was misclassified, from 0 to 1; None if the task has no
                error, so that the rule uses the loss alone.
            count: number of samples or tokens that these are means over, which is the batch's
                weight in the step's means; 0 for a batch without any (all labels ignored, or
                skipped).

        Raises:
            ValueError: `loss`, `error` or `count` is not a single number, or `error` is outside of
                [0, 1].
        """
        for name, value in (("loss", loss), ("error", error)):
            if value is not None:
                _one_number(name, value)
        _one_number("count", count)
        loss, error, count = kept(loss), None if error is None else kept(error), kept(count)
        if not isinstance(count, torch.Tensor) and not float(count) >= 0:
            raise ValueError(f"count must be the number of samples or tokens, not {count}")
        if not self._checked and float(count):
            self._checked = True
            if error is not None:
                _share(float(error))
        if self.due:
            self._mean.add(loss, error, count)

    def step(  # type: ignore[override]
        self,
        loss: SupportsFloat | None = None,
        error: SupportsFloat | None = None,
        count: SupportsFloat = 1,
    ) -> Decision:
        """Count one optimizer step and, if it is due, measure it.

        Args:
            loss: as in `add`; None if every batch of the step was passed to `add`.
            error: as in `add`; None if the task has no error. With ``published``, ties matter: pass
                1 − accuracy of the whole batch.
            count: as in `add`; it matters only if the step has several batches or processes.

        Returns:
            The λ of the next step, the event (``none``, ``decayed`` or ``raised``) and its reason,
            for the groups without their own controller; if each group has its own, for the first.

        Raises:
            ValueError: `error` is outside of [0, 1].
            RuntimeError: ``weight_decay`` is not the value that AutoL2 has set, or the protocol is
                published and the epochs are unknown.
        """
        caller = str(sys._getframe(1).f_globals.get("__name__"))
        if self._repeated(caller):
            return self._stay("the same optimizer step again")
        if self._begins(caller, loss):
            self.apply()
            return self._stay("it begins")
        if self._rule.protocol == "published" and not self._epochs_known:
            raise RuntimeError(
                "protocol='published' counts steps within an epoch: give AutoL2 "
                "steps_per_epoch=len(loader), or call start_epoch() before each epoch"
            )
        if loss is not None:
            self.add(loss, error, count)
        if self.due and self.needs_measurements:
            decision = self._measure()
        else:
            decision = self._stay(f"measured every {self.measure_every} steps")
            if self.due:
                self._check()
        self._epoch_step = self._clock if self._epochs_known else self._epoch_step + 1
        self._mean.clear()
        self._count_step()
        if self._groups.look():  # groups were added
            self.apply()
        return decision

    def start_epoch(self) -> None:
        """Tell the controller that the next step begins an epoch; for epochs of varying length."""
        if self._epochs_known and self._epoch_step:
            self.warn_if_unmeasured()
        self._epoch_step = 0
        self._epochs_known = True

    def warn_if_unmeasured(self) -> None:
        """Warn if no step has been measured so far because an epoch has too few steps."""
        if self._measured or not self._epochs_known or not self._counts_epochs:
            return
        self._measured = True
        warn(
            f"an epoch of {self._epoch_step} steps is never measured with "
            f"measure_every={self.measure_every}, so λ stays {self.get_last_lambda():g}: try "
            f"measure_every={max(self._epoch_step, 1)}"
        )

    @property
    def _within_epochs(self) -> bool:
        """Whether measured steps are counted within an epoch, if epochs are known."""
        return self._rule.protocol != "original"

    @property
    def _counts_epochs(self) -> bool:
        """Whether the length of an epoch decides which steps are measured."""
        return self._within_epochs and self.needs_measurements

    @property
    def _clock(self) -> int:
        """Number of the next step, from 1, in its epoch, or in the run if no epoch is known."""
        if not self._epochs_known:
            return self.last_step + 1
        if self.steps_per_epoch is not None and self._epoch_step >= self.steps_per_epoch:
            return 1
        return self._epoch_step + 1

    # ---------------------------------------------------------------- measuring

    def _measure(self) -> Decision:
        given = len(self._mean) > 0
        loss, error, count = self._mean.take(self.sync)
        if error is not None and not math.isnan(error):
            error = _share(error)
        self._check()
        self._measured = True
        if not count:
            several = self.sync and processes() > 1
            if not given and not several and not self._checked:
                self._checked = True
                warn(
                    "step() was called without a loss and nothing was added before it: λ cannot "
                    "change; call step(loss, error), or add(loss, error) for each batch"
                )
            return self._stay("nothing was counted")
        if not math.isfinite(loss):
            _log.warning("step %d: the loss is %g", self.last_step + 1, loss)
        accuracy = None if error is None else 100.0 * (1.0 - error)
        indices = self._groups.indices()
        first = next((place for place in indices if place not in self._own), None)
        decisions = [self._react(self._controller, loss, accuracy, "")] if first is not None else []
        for index, controller in self._own.items():
            decisions.append(self._react(controller, loss, accuracy, f" of group {index}"))
        if any(decision.event != "none" for decision in decisions):
            self.apply()
        self._warn_of_sign_flip()
        return decisions[0]

    def _react(
        self, controller: Controller, loss: float, accuracy: float | None, whose: str
    ) -> Decision:
        before, step = controller.lambda_, self.last_step + 1
        decision = controller.measure(loss, accuracy, step, self._clock)
        if decision.lambda_ != before:
            _log.info(
                "step %d: λ%s %g → %g (%s)", step, whose, before, decision.lambda_, decision.reason
            )
        return decision

    def _check(self) -> None:
        if not self._groups.agrees(self._lambda_of):
            decays = [f"{2 * self._lambda_of(index):g}" for index in self._groups.indices()]
            raise RuntimeError(
                f"the optimizer's weight_decay is {self._groups.decays()}, but AutoL2 has set "
                f"{', '.join(decays)}: "
                f"after optimizer.load_state_dict, load AutoL2's state of the same checkpoint too; "
                f"set auto_l2=False in a group whose weight_decay something else sets"
            )

    def _stay(self, reason: str) -> Decision:
        return Decision(self.get_last_lambda(), "none", reason)

    # ---------------------------------------------------------------- controllers

    def _lambda_of(self, index: int) -> float:
        return self._own.get(index, self._controller).lambda_

    def get_last_lambda(self) -> float:
        """Return the λ of the next optimizer step for groups without their own controller.

        If each group has its own, return that of the first.
        """
        indices = self._groups.indices()
        return self._lambda_of(
            next((index for index in indices if index not in self._own), indices[0])
        )

    def apply(self) -> None:
        """Set the optimizer's ``weight_decay`` to 2λ, whatever its current value."""
        self._take_in_groups()
        super().apply()

    def _take_in_groups(self) -> None:
        """Create controllers for the groups that have their own settings."""
        self._groups.look()
        for index, settings in enumerate(self._groups.settings):
            if settings is not None and index not in self._own:
                self._own[index] = Controller(self._rule_with(index, settings))

    def _rule_with(self, index: int, settings: Mapping[str, Any]) -> Rule:
        """Return the rule with a group's own settings."""
        known = {**self._rule.plain(), "lambda_max": self._rule.lambda_max}
        unknown = settings.keys() - (known.keys() - {"protocol"})
        if unknown:
            raise ValueError(
                f"parameter group {index} has auto_l2={dict(settings)}: a group has no setting "
                f"{', '.join(sorted(unknown))}; choose from "
                f"{', '.join(name for name in known if name != 'protocol')}"
            )
        return Rule(**{**known, **settings})

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values; save the optimizer's state along with it."""
        return {
            **super().state_dict(),
            "controller": self._controller.state_dict(),
            "own": [[index, entry.state_dict()] for index, entry in self._own.items()],
            "measure_every": self.measure_every,
            "steps_per_epoch": self.steps_per_epoch,
            "epoch_step": self._epoch_step,
            "epochs_known": self._epochs_known,
        }

    def _keep(self) -> dict[str, Any]:
        return {**super()._keep(), "_own": dict(self._own)}

    def _saved_lambda_of(self, index: int) -> float:
        return self._before_restoring.get(index, self._lambda_of(index))

    def _restore(self, state: Mapping[str, Any], accept_changes: bool) -> None:
        self._take_in_groups()
        super()._restore(state, accept_changes)
        saved = {int(index): entry for index, entry in state["own"]}
        if not accept_changes:
            if self.needs_measurements:
                self._compare(state, ("measure_every",))
            if self._counts_epochs:
                self._compare(state, ("steps_per_epoch",))
            own = {index for index in self._own if index < len(state["groups"])}
            if saved.keys() != own:
                raise ValueError(
                    f"saved with settings of their own for parameter groups {sorted(saved)}, not "
                    f"{sorted(own)}; accept_changes=True continues with the new ones"
                )
        restored = {}
        self._before_restoring = {}
        for index in self._groups.indices():
            one = saved.get(index, state["controller"])
            self._before_restoring[index] = float(one["lambda"])
            if index in self._own:
                restored[index] = Controller(self._own[index].rule)
                restored[index].load_state_dict(one, accept_changes=accept_changes)
        controller = Controller(self._rule)
        controller.load_state_dict(state["controller"], accept_changes=accept_changes)
        self._controller, self._own = controller, restored
        self._epoch_step = int(state["epoch_step"])
        if self.steps_per_epoch is not None:
            self._epoch_step %= self.steps_per_epoch + 1
        # known from start_epoch
        told = bool(state["epochs_known"]) and state["steps_per_epoch"] is None
        self._epochs_known = told or self.steps_per_epoch is not None
        self._measured = True
        self._mean.clear()


def _one_number(name: str, value: object) -> None:
    """Raise a ValueError unless `value` is one number; it is not read back from its device."""
    shape = list(getattr(value, "shape", ()))
    if math.prod(shape) != 1:
        what = f"a tensor of shape {shape}" if isinstance(value, torch.Tensor) else f"{shape}"
    elif not hasattr(value, "__float__"):
        what = type(value).__name__
    else:
        return
    raise ValueError(f"{name} must be one number, not {what}: take its mean over the batch")


def _share(error: float) -> float:
    """Return `error`, clipped to [0, 1]; it may lie outside only by rounding."""
    if not (-ROUNDING <= error <= 1 + ROUNDING or math.isnan(error)):
        raise ValueError(f"error must be a share of the batch, from 0 to 1, not {error:g}")
    return min(max(error, 0.0), 1.0) if not math.isnan(error) else error
