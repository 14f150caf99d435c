"""The optimizer of a run: which update, with which decay on which parameters.

sgd
    Plain SGD. The decay is the gradient of the penalty λ·Σθ²; coupled and decoupled are the same.
adamw
    AdamW (Loshchilov & Hutter, 2019, "Decoupled weight decay regularization", ICLR): each step
    multiplies the weights by 1 − lr·2λ. ``method=decoupled`` keeps λ constant, as they do.
adamcpr
    ``method=cpr``: Adam with constrained parameter regularisation (Franke, Hefenbrock, Koehler &
    Hutter, 2024, "Improving deep learning optimization through constrained parameter
    regularization", NeurIPS), from the authors' package pytorch-cpr. Each weight matrix W has an
    upper bound κ on ‖W‖² and a multiplier μ that grows while the bound is exceeded; each step
    multiplies W by 1 − 2μ. That is the decay of λ = μ/lr.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Config
from ..models.cnn import CNN, select
from .sgd import SGD

Optimizer = SGD | torch.optim.Optimizer


def build(config: Config, model: CNN) -> Optimizer:
    """The optimizer that `config` asks for; its decay is set by `apply_lambda`."""
    method = config.method
    if method.name == "cpr":
        with warnings.catch_warnings():  # the package speaks to an older torch
            warnings.simplefilter("ignore")
            from pytorch_cpr import AdamCPR
        warnings.filterwarnings("ignore", "`torch._utils.is_compiling` is deprecated")

        cpr: torch.optim.Optimizer = AdamCPR(
            model,
            lr=config.lr,
            kappa_init_method=method.kappa_init,
            kappa_init_param=method.kappa_init_param,
        )
        return cpr
    groups = _groups(config, model)
    if method.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, weight_decay=0.0)
    return SGD(groups, config.lr)


def _groups(config: Config, model: CNN) -> list[dict[str, Any]]:
    """Parameter groups in the model's order; ``decay`` is the factor on λ in a group.

    Where the learning rate is multiplied, λ is divided, so that their product and with it the decay
    per step stay as they are.
    """
    control = config.control
    penalized = select(model, control.penalized)
    changed = select(model, control.parameters) if control.lr_factor != 1 else set()
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        groups.setdefault((parameter in penalized, parameter in changed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr * (control.lr_factor if changes else 1.0),
            "decay": float(decays) / (control.lr_factor if changes else 1.0),
        }
        for (decays, changes), parameters in groups.items()
    ]


def apply_lambda(optimizer: Optimizer, lambda_: float) -> None:
    """Let the next step decay the weights with λ. AdamCPR finds its own."""
    for group in optimizer.param_groups:
        if "decay" in group:
            group["weight_decay"] = 2 * lambda_ * group["decay"]


def learning_rates(optimizer: Optimizer) -> dict[Tensor, float]:
    """The learning rate of each parameter."""
    return {
        parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]
    }


def penalized_squares(optimizer: Optimizer) -> Tensor:
    """Σθ² over all parameters, each with its group's factor on λ: a tensor of one number."""
    sums = [group["decay"] * sum_of_squares(group["params"]) for group in optimizer.param_groups]
    return torch.stack(sums).sum()


@torch.no_grad()
def cpr_lambda(optimizer: Optimizer) -> Tensor:
    """The λ whose penalty λ·Σθ² over all parameters is Σ μ/lr·‖W‖², that of AdamCPR's multipliers.

    Returns:
        A tensor of one number; 0 before the first step.
    """
    assert isinstance(optimizer, torch.optim.Optimizer)
    everything = [one for group in optimizer.param_groups for one in group["params"]]
    penalty = torch.zeros((), device=everything[0].device)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if group["regularize"] and weight in optimizer.state:
                multiplier = optimizer.state[weight]["lagmul"].squeeze()
                penalty += multiplier / group["lr"] * torch.linalg.vector_norm(weight) ** 2
    return penalty / sum_of_squares(everything)


def sum_of_squares(parameters: Sequence[Tensor]) -> Tensor:
    """Σθ² over `parameters`: a tensor of one number."""
    norms = torch._foreach_norm(tuple(parameters))
    return torch.stack(norms).square().sum()
