"""Computes the loss and error of a batch from the outputs of a Hugging Face model, for any task."""

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
"""The label of items that are ignored."""
ALIKE = 0.01
"""Maximum relative difference at which a model's own loss counts as equal to that of a task."""

Measured = tuple[Tensor, Tensor | None, Tensor | int]
"""The mean loss, the mean error (None if the task has none), and the number of averaged items."""


class Unmeasurable(ValueError):
    """A batch has no loss and lacks the data to compute one from."""


def measure_batch(
    model: nn.Module, inputs: Mapping[str, Any], outputs: Any, label_names: Sequence[str]
) -> Measured:
    """Compute the mean loss and error of a batch, and the number of items that they average.

    The loss is that of the model if it returns one, and the cross-entropy otherwise. The error
    depends on the task: for classification, it is the share of samples, tokens or pixels whose
    largest logit is not at the label; for multi-label classification, it is the share of wrong
    entries. There is no error for regression, or if logits and labels do not fit any supported
    task. To find out whether the labels are one token ahead of the logits, the cross-entropy of
    both cases is compared with the model's own loss.

    Ignored labels are not counted. These are −100 and other negative labels; in images and
    sequences, also a single value above the classes, such as 255; and in segmentation, the index
    that the model's configuration names.

    Args:
        model: the model, unwrapped.
        inputs: the inputs of the model, by name.
        outputs: the outputs of the model: a mapping, a tuple (with the loss first, if there is
            one), or the logits.
        label_names: the names of the labels among `inputs`.

    Raises:
        Unmeasurable: if there is neither a loss nor logits with matching labels.
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
        size = _size(given, inputs)
        if items is not None and isinstance(size, Tensor):
            # The loss is the sum over this batch, divided by the number of labels in the step.
            loss = torch.where(size > 0, loss * items / size, loss)
        return loss, None, size
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
    """The loss that the model returned, if any, which identifies its task."""

    def __init__(self, loss: Tensor | None, items: Any) -> None:
        self.loss, self.items = loss, items

    def is_that_of(self, measured: Measured) -> bool:
        """Whether the model's loss equals the one measured for a task, up to rounding.

        The result is True if the model returned no loss. Some models divide the sum over the batch
        by the number of labels in the whole step, which also counts as equal.
        """
        if self.loss is None:
            return True
        loss, count = measured[0], measured[2]
        scales = [1.0] if self.items is None else [1.0, float(count) / float(self.items)]
        own = float(self.loss.detach())
        return any(abs(own - float(loss) * scale) <= ALIKE * abs(own) + 1e-6 for scale in scales)


@torch.no_grad()
def _score(
    model: nn.Module, logits: Tensor, labels: Tensor, own: _Own
) -> tuple[Tensor | None, Tensor | None, Tensor | int] | None:
    """Compute the cross-entropy, error and count for the task; None if it is not supported."""
    labels = labels.to(logits.device)
    task = getattr(getattr(model, "config", None), "problem_type", None)
    several = logits.shape == labels.shape and logits.dim() > 1 and logits.shape[-1] > 1
    if task is None and several and labels.is_floating_point() and own.loss is not None:
        shares = logits.flatten(0, -2).float(), labels.flatten(0, -2).float()
        error = (logits.argmax(-1) != labels.argmax(-1)).float().mean()
        found: Measured = cross_entropy(*shares), error, len(labels)
        if own.is_that_of(found):  # Classification with one-hot or soft labels.
            return found
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
    binary = task != "regression" and logits.numel() == labels.numel() and _is_binary(labels)
    if task == "regression" or (labels.is_floating_point() and not binary):
        return (None, None, len(labels)) if labels.dim() else None
    if logits.dim() == 4 and labels.dim() == 3 and logits.shape[0] == labels.shape[0]:
        return _segmentation(model, logits, labels, own)
    if logits.numel() == labels.numel():
        counted, whole = labels != IGNORED, not labels.is_floating_point()
        logits, labels = logits.reshape(labels.shape)[counted].float(), labels[counted].float()
        squares: Measured = (logits - labels).square().mean(), None, counted.sum()
        regression = own.loss is not None and own.is_that_of(squares)
        loss = binary_cross_entropy_with_logits(logits, labels)
        found = loss, ((logits > 0) != (labels > 0)).float().mean(), counted.sum()
        if _is_binary(labels) and (not regression if whole else own.is_that_of(found)):
            return found
        return None if own.loss is None else (None, None, counted.sum())
    if logits.shape[:-1] != labels.shape:
        return None
    there = _in_range(labels, logits.shape[-1], several=labels.dim() > 1)
    if there is None:
        return None if own.loss is None else (None, None, len(logits))
    labels = there
    aligned = _classification(logits, labels, labels != IGNORED)
    if labels.dim() == 1:
        return aligned
    ahead = _classification(logits[..., :-1, :], labels[..., 1:], labels[..., 1:] != IGNORED)
    if own.loss is not None:
        fitting = [measured for measured in (aligned, ahead) if own.is_that_of(measured)]
        if len(fitting) == 1:
            return fitting[0]
    if _predicts_the_next(model):
        return ahead
    ctc = set(MODEL_FOR_CTC_MAPPING_NAMES.values())
    if any(kind.__name__ in ctc for kind in type(model).__mro__):  # CTC does not align labels.
        return None if own.loss is None else (None, None, len(labels))
    return aligned


def _classification(logits: Tensor, labels: Tensor, counted: Tensor) -> Measured:
    logits, labels = logits[counted].float(), labels[counted].long()
    error = (logits.argmax(-1) != labels).float().mean()
    return cross_entropy(logits, labels), error, counted.sum()


def _in_range(labels: Tensor, classes: int, several: bool) -> Tensor | None:
    """Replace ignored labels by `IGNORED`; return None if the labels do not fit the classes.

    Negative labels are ignored. If there are `several` labels per sample, a single value above the
    classes is ignored as well, such as 255 for the border of an object.

    Args:
        labels: the labels.
        classes: the number of classes.
        several: whether each sample has several labels.
    """
    labels = torch.where(labels < 0, torch.full_like(labels, IGNORED), labels)
    beyond = labels >= classes
    values = labels[beyond]
    if not len(values):
        return labels
    if not several or bool((values != values[0]).any()):
        return None
    return torch.where(beyond, torch.full_like(labels, IGNORED), labels)


def _segmentation(
    model: nn.Module, logits: Tensor, labels: Tensor, own: _Own
) -> tuple[Tensor | None, Tensor | None, Tensor | int] | None:
    if logits.shape[2:] != labels.shape[1:]:
        logits = interpolate(
            logits.float(), size=labels.shape[1:], mode="bilinear", align_corners=False
        )
    ignored = getattr(getattr(model, "config", None), "semantic_loss_ignore_index", IGNORED)
    labels = torch.where(labels == ignored, torch.full_like(labels, IGNORED), labels)
    found = _in_range(labels, logits.shape[1], several=True)
    if found is None:
        return None if own.loss is None else (None, None, len(labels))
    return _classification(logits.movedim(1, -1), found, found != IGNORED)


def _predicts_the_next(model: nn.Module) -> bool:
    """Whether the labels are one position ahead of the logits, as in a causal language model."""
    base = getattr(model, "base_model", None)
    kinds = *type(model).__mro__, *type(getattr(base, "model", None)).__mro__  # PEFT wraps it.
    names = {kind.__name__ for kind in kinds}
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    return bool(names & known) or getattr(model, "loss_type", None) == "ForCausalLM"


def _is_binary(labels: Tensor) -> bool:
    return bool(((labels == 0) | (labels == 1)).all())


def _size(labels: Sequence[Any], inputs: Mapping[str, Any]) -> Tensor | int:
    """Count the labels of a batch if each sample has several integer ones, else its samples."""
    first = labels[0] if len(labels) == 1 and isinstance(labels[0], Tensor) else None
    if first is not None and first.dim() > 1 and not first.is_floating_point():
        return (first != IGNORED).sum()
    for tensor in (*labels, *inputs.values()):
        if isinstance(tensor, Tensor) and tensor.dim():
            return len(tensor)
    return 1


def _names(outputs: Any) -> str:
    return ", ".join(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
