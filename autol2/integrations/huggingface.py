"""Weight decay callbacks for Hugging Face's Trainer: ``pip install transformers accelerate``."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, SupportsFloat, Unpack, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.utils.generic import find_labels

from ..rules.auto_l2 import AutoL2, Settings
from ..rules.groups import FLAG, NO_DECAY
from ..rules.lambda_scheduler import LambdaScheduler
from ..rules.rule import Method
from ..rules.weight_decay_schedules import WeightDecaySchedule
from .batch_measure import Measured, Unmeasurable, measure_batch


class WeightDecayCallback(TrainerCallback, ExportableState):
    """Sets the optimizer's ``weight_decay`` with a `LambdaScheduler`::

        WeightDecayCallback(lambda optimizer: FollowLR(optimizer, 5e-4))

    ``TrainingArguments.weight_decay`` is overwritten. Parameters that the Trainer keeps in a group
    without decay (biases, norms) are left alone. The state is saved in the Trainer's checkpoints
    (``trainer_state.json``) and restored by ``resume_from_checkpoint``.

    Args:
        make: a function that builds the scheduler for the optimizer.
        accept_changes: whether training may resume with settings that differ from those in the
            checkpoint; see `LambdaScheduler.load_state_dict`.

    Raises:
        ValueError: at the start of training, if the scheduler refuses its settings or state, or if
            the checkpoint contains no state.

    Attributes:
        scheduler: the scheduler; None before training has started.
    """

    _asked: ClassVar[weakref.ref[WeightDecayCallback] | None] = None
    """The callback whose state a Trainer has requested most recently."""

    def __init__(
        self,
        make: Callable[[Optimizer], LambdaScheduler] | None = None,
        accept_changes: bool = False,
    ) -> None:
        self.make, self.accept_changes = make, accept_changes
        self.scheduler: LambdaScheduler | None = None
        self._saved: dict[str, Any] | None = None
        self._inside_epoch = False
        self._model: nn.Module | None = None
        self._label_names: list[str] = []
        self._hook: RemovableHandle | None = None
        self._hook_stays = self._replicas = False
        self._flags: list[Any] | None = None
        self._first = True
        self._pending: list[Measured] = []
        self._added = self._in_step = False
        self._problem = ""

    # ---------------------------------------------------------------- measuring

    def measure(self, inputs: Mapping[str, Any], outputs: Any) -> Measured:
        """Compute the mean loss and error of a batch; override this for an unsupported task.

        By default, the loss is that of the model, and the error depends on the task; see
        `autol2.integrations.batch_measure.measure_batch`.

        Args:
            inputs: the inputs of the model, by name.
            outputs: the outputs of the model.

        Returns:
            The mean loss without a penalty; the error, a share from 0 to 1, or None if the task has
            none and the rule should use only the loss; and the number of samples or tokens that
            these are means over.
        """
        assert self._model is not None
        return measure_batch(self._model, inputs, outputs, self._label_names)

    def add(
        self, loss: SupportsFloat, error: SupportsFloat | None = None, count: SupportsFloat = 1
    ) -> None:
        """Add the loss and error of a batch, from a ``compute_loss_func`` or a ``compute_loss``.

        They replace what `measure` has computed for the batch. Batches of an evaluation are
        ignored. See `AutoL2.add` for the arguments.
        """
        if not self._in_step:
            return
        self._pending.clear()
        self._added = True
        if self.scheduler is not None:
            self.scheduler.add(loss, error, count)

    @torch.no_grad()
    def _take_in(
        self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], outputs: Any
    ) -> None:
        """Measure the loss and error of a batch, as a hook after the forward pass."""
        if not module.training or outputs is None or not self._wanted:
            return  # This forward pass is not one of training, or needs no measurement.
        if self._pending and not self._replicas:
            return  # The batch has been measured already, or an error ended its training.
        try:
            by_name = inspect.signature(module.forward).bind_partial(*inputs).arguments
        except TypeError:
            by_name = {}
        try:
            self._pending.append(self._measured({**by_name, **named}, outputs))
        except Unmeasurable as problem:
            self._problem = str(problem)
            return
        if not self._hook_stays:
            self._unhook()

    def _measured(self, inputs: Mapping[str, Any], outputs: Any) -> Measured:
        found = self.measure(inputs, outputs)
        if not (isinstance(found, tuple) and len(found) == 3):
            raise ValueError(
                f"{type(self).__name__}.measure returned {found!r:.80}: it is to return the mean "
                f"loss, the mean error (or None) and their count"
            )
        return found

    @property
    def _wanted(self) -> bool:
        scheduler = self.scheduler
        return scheduler is not None and (
            scheduler.needs_measurements and (self._first or scheduler.due)
        )

    def _rehook(self) -> None:
        """Register the hook for the next forward pass, if its loss is needed."""
        if self._hook is None and self._model is not None and (self._hook_stays or self._wanted):
            hook: Any = self._take_in
            if self._hook_stays:
                hook = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
            self._hook = self._model.register_forward_hook(
                hook, with_kwargs=True, always_call=not self._hook_stays
            )

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _end_of_batch(self) -> None:
        assert self.scheduler is not None
        if not self._hook_stays:
            self._unhook()
        for batch in self._pending:
            self.scheduler.add(*batch)
        if self._wanted and not self._pending and not self._added:
            raise ValueError(
                f"{type(self).__name__} {self._problem or 'saw no forward pass of the model'}. "
                f"Call the callback's add(loss, error) in your compute_loss_func or compute_loss, "
                f"or override its measure(inputs, outputs)"
            )
        self._pending.clear()
        self._added = False

    # ---------------------------------------------------------------- the Trainer's events

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Save the flags in the groups of a given optimizer, which a checkpoint would overwrite."""
        optimizer = kwargs.get("optimizer")
        if isinstance(optimizer, Optimizer):
            self._flags = [group.get(FLAG) for group in optimizer.param_groups]

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Take over the optimizer, after the Trainer has restored its state."""
        self._unhook()
        self._model = cast("nn.Module", kwargs["model"])
        found: list[str] = find_labels(type(self._model))  # type: ignore[no-untyped-call]
        self._label_names = args.label_names or found or ["labels"]
        optimizer: Optimizer = kwargs["optimizer"]
        if state.global_step:  # The Trainer has loaded the groups of a checkpoint.
            for group, flag in zip(optimizer.param_groups, self._flags or (), strict=False):
                group.pop(FLAG, None)
                group.update({} if flag is None else {FLAG: flag})
        _mark_groups(optimizer, self._model if self._flags is None else None)
        self.scheduler = self._build(optimizer, args)
        if state.global_step:
            self.scheduler.load_state_dict(
                self._state_of(state), accept_changes=self.accept_changes
            )
        self._saved = None
        self._inside_epoch = not (args.ignore_data_skip or float(state.epoch or 0).is_integer())
        self._first, self._added, self._in_step, self._problem = True, False, False, ""
        self._pending.clear()
        self._replicas = args.n_gpu > 1
        # A compiled forward pass keeps the hooks that it was compiled with, and replicas share one
        # hook. Only a private attribute shows compilation: tested with PyTorch 2.6 to 2.14.
        compiled = args.torch_compile or self._model._compiled_call_impl is not None
        self._hook_stays = self.scheduler.needs_measurements and (compiled or self._replicas)
        if self._hook_stays:
            self._rehook()

    def _build(self, optimizer: Optimizer, args: TrainingArguments) -> LambdaScheduler:
        if self.make is None:
            raise ValueError("WeightDecayCallback needs a function that makes the scheduler")
        return self.make(optimizer)

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Mark the beginning of an epoch, unless training resumes inside it."""
        assert self.scheduler is not None
        if not self._inside_epoch:
            self.scheduler.start_epoch()
        self._inside_epoch = False

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Prepare to measure the first forward pass of the step."""
        if isinstance(self.scheduler, WeightDecaySchedule):  # lr may have changed since its step.
            self.scheduler.apply()
        self._in_step = True
        self._rehook()

    def on_substep_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Add the measurements of a batch, and prepare to measure the next one of the step."""
        self._end_of_batch()
        self._rehook()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Add the measurements of the last batch, and step the scheduler."""
        assert self.scheduler is not None
        self._end_of_batch()
        self._first = self._in_step = False
        self.scheduler.step()

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Remove the hook from the model, and warn if no step was ever measured."""
        self._unhook()
        if isinstance(self.scheduler, AutoL2):
            self.scheduler.warn_if_unmeasured()

    # ---------------------------------------------------------------- state

    def state(self) -> dict[str, Any]:
        """Return the state of the scheduler, for the Trainer to save."""
        WeightDecayCallback._asked = weakref.ref(self)
        state = None if self.scheduler is None else self.scheduler.state_dict()
        return {"args": {}, "attributes": {"restored": state}}

    @property
    def restored(self) -> dict[str, Any] | None:
        """The state that ``restore_callback_states_from_checkpoint=True`` has restored."""
        return self._saved

    @restored.setter
    def restored(self, state: dict[str, Any] | None) -> None:
        # The Trainer has replaced the callback whose state it has just requested by a new one. The
        # user still holds the old one, with its settings, so both share their attributes from here.
        origin = None if self._asked is None else self._asked()
        if origin is not None and type(origin) is type(self):
            self.__dict__ = origin.__dict__
        self._saved = state

    def _state_of(self, state: TrainerState) -> dict[str, Any]:
        """Return the state of the scheduler from the checkpoint that `state` was read from."""
        if self._saved is not None:  # Set by restore_callback_states_from_checkpoint=True.
            return self._saved
        # When read from trainer_state.json, this is a dictionary, despite its annotation.
        callbacks: Any = state.stateful_callbacks
        saved = callbacks.get(type(self).__name__, {}).get("attributes", {})
        if saved.get("restored") is None:
            raise ValueError(
                f"the checkpoint holds no state of {type(self).__name__}: it was trained without, "
                f"so start a new training from its model instead of resuming"
            )
        restored: dict[str, Any] = saved["restored"]
        return restored


class AutoL2Callback(WeightDecayCallback):
    """Adjusts the optimizer's ``weight_decay`` according to the training loss and error.

    The loss is that of the model, and the error depends on the task; see `measure`. For a
    regression, there is no error, and the rule uses only the loss. With gradient accumulation or
    several processes, the rule uses the means over an optimizer step, weighted by the number of
    samples or tokens. If the Trainer removes the labels from the inputs (for a
    ``compute_loss_func`` or label smoothing), call `add`. Parameters that the Trainer keeps in a
    group without decay (biases, norms) are left alone, unless ``all_parameters=True``. See
    `WeightDecayCallback` for the rest.

    Args:
        method: the method; see `AutoL2`.
        accept_changes: whether training may resume with settings that differ from those in the
            checkpoint.
        settings: other arguments of `AutoL2`. The callback reports the start of each epoch, as
            ``protocol="published"`` requires.

    Raises:
        ValueError: at the start of training, if `AutoL2` refuses its settings or state, or if the
            checkpoint contains no state; at the first batch, if it cannot be measured.

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

    def _build(self, optimizer: Optimizer, args: TrainingArguments) -> LambdaScheduler:
        settings: Settings = {"all_parameters": False, "sync": args.world_size > 1}
        settings.update(self.settings)
        return partial(AutoL2, optimizer, self.method)(**settings)


def _mark_groups(optimizer: Optimizer, model: nn.Module | None) -> None:
    """Mark the parameter groups that the Trainer keeps without decay.

    These are the groups with a ``weight_decay`` of 0, if any other group has a positive one. If
    none has, since ``TrainingArguments.weight_decay`` is 0 by default, they are recognized by the
    names of their parameters, but only in an optimizer that the Trainer has made.

    Args:
        optimizer: the optimizer.
        model: the model that the Trainer has made the optimizer for; None if the user has passed
            the optimizer to the Trainer.
    """
    unsaid = [group for group in optimizer.param_groups if FLAG not in group]
    if any(group["weight_decay"] for group in unsaid if "weight_decay" in group):
        spared = [group for group in unsaid if group.get("weight_decay") == 0]
    elif model is None:
        spared = []
    else:
        decayed = set(Trainer.get_decay_parameter_names(cast("Any", None), model))
        names = {id(weight): name for name, weight in model.named_parameters()}
        # For each group, whether the default rule decays each of its parameters. A Trainer with a
        # rule of its own still has a first group of decayed parameters only, followed by the group
        # without decay.
        usual = [
            [names.get(id(parameter), "") in decayed | {""} for parameter in g["params"]]
            for g in unsaid
        ]
        if len(usual) == 2 and all(usual[0]) and not all(usual[1]):
            spared = unsaid[1:]
        else:
            spared = [group for group, of in zip(unsaid, usual, strict=True) if not any(of)]
        if len(spared) == len(optimizer.param_groups):
            spared = []
    for group in spared:
        group[FLAG] = NO_DECAY
