"""`AutoL2` as a callback of Hugging Face's Trainer: ``pip install transformers accelerate``."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from ..rules.auto_l2 import AutoL2, Settings
from ..rules.controller import Method
from .step_mean import StepMean


class AutoL2Callback(TrainerCallback, ExportableState):
    """Controls the optimizer's ``weight_decay`` by the training loss and error.

    Loss and error come from the model's ``logits`` and the batch's ``labels``, by `measure`; with
    gradient accumulation or several processes their mean over an optimizer step counts. Biases and
    normalisation parameters, which the Trainer keeps in a parameter group without decay, are left
    alone. ``TrainingArguments.weight_decay`` is overwritten. The state travels in the Trainer's
    checkpoints (``trainer_state.json``) and is restored by ``resume_from_checkpoint``.

    Args:
        method: see `AutoL2`.
        all_parameters: penalise biases and normalisation parameters as well, as the paper does.
        settings: other arguments of `AutoL2`. The Trainer says where epochs begin, so that
            ``protocol="published"`` needs nothing more.

    Raises:
        ValueError: at the start of training, for what `AutoL2` refuses, or if the checkpoint holds
            no state; at the first batch, if it has no labels.

    Attributes:
        auto_l2: the `AutoL2`, once training has started.
    """

    def __init__(
        self,
        method: Method = "auto_l2",
        *,
        all_parameters: bool = False,
        **settings: Unpack[Settings],
    ) -> None:
        self.method, self.all_parameters, self.settings = method, all_parameters, settings
        self.auto_l2: AutoL2 | None = None
        self.restored: dict[str, Any] | None = None
        self._mean = StepMean()
        self._hook: RemovableHandle | None = None
        self._inside_epoch = False

    def measure(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss and error of a batch; override it for other tasks than classification.

        Args:
            logits: float [N, …, C].
            labels: int64 [N, …]; −100 is left out. A causal language model's labels are one place
                ahead of its logits: override with
                ``return super().measure(logits[:, :-1], labels[:, 1:])``.

        Returns:
            The mean cross-entropy, and the share of labels that the largest logit misses.
        """
        counted = labels != -100
        logits, labels = logits[counted].float(), labels[counted]
        return cross_entropy(logits, labels), (logits.argmax(-1) != labels).float().mean()

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Take over the optimizer, whose state the Trainer has restored by now."""
        optimizer: Optimizer = kwargs["optimizer"]
        for group in optimizer.param_groups:
            if not self.all_parameters and all(weight.dim() <= 1 for weight in group["params"]):
                group["auto_l2"] = False
        self.auto_l2 = AutoL2(optimizer, self.method, **self.settings)
        if state.global_step:
            self.auto_l2.load_state_dict(self._saved(state))
        self.restored = None
        self._inside_epoch = not (args.ignore_data_skip or float(state.epoch or 0).is_integer())
        self._mean = StepMean()
        self._unhook()
        model: nn.Module = kwargs["model"]
        self._hook = model.register_forward_hook(self._take_in, with_kwargs=True)

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Mark the beginning of an epoch, unless training resumes inside it."""
        assert self.auto_l2 is not None
        if not self._inside_epoch:
            self.auto_l2.start_epoch()
        self._inside_epoch = False

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Count an optimizer step, and measure it where it is due."""
        assert self.auto_l2 is not None
        self.auto_l2.step(*self._mean.take())

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Let go of the model."""
        self._unhook()

    def state(self) -> dict[str, Any]:
        """What the Trainer saves: the arguments and the controller's state."""
        return {
            "args": {
                "method": self.method,
                "all_parameters": self.all_parameters,
                **self.settings,
            },
            "attributes": {"restored": None if self.auto_l2 is None else self.auto_l2.state_dict()},
        }

    def _saved(self, state: TrainerState) -> dict[str, Any]:
        """The controller's state from the checkpoint that `state` was read from."""
        if self.restored is not None:  # by restore_callback_states_from_checkpoint=True
            return self.restored
        # Read from trainer_state.json, this is a dictionary, whatever its annotation says.
        callbacks: Any = state.stateful_callbacks
        saved = callbacks.get(type(self).__name__, {}).get("attributes", {})
        if saved.get("restored") is None:
            raise ValueError(
                f"the checkpoint holds no state of {type(self).__name__}: it was trained without, "
                f"so start a new training from its model instead of resuming"
            )
        restored: dict[str, Any] = saved["restored"]
        return restored

    @torch.no_grad()
    def _take_in(
        self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], outputs: Any
    ) -> None:
        """After a forward pass in training: note its loss and error."""
        if not module.training:
            return
        if named.get("labels") is None:
            raise ValueError(
                "AutoL2Callback found no labels in the training batch: it needs a model that is "
                "called with labels, and no label smoothing, which takes them away"
            )
        self._mean.add(*self.measure(outputs["logits"], named["labels"]))

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
