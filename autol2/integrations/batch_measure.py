"""Loss and error of a batch that a Hugging Face model has seen, whatever its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, interpolate
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_CTC_MAPPING_NAMES,
)

IGNORED = -100
"""The label of what is left out."""
ALIKE = 0.01
"""Relative difference up to which a model's own loss is taken for that of a task."""

Measured = tuple[Tensor, Tensor | None, Tensor | int]
"""Mean loss, mean error (None where the task has none) and what they are means over."""


class Unmeasurable(ValueError):
    """A batch has no loss, and lacks what it could be computed from."""


def measure_batch(
    model: nn.Module, inputs: Mapping[str, Any], outputs: Any, label_names: Sequence[str]
) -> Measured:
    """Mean loss, error and count of a batch.

    The loss is the model's own where it has one, else the cross-entropy. The error is that of the
    task: the share of samples, tokens or pixels that the largest logit misses; for several labels a
    sample the share of wrong entries; none for a regression, or where logits and labels fit no
    task that is known here. Whether labels are one token ahead of the logits is told by the
    model's own loss, which is the cross-entropy of one or the other. What the labels leave out
    (−100; in semantic segmentation the configuration's index too) is not counted.

    Args:
        model: the model, unwrapped.
        inputs: what it was called with, by name.
        outputs: what it returned: a mapping, a tuple (with the loss first, if any) or logits.
        label_names: the names of labels among `inputs`.

    Raises:
        Unmeasurable: there is neither a loss nor logits and labels.
    """
    given = [inputs[name] for name in label_names if inputs.get(name) is not None]
    labels = given[0] if len(given) == 1 and isinstance(given[0], Tensor) else None
    loss, logits = _loss_and_logits(outputs)
    items = inputs.get("num_items_in_batch")
    scored = None
    if labels is not None and logits is not None:
        scored = _score(model, logits, labels, _Own(loss, items))
    if scored is None:
        if loss is None:
            lacks = "labels" if labels is None else "logits that fit the labels"
            raise Unmeasurable(
                f"found no loss among the model's outputs ({_names(outputs)}) and no {lacks} to "
                f"compute one from; it was called with {', '.join(inputs)}"
                + (f" (labels are called {', '.join(label_names)}; " if labels is None else "")
                + (
                    "the Trainer takes them away for label smoothing and for a compute_loss_func)"
                    if labels is None
                    else ""
                )
            )
        return loss, None, _size(given, inputs)
    own, error, count = scored
    if loss is None:
        if own is None:
            raise Unmeasurable("the model returned no loss, and its task is none that has one here")
        return own, error, count
    if items is not None and own is not None:
        # Some models divide the sum over this batch by the number of labels in the whole step.
        rescaled = loss * items / count
        loss = torch.where((rescaled - own).abs() < (loss - own).abs(), rescaled, loss)
    return loss, error, count


def _loss_and_logits(outputs: Any) -> tuple[Tensor | None, Tensor | None]:
    if isinstance(outputs, Mapping):
        loss, logits = outputs.get("loss"), outputs.get("logits")
    elif isinstance(outputs, (tuple, list)):
        first = outputs[0] if outputs else None
        has_loss = isinstance(first, Tensor) and first.dim() == 0
        loss, rest = (first, outputs[1:]) if has_loss else (None, outputs)
        logits = rest[0] if rest else None
    else:
        loss, logits = None, outputs
    return (
        loss.float().mean() if isinstance(loss, Tensor) else None,
        logits if isinstance(logits, Tensor) else None,
    )


class _Own:
    """The loss that the model returned, if any, to tell its task by."""

    def __init__(self, loss: Tensor | None, items: Any) -> None:
        self.loss, self.items = loss, items

    def is_that_of(self, measured: Measured) -> bool:
        """Whether it is the loss that was computed for a task, but for rounding; True without one.

        Some models divide the sum over the batch by the number of labels in the whole step.
        """
        if self.loss is None:
            return True
        loss, _, count = measured
        scales = [1.0] if self.items is None else [1.0, float(count) / float(self.items)]
        own = float(self.loss.detach())
        return any(abs(own - float(loss) * scale) <= ALIKE * abs(own) + 1e-6 for scale in scales)


def _score(
    model: nn.Module, logits: Tensor, labels: Tensor, own: _Own
) -> tuple[Tensor | None, Tensor | None, Tensor | int] | None:
    """Cross-entropy, error and count by the task; None where it is none that is known here."""
    labels = labels.to(logits.device)
    task = getattr(getattr(model, "config", None), "problem_type", None)
    several = logits.shape == labels.shape and logits.dim() > 1 and logits.shape[-1] > 1
    if task == "multi_label_classification" or (
        task is None and several and labels.is_floating_point()
    ):
        if logits.shape != labels.shape:
            return None
        loss = binary_cross_entropy_with_logits(logits.float(), labels.float())
        entries = loss, ((logits > 0) != (labels > 0.5)).float().mean(), len(labels)
        if task is not None or _is_binary(labels):
            return entries
        return None if own.loss is None else (None, None, len(labels))
    if task == "regression" or labels.is_floating_point():
        return (None, None, len(labels)) if labels.dim() else None
    if logits.dim() == 4 and labels.dim() == 3 and logits.shape[0] == labels.shape[0]:
        return _segmentation(model, logits, labels)
    if logits.numel() == labels.numel():
        counted = labels != IGNORED
        logits, labels = logits.reshape(labels.shape)[counted].float(), labels[counted]
        loss = binary_cross_entropy_with_logits(logits, labels.float())
        found = loss, ((logits > 0) != (labels > 0)).float().mean(), counted.sum()
        if _is_binary(labels):
            return found
        return None if own.loss is None else (None, None, counted.sum())
    if logits.shape[:-1] != labels.shape:
        return None
    aligned = _classification(logits, labels, labels != IGNORED)
    if labels.dim() == 1:
        return aligned
    ahead = _classification(logits[..., :-1, :], labels[..., 1:], labels[..., 1:] != IGNORED)
    if own.loss is not None:
        fitting = [one for one in (aligned, ahead) if own.is_that_of(one)]
        if len(fitting) == 1:
            return fitting[0]
    if _predicts_the_next(model):
        return ahead
    if type(model).__name__ in MODEL_FOR_CTC_MAPPING_NAMES.values():  # no place has a label
        return None if own.loss is None else (None, None, len(labels))
    return aligned


def _classification(logits: Tensor, labels: Tensor, counted: Tensor) -> Measured:
    logits, labels = logits[counted].float(), labels[counted].long()
    error = (logits.argmax(-1) != labels).float().mean()
    return cross_entropy(logits, labels), error, counted.sum()


def _segmentation(model: nn.Module, logits: Tensor, labels: Tensor) -> Measured:
    if logits.shape[2:] != labels.shape[1:]:
        logits = interpolate(
            logits.float(), size=labels.shape[1:], mode="bilinear", align_corners=False
        )
    ignored = getattr(getattr(model, "config", None), "semantic_loss_ignore_index", IGNORED)
    counted = (labels != IGNORED) & (labels != ignored)
    return _classification(logits.movedim(1, -1), labels, counted)


def _predicts_the_next(model: nn.Module) -> bool:
    """Whether the labels are one place ahead of the logits."""
    base = getattr(model, "base_model", None)
    names = {type(model).__name__, type(getattr(base, "model", None)).__name__}  # PEFT wraps it
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    return bool(names & known) or getattr(model, "loss_type", None) == "ForCausalLM"


def _is_binary(labels: Tensor) -> bool:
    return bool(((labels == 0) | (labels == 1)).all())


def _size(labels: Sequence[Any], inputs: Mapping[str, Any]) -> int:
    """Samples in the batch."""
    for one in (*labels, *inputs.values()):
        if isinstance(one, Tensor) and one.dim():
            return len(one)
    return 1


def _names(outputs: Any) -> str:
    return ", ".join(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
