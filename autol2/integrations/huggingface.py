"""Weight decay callbacks of Hugging Face's Trainer: ``pip install transformers accelerate``."""

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
    """Has a `LambdaScheduler` set the optimizer's ``weight_decay``::

        WeightDecayCallback(lambda optimizer: FollowLR(optimizer, 5e-4))

    ``TrainingArguments.weight_decay`` is overwritten. Parameters that the Trainer keeps in a group
    without decay (biases, norms) are left alone. The state travels in the Trainer's checkpoints
    (``trainer_state.json``) and is restored by ``resume_from_checkpoint``.

    Args:
        make: builds the scheduler once the optimizer is there.
        accept_changes: resume with other settings than the checkpoint's; see
            `LambdaScheduler.load_state_dict`.

    Raises:
        ValueError: at the start of training, for what the scheduler refuses, or if the checkpoint
            holds no state.

    Attributes:
        scheduler: the scheduler, once training has started.
    """

    _asked: ClassVar[weakref.ref[WeightDecayCallback] | None] = None
    """The callback whose state a Trainer asked for last."""

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
        """Mean loss, error and count of a batch; override it for a task that is not supported.

        By default the model's own loss, and the error by the task; see
        `autol2.integrations.batch_measure.measure_batch`.

        Args:
            inputs: what the model was called with, by name.
            outputs: what it returned.

        Returns:
            The mean loss without a penalty, the share that is wrong (from 0 to 1; None where the
            task has no error, so that the rule looks at the loss alone), and the number of samples
            or tokens that these are means over.
        """
        assert self._model is not None
        return measure_batch(self._model, inputs, outputs, self._label_names)

    def add(
        self, loss: SupportsFloat, error: SupportsFloat | None = None, count: SupportsFloat = 1
    ) -> None:
        """Hand in a batch's loss and error, from a ``compute_loss_func`` or a ``compute_loss``.

        What `measure` made of the batch does not count then, and neither does a batch of an
        evaluation. See `AutoL2.add`.
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
        """After a forward pass in training: note its loss and error."""
        if not module.training or outputs is None or not self._wanted:
            return  # a look at the model on the way
        if self._pending and not self._replicas:
            return  # the batch was seen already, or its training was left by an error
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
        """Watch the next forward pass, if its loss is wanted."""
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
        """Note what the groups of an optimizer say that was handed in: a checkpoint would
        overwrite it."""
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
        """Take over the optimizer, whose state the Trainer has restored by now."""
        self._unhook()
        self._model = cast("nn.Module", kwargs["model"])
        found: list[str] = find_labels(type(self._model))  # type: ignore[no-untyped-call]
        self._label_names = args.label_names or found or ["labels"]
        optimizer: Optimizer = kwargs["optimizer"]
        if state.global_step:  # the Trainer has loaded a checkpoint's groups
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
        # A compiled forward pass has the hooks that it began with; replicas share theirs.
        # Only a private attribute says so: tried with torch 2.6 to 2.14.
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
        """Watch the step's first forward pass."""
        if isinstance(self.scheduler, WeightDecaySchedule):  # lr may have changed after its step
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
        """Take in a batch of the step, and watch the next."""
        self._end_of_batch()
        self._rehook()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Count an optimizer step, and measure it where it is due."""
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
        """Let go of the model."""
        self._unhook()
        if isinstance(self.scheduler, AutoL2):
            self.scheduler.warn_if_unmeasured()

    # ---------------------------------------------------------------- state

    def state(self) -> dict[str, Any]:
        """What the Trainer saves: the scheduler's state."""
        WeightDecayCallback._asked = weakref.ref(self)
        state = None if self.scheduler is None else self.scheduler.state_dict()
        return {"args": {}, "attributes": {"restored": state}}

    @property
    def restored(self) -> dict[str, Any] | None:
        """The state that ``restore_callback_states_from_checkpoint=True`` hands over."""
        return self._saved

    @restored.setter
    def restored(self, state: dict[str, Any] | None) -> None:
        # The Trainer has built a new callback in place of the one whose state it asked for just
        # before. It becomes one with that: the user holds the old one, with its settings.
        origin = None if self._asked is None else self._asked()
        if origin is not None and type(origin) is type(self):
            self.__dict__ = origin.__dict__
        self._saved = state

    def _state_of(self, state: TrainerState) -> dict[str, Any]:
        """The scheduler's state from the checkpoint that `state` was read from."""
        if self._saved is not None:  # by restore_callback_states_from_checkpoint=True
            return self._saved
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


class AutoL2Callback(WeightDecayCallback):
    """Controls the optimizer's ``weight_decay`` by the training loss and error.

    The loss is the model's own, the error that of the task (none for a regression, where the rule
    looks at the loss alone); see `measure`. With gradient accumulation or several processes their
    means over an optimizer step count, weighted by the samples or tokens that were counted. Where
    the Trainer takes the labels away (a ``compute_loss_func``, label smoothing), call `add`.
    Parameters that the Trainer keeps in a group without decay (biases, norms) are left alone,
    unless ``all_parameters=True``. See `WeightDecayCallback` for the rest.

    Args:
        method: see `AutoL2`.
        accept_changes: resume with other settings than the checkpoint's.
        settings: other arguments of `AutoL2`. The Trainer says where epochs begin, so that
            ``protocol="published"`` needs nothing more.

    Raises:
        ValueError: at the start of training, for what `AutoL2` refuses, or if the checkpoint holds
            no state; at the first batch, if it cannot be measured.

    Attributes:
        auto_l2: the `AutoL2`, once training has started.
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
        """The `AutoL2`, once training has started."""
        return cast("AutoL2 | None", self.scheduler)

    def _build(self, optimizer: Optimizer, args: TrainingArguments) -> LambdaScheduler:
        settings: Settings = {"all_parameters": False, "sync": args.world_size > 1}
        settings.update(self.settings)
        return partial(AutoL2, optimizer, self.method)(**settings)


def _mark_groups(optimizer: Optimizer, model: nn.Module | None) -> None:
    """Mark the groups that the Trainer keeps without decay.

    They have a ``weight_decay`` of 0 beside others that have some; where none has
    (``TrainingArguments.weight_decay`` is 0 by default), the parameters' names tell, in an
    optimizer that the Trainer has made for `model` (None where it was handed in).
    """
    unsaid = [group for group in optimizer.param_groups if FLAG not in group]
    if any(group["weight_decay"] for group in unsaid if "weight_decay" in group):
        spared = [group for group in unsaid if group.get("weight_decay") == 0]
    elif model is None:
        spared = []
    else:
        decayed = set(Trainer.get_decay_parameter_names(cast("Any", None), model))
        names = {id(weight): name for name, weight in model.named_parameters()}
        # Of each group, whether each of its parameters is decayed by the usual rule. A Trainer with
        # a rule of its own still has a group of such alone, and the one without decay behind it.
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
