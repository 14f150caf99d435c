"""The optimizer's parameter groups, with their learning rates and their shares of λ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..config import Config
from ..errors import require
from ..models.initialization import select


def groups(config: Config, model: nn.Module) -> list[dict[str, Any]]:
    """Return parameter groups with their factors on λ (``decay``) and on the learning rate.

    Where the learning rate is multiplied, λ is divided, so that their product, and with it the
    decay per step, stays the same.
    """
    control = config.control
    penalized = select(model, control.penalized)
    changed = select(model, control.parameters) if control.lr_factor != 1 else set()
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        found.setdefault((parameter in penalized, parameter in changed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr * (control.lr_factor if changes else 1.0),
            "lr_factor": control.lr_factor if changes else 1.0,
            "decay": float(decays) / (control.lr_factor if changes else 1.0),
        }
        for (decays, changes), parameters in found.items()
    ]


def require_weight_decay(optimizer: Optimizer, config: Config) -> None:
    """Check that λ acts on `optimizer`; groups without a ``decay`` factor get 1.

    Raises:
        UserError: the optimizer has no weight decay, or its groups are not those that it was given.
    """
    name = type(optimizer).__name__
    require(
        "weight_decay" in optimizer.defaults,
        f"{name} has no weight_decay, so λ would not act: choose an optimizer with one, such as "
        f"optimizer=sgd",
    )
    given = all("decay" in group for group in optimizer.param_groups)
    require(
        given or not {"penalized", "lr_factor"} & config.control.identity().keys(),
        f"{name} was not built from the parameter groups that its build() was given, so "
        f"control.penalized and control.lr_factor would not act: leave them out",
    )
    for group in optimizer.param_groups:
        group.setdefault("decay", 1.0)


def apply_lambda(optimizer: Optimizer, lambda_: float) -> None:
    """Set the weight decay of the next step from λ, for each group with its factor."""
    for group in optimizer.param_groups:
        group["weight_decay"] = 2 * lambda_ * group["decay"]


def learning_rate(optimizer: Optimizer) -> float:
    """Return the current learning rate, without the groups' factors."""
    group = optimizer.param_groups[0]
    return float(group["lr"]) / float(group.get("lr_factor", 1.0))


def lr_factors(optimizer: Optimizer) -> dict[Tensor, float]:
    """Return the factor on the learning rate of each parameter."""
    return {
        parameter: group.get("lr_factor", 1.0)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def penalized_squares(optimizer: Optimizer) -> Tensor:
    """Return Σθ² over all parameters, weighted by the groups' factors on λ, as a scalar tensor."""
    sums = [group["decay"] * sum_of_squares(group["params"]) for group in optimizer.param_groups]
    return torch.stack(sums).sum()


def sum_of_squares(parameters: Sequence[Tensor]) -> Tensor:
    """Return Σθ² over `parameters` as a scalar tensor."""
    return (
        torch.stack([torch.linalg.vector_norm(parameter) for parameter in parameters])
        .square()
        .sum()
    )
