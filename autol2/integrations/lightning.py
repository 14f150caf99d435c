"""`AutoL2` as a callback of Lightning's Trainer: ``pip install lightning``."""

from __future__ import annotations

import warnings
from typing import Any, Unpack

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer

from ..rules.auto_l2 import AutoL2, Settings
from ..rules.controller import Method
from .step_mean import StepMean


class AutoL2Callback(Callback):
    """Controls the optimizer's ``weight_decay`` by the training loss and error.

    ``training_step`` returns both, the error as a share of the batch from 0 to 1::

        return {"loss": loss, "error": (scores.argmax(1) != labels).float().mean()}

    With gradient accumulation or several processes their mean over an optimizer step counts. λ is
    logged as ``l2_lambda``. The state travels in Lightning's checkpoints.

    Args:
        method: see `AutoL2`.
        settings: other arguments of `AutoL2`. Lightning says where epochs begin, so that
            ``protocol="published"`` needs nothing more.

    Raises:
        MisconfigurationException: at the start of training, if there is not exactly one optimizer
            or optimization is manual; at the first batch, if ``training_step`` returns no error.
        ValueError: at the start of training, for what `AutoL2` refuses.

    Attributes:
        auto_l2: the `AutoL2`, once training has started.
    """

    def __init__(self, method: Method = "auto_l2", **settings: Unpack[Settings]) -> None:
        self.method, self.settings = method, settings
        self.auto_l2: AutoL2 | None = None
        self._mean = StepMean()
        self._steps = 0
        self._restored: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the optimizer, whose state Lightning has restored by now."""
        if not pl_module.automatic_optimization or len(trainer.optimizers) != 1:
            raise MisconfigurationException(
                "AutoL2Callback needs one optimizer and automatic optimization: with manual "
                "optimization, build an autol2.AutoL2 for each optimizer and call its step()"
            )
        self.auto_l2 = AutoL2(trainer.optimizers[0], self.method, **self.settings)
        if self._restored is not None:
            self.auto_l2.load_state_dict(self._restored)
            self._restored = None
        elif trainer.global_step:
            warnings.warn(
                "the checkpoint holds no state of AutoL2Callback: λ starts anew", stacklevel=2
            )
        self._mean = StepMean()
        self._steps = trainer.global_step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Mark the beginning of an epoch."""
        assert self.auto_l2 is not None
        if batch_idx == 0:
            self.auto_l2.start_epoch()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Take in a batch; after an optimizer step, measure."""
        assert self.auto_l2 is not None
        if not isinstance(outputs, dict) or "error" not in outputs:
            raise MisconfigurationException(
                'AutoL2Callback needs training_step to return {"loss": loss, "error": error}, the '
                "error as a share of the batch from 0 to 1"
            )
        # Lightning divides the loss by the number of batches that make a step.
        loss = outputs["loss"] * trainer.accumulate_grad_batches
        self._mean.add(loss, outputs["error"])
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            self.auto_l2.step(*self._mean.take())
        pl_module.log("l2_lambda", self.auto_l2.get_last_lambda())

    def state_dict(self) -> dict[str, Any]:
        """The controller's state; empty before training."""
        return {} if self.auto_l2 is None else {"auto_l2": self.auto_l2.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the optimizer has been restored too."""
        self._restored = state_dict.get("auto_l2")
