"""Constrained parameter regularisation, which finds its own λ."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import require, require_choice, require_finite
from .controller import Decision
from .method import Circumstances, LambdaPolicy, Method

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

KAPPA_INITS = ("inflection_point", "warm_start", "dependent", "uniform")


@dataclass
class CPR(Method):
    """Adam with constrained parameter regularisation (Franke, Hefenbrock, Koehler & Hutter, 2024,
    "Improving deep learning optimization through constrained parameter regularization", NeurIPS),
    from the authors' package pytorch-cpr. Each weight matrix W has an upper bound κ on ‖W‖² and a
    multiplier μ that grows while the bound is exceeded; each step multiplies W by 1 − 2μ. That is
    the decay of λ = μ/lr."""

    kappa_init: str = "inflection_point"
    """How the bounds are found: inflection_point, warm_start, dependent or uniform."""
    kappa_init_param: float = 1000.0
    """Parameter of kappa_init: warm_start's step, dependent's factor or uniform's bound."""

    label = "CPR"
    own_lambda = True
    optimizers = ("adamw",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("method.kappa_init", self.kappa_init, KAPPA_INITS)
        require_finite("method.kappa_init_param", self.kappa_init_param)

    def require_installed(self) -> None:
        """Check that pytorch-cpr is installed (see `Component.require_installed`)."""
        require(
            importlib.util.find_spec("pytorch_cpr") is not None,
            "method=cpr needs the package pytorch-cpr: pip install pytorch-cpr",
        )

    def identity(self) -> dict[str, Any]:
        """Return the identity; the parameter is left out for inflection_point, which has none."""
        known = super().identity()
        if self.kappa_init == "inflection_point":
            del known["kappa_init_param"]
        return known

    def build(
        self, given: Circumstances, model: nn.Module, make_optimizer: Callable[[], Optimizer]
    ) -> tuple[Optimizer, LambdaPolicy]:
        """Return the package's AdamCPR and the policy that reads λ from it."""
        with warnings.catch_warnings():  # the package is written for an older torch
            warnings.simplefilter("ignore")
            from pytorch_cpr import AdamCPR
        warnings.filterwarnings("ignore", "`torch._utils.is_compiling` is deprecated")

        options = make_optimizer().defaults
        optimizer: Optimizer = AdamCPR(
            model,
            lr=given.lr,
            betas=options["betas"],
            eps=options["eps"],
            kappa_init_method=self.kappa_init,
            kappa_init_param=self.kappa_init_param,
            foreach=True,  # the loop over single weights never finds inflection_point's bound
        )
        return optimizer, OwnLambda(optimizer)


class OwnLambda:
    """A `LambdaPolicy` that computes λ from AdamCPR's multipliers."""

    measures = False
    before_update = False

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer

    def observe(self) -> Tensor:
        """Return the λ whose penalty λ·Σθ² equals Σ μ/lr·‖W‖²; it is 0 before the first step."""
        import torch

        groups = self._optimizer.param_groups
        everything = [parameter for group in groups for parameter in group["params"]]
        with torch.no_grad():
            penalty = torch.zeros((), device=everything[0].device)
            for group in groups:
                for weight in group["params"]:
                    state = self._optimizer.state.get(weight, {})
                    if group["regularize"] and state:
                        multiplier = state["lagmul"].squeeze()
                        square = torch.linalg.vector_norm(weight) ** 2
                        penalty += multiplier / group["lr"] * square
            norms = [torch.linalg.vector_norm(parameter) for parameter in everything]
            return penalty / torch.stack(norms).square().sum()

    def lambda_at(self, step: int) -> float:
        """Return the optimizer's current λ."""
        return float(self.observe())

    def measure(self, loss: float, accuracy: float, step: int, epoch_step: int) -> Decision:
        """Do nothing, since the optimizer decides λ (see `LambdaPolicy`)."""
        return Decision(math.nan, "none", "λ is the optimizer's own")

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state, since the optimizer keeps everything."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing, since there is no state."""
