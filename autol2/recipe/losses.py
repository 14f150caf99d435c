"""The losses, which are the options of the config group ``loss``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..component import Component, option
from ..errors import require, require_choice

if TYPE_CHECKING:
    from torch import Tensor

SCALES = ("mean", "mean_over_classes")


@dataclass
class Loss(Component):
    """A loss function of class scores."""

    def __call__(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar tensor.

        Args:
            scores: float32 [N, classes].
            targets: int64 [N], or the share of each class, float32 [N, classes].
        """
        raise NotImplementedError

    def scale(self, classes: int) -> float:
        """Return the factor on the minimised loss; recorded losses do not contain it."""
        return 1.0


@dataclass
class CrossEntropy(Loss):
    """The cross-entropy of the class scores."""

    usual: ClassVar[bool] = True

    label_smoothing: float = option(0.0, neutral=0.0)
    """Share of each target that is spread evenly over all classes (Szegedy et al., 2016)."""
    loss_scale: str = option("mean", neutral="mean")
    """mean, over the batch; or mean_over_classes, which also divides by the number of classes, as
    the released code of Auto L2 does: with ten classes the same λ is ten times as strong."""

    def __post_init__(self) -> None:
        require(
            0 <= self.label_smoothing < 1,
            f"loss.label_smoothing must lie in [0, 1), not {self.label_smoothing:g}: try 0.1",
        )
        require_choice("loss.loss_scale", self.loss_scale, SCALES)

    def __call__(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of a batch (see `Loss`)."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(scores, targets, label_smoothing=self.label_smoothing)

    def scale(self, classes: int) -> float:
        """Return the factor for `loss_scale` (see `Loss`)."""
        return 1 / classes if self.loss_scale == "mean_over_classes" else 1.0
