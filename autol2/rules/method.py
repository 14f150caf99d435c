"""The base class of methods, which decide λ in a run.

Each method has one class and one YAML file in ``conf/method``. A method creates a `LambdaPolicy`
for each run: the rules of the paper use measurements, schedules use the step alone, and CPR leaves
λ to its optimizer. The trainer treats them all alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..component import Component, Options, option
from ..errors import UserError, require, require_choice, require_finite
from .controller import Controller, Decision
from .rule import METHODS, PROTOCOLS, Rule

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

INITIALIZATIONS = ("published", "paper", "original")


class LambdaPolicy(Protocol):
    """Decides λ during one run."""

    @property
    def measures(self) -> bool:
        """Whether λ depends on measurements, so that each has to be read back at once."""

    @property
    def before_update(self) -> bool:
        """Whether a step is measured before its update, which then uses the new λ.

        If so, measured steps are counted over the whole run, starting with its first step;
        otherwise within each epoch, starting with the k-th step.
        """

    def lambda_at(self, step: int) -> float:
        """Return the λ that a step is trained with, given its number from 0.

        If `measures`, this is the λ after the measurements so far.
        """

    def observe(self) -> Tensor | None:
        """Return the λ of the step just done if the optimizer finds it; None if λ is set."""

    def measure(self, loss: float, accuracy: float, step: int, epoch_step: int) -> Decision:
        """Process the measurement of a step (see `Controller.measure`)."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that later decisions depend on, as plain numbers and strings."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state."""


@dataclass
class Alpha(Options):
    """The percentage threshold α of Methods 1 and 3 (paper, Algorithms 2 and 4)."""

    percent: float = 5.0
    """α in percent. A change counts only if loss or error is worse (or better) than its minimum by
    at least this much."""

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.percent) and self.percent >= 0,
            f"alpha is a percentage of at least 0, not {self.percent:g}: try alpha=5",
        )


@dataclass
class FixedLambda(Options):
    """The constant λ, for methods that use one."""

    value: float = 5e-4
    """λ; for SGD the same as a weight decay of 2λ."""

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.value) and self.value >= 0,
            f"fixed_lambda must be at least 0, not {self.value:g}: try fixed_lambda=5e-4",
        )
        require(
            self.value <= LARGEST,
            f"fixed_lambda must be at most {LARGEST:g}, not {self.value:g}: try fixed_lambda=5e-4",
        )


@dataclass
class ProtocolOptions(Options):
    """Which version of the paper's rules to use (see README, "Protocols")."""

    name: str = "published"
    """published (what produced the paper's figures), pseudocode (as printed), corrected (as meant)
    or original (Auto L2 as its authors released it)."""
    initialization: str = "published"
    """published (convolutions N(0, 2/fan_in), the rest PyTorch's default), paper (every layer
    N(0, 2/fan_in), every bias 0) or original (every layer N(0, 1/fan_in), every bias 0)."""
    lambda_min: float = option(0.0, neutral=0.0)
    """λ never falls below this."""
    lambda_max: float = option(math.inf, neutral=math.inf)
    """λ never rises above this."""

    def __post_init__(self) -> None:
        require_choice("protocol", self.name, PROTOCOLS)
        require_choice("protocol.initialization", self.initialization, INITIALIZATIONS)
        require_finite("protocol.lambda_min", self.lambda_min)
        require(
            self.lambda_max >= self.lambda_min,
            f"protocol.lambda_max must be at least protocol.lambda_min ({self.lambda_min:g}), "
            f"not {self.lambda_max:g}",
        )


LARGEST = 1e30
"""The largest λ; the product of a larger one with a squared norm could overflow."""


@dataclass(frozen=True)
class Circumstances:
    """What a method may use in addition to its own options."""

    alpha: Alpha
    fixed_lambda: FixedLambda
    protocol: ProtocolOptions
    steps: int
    """Number of steps of the run."""
    lr: float
    """The learning rate at the first step."""


@dataclass
class Method(Component):
    """Base class of the methods."""

    measure_every: int = 5
    """Steps between two measurements of the training loss and accuracy (the paper's k, section
    4)."""

    place: ClassVar[int] = 5
    """Position in tables: fixed λ first, then the paper's methods in their order, then all
    others."""
    uses: ClassVar[tuple[str, ...]] = ()
    """Which of the groups alpha, fixed_lambda and protocol it uses; the others are not part of a
    run's identity."""
    baseline: ClassVar[bool] = False
    """Whether this is a fixed λ, which schedules are compared with."""
    own_lambda: ClassVar[bool] = False
    """Whether its optimizer finds λ by itself and chooses what to penalise."""
    optimizers: ClassVar[tuple[str, ...]] = ()
    """The optimizers that it works with; empty for all."""

    def __post_init__(self) -> None:
        require(
            self.measure_every >= 1,
            f"method.measure_every must be a whole number of at least 1, not {self.measure_every}",
        )

    def check(self, given: Circumstances) -> None:
        """Check, before a run begins, that the method can be used in it.

        Raises:
            UserError: it cannot.
        """

    def policy(self, given: Circumstances) -> LambdaPolicy:
        """Return the policy that decides λ in a run, unless the optimizer does."""
        raise NotImplementedError

    def rule(self, given: Circumstances) -> Rule:
        """Return the rule that the method applies to measurements.

        Raises:
            UserError: it does not use measurements.
        """
        raise UserError(
            f"method={self.name} does not use measurements: choose {', '.join(METHODS[:-1])} or "
            f"{METHODS[-1]}"
        )

    def build(
        self, given: Circumstances, model: nn.Module, make_optimizer: Callable[[], Optimizer]
    ) -> tuple[Optimizer, LambdaPolicy]:
        """Return the optimizer of a run, by default that of `make_optimizer`, and its λ policy."""
        return make_optimizer(), self.policy(given)


@dataclass
class Adaptive(Method):
    """Base class of Auto L2 and the paper's methods, which change λ based on measurements."""

    algorithm: ClassVar[str] = ""
    """The `Rule.method` that it applies."""

    initial_lambda: float = 0.1
    """λ at the first step, in the paper's convention: the penalty is λ·Σθ², without ½."""
    decay_factor: float = 0.1
    """λ is multiplied by this when it decays and divided by it when it is raised; within (0, 1)."""
    cooldown: float = 0.1
    """After a change, λ stays constant for ``cooldown / λ`` steps."""
    raise_when_converged: int = option(0, neutral=0)
    """Raise λ after this many measurements in a row without a new minimum of loss or error
    (the paper's future work); 0 never does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite("method.initial_lambda", self.initial_lambda)
        require(
            self.initial_lambda <= LARGEST,
            f"method.initial_lambda must be at most {LARGEST:g}, not {self.initial_lambda:g}",
        )
        require(
            0 < self.decay_factor < 1,
            f"method.decay_factor must lie between 0 and 1 (0.1 divides λ by ten), "
            f"not {self.decay_factor:g}",
        )
        require_finite("method.cooldown", self.cooldown)
        require(
            self.raise_when_converged >= 0,
            f"method.raise_when_converged must be at least 0, not {self.raise_when_converged}",
        )

    def check(self, given: Circumstances) -> None:
        """Raise a `UserError` if the protocol does not have this method."""
        self.rule(given)

    def rule(self, given: Circumstances) -> Rule:
        """Return the rule of the class's own algorithm."""
        try:
            return Rule(
                method=self.algorithm,
                protocol=given.protocol.name,
                alpha=given.alpha.percent,
                initial_lambda=self.initial_lambda,
                decay_factor=self.decay_factor,
                cooldown=self.cooldown,
                lambda_min=given.protocol.lambda_min,
                lambda_max=given.protocol.lambda_max,
                raise_when_converged=self.raise_when_converged,
            )
        except ValueError as error:
            raise UserError(f"{error}") from None

    def policy(self, given: Circumstances) -> LambdaPolicy:
        """Return a controller with that rule."""
        return Controller(self.rule(given))
