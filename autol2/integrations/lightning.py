"""Weight decay callbacks for Lightning's Trainer: ``pip install lightning``."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Unpack, cast

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from ..rules.auto_l2 import AutoL2, Settings
from ..rules.groups import warn
from ..rules.lambda_scheduler import LambdaScheduler
from ..rules.rule import Method
from ..rules.weight_decay_schedules import WeightDecaySchedule

_log = logging.getLogger("autol2")


class WeightDecayCallback(Callback):
    """Sets the optimizer's ``weight_decay`` with a `LambdaScheduler`::

        WeightDecayCallback(lambda optimizer: FollowLR(optimizer, 5e-4))

    λ is logged as ``l2_lambda``. The state is saved in Lightning's checkpoints. A second call of
    ``fit`` on the same trainer continues where the first one stopped.

    Args:
        make: a function that builds the scheduler for the optimizer.
        accept_changes: whether training may resume with settings that differ from those in the
            checkpoint; see `LambdaScheduler.load_state_dict`.

    Raises:
        MisconfigurationException: at the start of training, if there is not exactly one optimizer
            or if optimization is manual.
        ValueError: at the start of training, if the scheduler refuses its settings or state.

    Attributes:
        scheduler: the scheduler; None before training has started.
    """

    def __init__(
        self,
        make: Callable[[Optimizer], LambdaScheduler] | None = None,
        accept_changes: bool = False,
    ) -> None:
        self.make, self.accept_changes = make, accept_changes
        self.scheduler: LambdaScheduler | None = None
        self._before: LambdaScheduler | None = None
        self._restored: dict[str, Any] | None = None
        self._steps = 0
        self._epoch = -1
        self._said = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the optimizer, before its state is restored."""
        if not pl_module.automatic_optimization or len(trainer.optimizers) != 1:
            raise MisconfigurationException(
                f"{type(self).__name__} needs one optimizer and automatic optimization: with "
                f"manual optimization, build an autol2.AutoL2 for each optimizer and call its "
                f"step()"
            )
        if self._before is None:  # Otherwise, the previous fit had nothing to do.
            self._before = self.scheduler
        self.scheduler = None
        self.scheduler = self._build(trainer.optimizers[0], trainer)

    def _build(self, optimizer: Optimizer, trainer: Trainer) -> LambdaScheduler:
        if self.make is None:
            raise ValueError("WeightDecayCallback needs a function that makes the scheduler")
        return self.make(optimizer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the state, after Lightning has restored that of the optimizer."""
        self._catch_up(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the state if there was nothing left to train."""
        if self._restored is not None or self._before is not None:
            self._catch_up(trainer)

    def _catch_up(self, trainer: Trainer) -> None:
        assert self.scheduler is not None
        if self._restored is not None:
            self.scheduler.load_state_dict(self._restored, accept_changes=self.accept_changes)
        elif trainer.global_step and self._before is not None and trainer.ckpt_path is None:
            self.scheduler.continue_from(self._before, accept_changes=self.accept_changes)
        elif trainer.global_step:
            warn(f"the checkpoint holds no state of {type(self).__name__}: λ starts anew")
            self.scheduler.apply()
        self._restored = self._before = None
        self._steps, self._epoch = trainer.global_step, -1

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Mark the beginning of an epoch."""
        assert self.scheduler is not None
        if isinstance(self.scheduler, WeightDecaySchedule):  # lr may have changed since its step.
            self.scheduler.apply()
        if batch_idx == 0 and trainer.current_epoch != self._epoch:
            self._epoch = trainer.current_epoch
            self.scheduler.start_epoch()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add the measurements of the batch, and step the scheduler after an optimizer step."""
        assert self.scheduler is not None
        self.on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self.scheduler.needs_measurements:
            self._take_in(outputs, trainer.accumulate_grad_batches)
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            self.scheduler.step()
        pl_module.log("l2_lambda", self.scheduler.get_last_lambda())

    def _take_in(self, outputs: Any, batches: int) -> None:
        """Add the loss and error that ``training_step`` returned to those of the optimizer step.

        Args:
            outputs: the return value of ``training_step``.
            batches: the number of batches per optimizer step.
        """
        assert self.scheduler is not None
        if not isinstance(outputs, Mapping):
            outputs = {"loss": outputs}
        if outputs.get("loss") is None:  # The batch was skipped.
            self.scheduler.add(math.nan, None, 0)
            return
        error = outputs.get("error")
        if error is None and not self._said:
            self._said = True
            _log.info("training_step returns no error: λ follows the loss alone")
        # Lightning divides the loss by the number of batches that make a step.
        self.scheduler.add(outputs["loss"] * batches, error, outputs.get("count", 1))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if no step was ever measured."""
        if isinstance(self.scheduler, AutoL2):
            self.scheduler.warn_if_unmeasured()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scheduler; empty before training."""
        return {} if self.scheduler is None else {"auto_l2": self.scheduler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the optimizer has also been restored."""
        self._restored = state_dict.get("auto_l2")


class AutoL2Callback(WeightDecayCallback):
    """Adjusts the optimizer's ``weight_decay`` according to the training loss and error.

    ``training_step`` returns both; the error is a share of the batch from 0 to 1::

        return {"loss": loss, "error": (scores.argmax(1) != labels).float().mean()}

    If it returns only the loss, as for a language model or a regression, the rule uses only the
    loss. With gradient accumulation or several processes, the rule uses the means over an optimizer
    step. Each batch is then weighted by its ``"count"``, such as its number of tokens, if
    ``training_step`` returns one. A batch that it skips by returning None is left out. See
    `WeightDecayCallback` for the rest.

    Args:
        method: the method; see `AutoL2`.
        accept_changes: whether training may resume with settings that differ from those in the
            checkpoint.
        settings: other arguments of `AutoL2`. The callback reports the start of each epoch, as
            ``protocol="published"`` requires.

    Raises:
        MisconfigurationException: at the start of training, if there is not exactly one optimizer
            or if optimization is manual.
        ValueError: at the start of training, if `AutoL2` refuses its settings or state; at the
            first batch, if the error is not between 0 and 1.

    Attributes:
        auto_l2: the `AutoL2` instance; None before training has started.
    """

    def __init__(
        self,
        method: Method = "auto_l2",
        *,
        accept_changes: bool = False,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(accept_changes=accept_changes)
        self.method, self.settings = method, settings

    @property
    def auto_l2(self) -> AutoL2 | None:
        """The `AutoL2` instance; None before training has started."""
        return cast("AutoL2 | None", self.scheduler)

    def _build(self, optimizer: Optimizer, trainer: Trainer) -> LambdaScheduler:
        settings: Settings = {"sync": trainer.world_size > 1}
        settings.update(self.settings)
        return partial(AutoL2, optimizer, self.method)(**settings)
