"""`AutoL2`: the λ rules in anyone's training loop, shaped like torch's ``ReduceLROnPlateau``.

λ is the paper's: the penalty is λ·Σθ², without a factor ½. What an optimizer does with it:

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

So λ = weight_decay/2 everywhere; `convert` translates from and to other conventions. Under a
learning rate schedule the decay per step, lr·2λ, follows lr.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal, SupportsFloat, TypedDict

import torch
from torch.optim import Optimizer

from .controller import Controller, Decision, Method, Protocol, Rule

Convention = Literal["sum", "half", "weight_decay", "per_step"]

LAMBDA_MAX = 10.0
"""The paper's suggestion of an upper bound; the default under the corrected protocol."""

_log = logging.getLogger("autol2")


def convert(value: float, source: Convention, target: Convention, lr: float = math.nan) -> float:
    """The same strength of decay in another convention.

    Args:
        value: the strength in the convention `source`.
        source: one of

            - ``sum``: λ of the penalty λ·Σθ² (the paper, this package);
            - ``half``: λ of the penalty ½·λ·‖θ‖² (Lewkowycz & Gur-Ari, 2020, and most textbooks);
            - ``weight_decay``: torch's argument, of coupled (SGD, Adam) and of decoupled
              (AdamW) optimizers alike;
            - ``per_step``: the share that each step takes off the weights, where decay is not
              multiplied by the learning rate (Loshchilov & Hutter, 2019, equation 12, with η = 1).
        target: likewise.
        lr: the learning rate; needed only from or to ``per_step``.

    Returns:
        The strength in the convention `target`. Equal strengths take the same share off the weights
        at each step of plain SGD. An adaptive optimizer scales a coupled decay as it does the
        gradient; no number makes it equal to a decoupled one.

    Raises:
        ValueError: an unknown convention, or no learning rate where one is needed.
    """
    in_weight_decay = {"sum": 2.0, "half": 1.0, "weight_decay": 1.0, "per_step": 1 / lr}
    for convention in (source, target):
        if convention not in in_weight_decay:
            raise ValueError(f"{convention!r} is not one of {', '.join(in_weight_decay)}")
    if "per_step" in (source, target) and not lr > 0:
        raise ValueError("per_step needs the learning rate: lr=0.01")
    if source == target:
        return value
    return value * in_weight_decay[source] / in_weight_decay[target]


def apply_lambda(optimizer: Optimizer, lambda_: float) -> None:
    """Set ``weight_decay`` to 2·`lambda_` in every parameter group without ``auto_l2=False``."""
    for group in _groups(optimizer):
        if isinstance(group["weight_decay"], torch.Tensor):
            group["weight_decay"].fill_(2 * lambda_)
        else:
            group["weight_decay"] = 2 * lambda_


def sign_flip(groups: Iterable[Mapping[str, Any]]) -> str | None:
    """A warning where lr·weight_decay ≥ 1 in one of an optimizer's parameter groups, else None."""
    for group in groups:
        decay = float(group["lr"]) * float(group["weight_decay"])
        if decay >= 1:
            return (
                f"lr·weight_decay = {decay:.3g} is at least 1 (λ = "
                f"{float(group['weight_decay']) / 2:g}, lr = {float(group['lr']):g}): each step "
                f"multiplies the weights by {1 - decay:.3g}, so they vanish or flip their signs; "
                f"lower lr or lambda_max"
            )
    return None


class Settings(TypedDict, total=False):
    """The keyword arguments of `AutoL2`."""

    alpha: float
    protocol: Protocol
    every: int
    steps_per_epoch: int | None
    fixed_lambda: float
    initial_lambda: float
    decay_factor: float
    cooldown: float
    lambda_min: float
    lambda_max: float | None
    raise_when_converged: int


class AutoL2:
    """Controls an optimizer's ``weight_decay`` by the training loss and error.

    Build it after the optimizer, and call `step` after each ``optimizer.step()``::

        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        l2 = AutoL2(optimizer, "combined", alpha=5)
        for images, labels in loader:
            scores = model(images)
            loss = cross_entropy(scores, labels)   # without a penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            l2.step(loss, (scores.argmax(1) != labels).float().mean())

    The optimizer's own ``weight_decay`` is overwritten in every parameter group, including groups
    added later (from the next `step` on). A group that says ``auto_l2=False`` is left alone::

        torch.optim.SGD([{"params": weights}, {"params": biases, "auto_l2": False}], lr=0.01)

    Learning rate schedulers and ``GradScaler`` work beside it; a step that the scaler skips counts
    unless `step` is not called for it. Each change of λ makes ``torch.compile`` compile a compiled
    ``optimizer.step`` again, unless ``weight_decay`` was given as a tensor (SGD), which is changed
    in place. In distributed training give every process the same numbers, or their weights part.
    Changes are logged to the logger ``autol2`` at level INFO.

    Args:
        optimizer: any torch optimizer with a ``weight_decay``. It is set to 2λ. For SGD that is the
            gradient of the penalty λ·Σθ²; for other coupled optimizers (Adam) that gradient, scaled
            like the loss's; for decoupled ones (AdamW) a factor 1 − lr·2λ on the weights.
        method: auto_l2 (paper, Algorithm 1), threshold (2), advance (3), combined (4) or fixed.
        alpha: the threshold α of threshold and combined, in percent.
        protocol: ``corrected`` (what the paper's text means; for new work), ``published`` (what
            drew its figures; needs to know where epochs begin) or ``pseudocode`` (as printed:
            advance and combined diverge). See `autol2.rules.controller`.
        every: steps between two measurements (the paper's k). Only then are loss and error read, so
            a GPU is waited for once in `every` steps.
        steps_per_epoch: optimizer steps in an epoch, ``len(loader)`` without gradient accumulation.
            Under ``published`` the clock falls back at each epoch: give this, or call
            `start_epoch`. Where epochs are known, every k-th step of an epoch is measured.
        fixed_lambda: λ of ``method="fixed"``.
        initial_lambda: λ at the first step of the other methods.
        decay_factor: λ is multiplied by it when it decays and divided by it when it is raised.
        cooldown: after a change λ rests for ``cooldown / λ`` steps.
        lambda_min, lambda_max: bounds of λ; without `lambda_max` it is 10 under ``corrected``.
        raise_when_converged: raise λ after so many measurements without a new minimum of loss or
            error; 0 never does.

    Raises:
        ValueError: an argument makes no sense, or the optimizer has no ``weight_decay``.

    Attributes:
        optimizer: the optimizer.
        last_step: optimizer steps counted so far.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        method: Method = "auto_l2",
        *,
        alpha: float = 5.0,
        protocol: Protocol = "corrected",
        every: int = 5,
        steps_per_epoch: int | None = None,
        fixed_lambda: float = 0.0,
        initial_lambda: float = 0.1,
        decay_factor: float = 0.1,
        cooldown: float = 0.1,
        lambda_min: float = 0.0,
        lambda_max: float | None = None,
        raise_when_converged: int = 0,
    ) -> None:
        if every < 1:
            raise ValueError("every must be at least 1")
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise ValueError("steps_per_epoch must be at least 1")
        if lambda_max is None:
            lambda_max = LAMBDA_MAX if protocol == "corrected" else math.inf
        self._controller = Controller(
            Rule(
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
        )
        for index, group in enumerate(optimizer.param_groups):
            if "weight_decay" not in group:
                raise ValueError(
                    f"{type(optimizer).__name__} has no weight_decay in parameter group {index}: "
                    f"AutoL2 needs an optimizer with one, such as SGD, Adam or AdamW"
                )
            if isinstance(group["weight_decay"], torch.Tensor):  # torch lets groups share it
                group["weight_decay"] = group["weight_decay"].clone()
        if not _groups(optimizer):
            raise ValueError("every parameter group says auto_l2=False: there is nothing to do")
        self.optimizer = optimizer
        self.every = every
        self.steps_per_epoch = steps_per_epoch
        self.last_step = 0
        self._epoch_step = 0
        self._epochs_known = steps_per_epoch is not None
        self._warned = False
        self._found = [float(group["weight_decay"]) for group in _groups(optimizer)]
        self._apply()

    def step(self, loss: SupportsFloat, error: SupportsFloat) -> Decision:
        """Count one optimizer step, and measure it where it is due.

        Args:
            loss: mean training loss of the step's batch, without a penalty; a number or a tensor.
            error: share of the batch that was classified wrongly, from 0 to 1; likewise. Under
                ``published`` ties matter: 1 − accuracy, both of the whole batch.

        Returns:
            λ of the next step, the event (``none``, ``decayed`` or ``raised``) and its reason.

        Raises:
            ValueError: `error` is not a share of 1.
            RuntimeError: ``weight_decay`` is not what AutoL2 has set; or the protocol is published
                and the epochs are unknown.
        """
        if self._controller.rule.protocol == "published" and not self._epochs_known:
            raise RuntimeError(
                "protocol='published' counts steps within an epoch: give AutoL2 "
                "steps_per_epoch=len(loader), or call start_epoch() before each epoch"
            )
        if self.steps_per_epoch is not None and self._epoch_step == self.steps_per_epoch:
            self._epoch_step = 0
        clock = (self._epoch_step if self._epochs_known else self.last_step) + 1
        if clock % self.every:
            decision = Decision(
                self.get_last_lambda(), "none", f"measured every {self.every} steps"
            )
        else:
            decision = self._measure(_number(loss), _number(error), clock)
        self.last_step += 1
        self._epoch_step += 1
        if len(_groups(self.optimizer)) != self._count:
            self._apply()  # groups were added
        return decision

    def start_epoch(self) -> None:
        """Say that the next step is the first of an epoch, where epochs differ in length."""
        self._epoch_step = 0
        self._epochs_known = True

    def get_last_lambda(self) -> float:
        """λ, as the next optimizer step will use it."""
        return self._controller.lambda_

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on, in plain numbers; save the optimizer's state with it."""
        return {
            "controller": self._controller.state_dict(),
            "every": self.every,
            "last_step": self.last_step,
            "epoch_step": self._epoch_step,
            "epochs_known": self._epochs_known,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`, after ``optimizer.load_state_dict`` of the same checkpoint.

        Raises:
            ValueError: the optimizer's ``weight_decay`` is not that of `state`, or `state` was
                saved with other settings; nothing is changed then.
        """
        if state.keys() != self.state_dict().keys():
            raise ValueError(f"not a state of AutoL2: it has {sorted(state)}")
        if state["every"] != self.every:
            raise ValueError(f"saved with every={state['every']}, not {self.every}")
        restored = Controller(self._controller.rule)
        restored.load_state_dict(state["controller"])
        # A wrapper that was built after the optimizer's state was loaded has overwritten it.
        known = [[float(group["weight_decay"]) for group in _groups(self.optimizer)]]
        if self.last_step == 0:
            known.append(self._found)
        if not any(_all_are(found, 2 * restored.lambda_) for found in known):
            raise ValueError(
                f"the optimizer's weight_decay is {known[0]}, but the restored λ asks for "
                f"{2 * restored.lambda_:g}: load the optimizer's state first, from the checkpoint "
                f"that this state is from"
            )
        self._controller = restored
        self.last_step = state["last_step"]
        self._epoch_step = state["epoch_step"]
        self._epochs_known = state["epochs_known"] or self.steps_per_epoch is not None
        self._apply()

    def _measure(self, loss: float, error: float, clock: int) -> Decision:
        if not (0 <= error <= 1 or math.isnan(error)):
            raise ValueError(f"error is a share of the batch, from 0 to 1, not {error:g}")
        self._check()
        before = self.get_last_lambda()
        accuracy = 100.0 * (1.0 - error)
        decision = self._controller.measure(loss, accuracy, self.last_step + 1, clock)
        if decision.lambda_ != before:
            self._apply()
            _log.info(
                "step %d: λ %g → %g (%s)",
                self.last_step + 1,
                before,
                decision.lambda_,
                decision.reason,
            )
        self._warn_of_sign_flip()
        return decision

    def _check(self) -> None:
        found = [float(group["weight_decay"]) for group in _groups(self.optimizer)]
        if not _all_are(found[: self._count], 2 * self.get_last_lambda()):
            raise RuntimeError(
                f"the optimizer's weight_decay is {found}, but AutoL2 has set "
                f"{2 * self.get_last_lambda():g}: after optimizer.load_state_dict, load AutoL2's "
                f"state of the same checkpoint too; a group that something else decays says "
                f"auto_l2=False"
            )

    def _apply(self) -> None:
        apply_lambda(self.optimizer, self.get_last_lambda())
        self._count = len(_groups(self.optimizer))
        self._warn_of_sign_flip()

    def _warn_of_sign_flip(self) -> None:
        if not self._warned and (warning := sign_flip(_groups(self.optimizer))):
            self._warned = True
            warnings.warn(warning, RuntimeWarning, stacklevel=3)


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if group.get("auto_l2", True)]


def _number(value: SupportsFloat) -> float:
    return float(value.detach() if isinstance(value, torch.Tensor) else value)


def _all_are(found: list[float], expected: float) -> bool:
    """Whether all are `expected`; a tensor holds it in single precision."""
    return all(math.isclose(value, expected, rel_tol=1e-6) for value in found)
