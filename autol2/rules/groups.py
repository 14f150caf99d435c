"""An optimizer's parameter groups: which of them are controlled, and their weight decay."""

from __future__ import annotations

import copy
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

FLAG = "auto_l2"
"""Key of a parameter group that says whether (or with which settings) its decay is controlled."""
NO_DECAY = "no_decay"
"""Value of `FLAG` for a group that a trainer keeps without decay. It is left alone, too, unless all
parameters are to be decayed."""


class Groups:
    """The parameter groups whose ``weight_decay`` is controlled.

    A group with ``auto_l2=False`` is left alone. So is one with a ``weight_decay`` of 0 while other
    groups have some (biases, norms), unless `all_parameters` is true. What was decided when a group
    was first seen stays, whatever flags a checkpoint of the optimizer contains.

    Args:
        optimizer: the optimizer.
        all_parameters: whether groups with a decay of 0 are controlled, too, while other groups
            have some. None leaves them alone with a warning that names them.

    Raises:
        ValueError: there is no group to control.
    """

    def __init__(self, optimizer: Optimizer, all_parameters: bool | None = None) -> None:
        if all_parameters not in (None, True, False):
            raise ValueError(f"all_parameters must be True, False or None, not {all_parameters!r}")
        self.optimizer, self.all_parameters = optimizer, all_parameters
        self.set_: list[bool] = []
        """For each group, whether its decay is controlled."""
        self.optional: list[int] = []
        """Groups for which `all_parameters` decides."""
        self.settings: list[Mapping[str, Any] | None] = []
        """For each group, its own settings, if any."""
        self.look()
        if not any(self.set_):
            raise ValueError(
                "every parameter group is left alone (auto_l2=False): there is nothing to do"
            )
        self.found = [_number(group.get("weight_decay")) for group in optimizer.param_groups]
        """The decay of each group before it was first set."""

    def look(self) -> bool:
        """Register groups that were added, and return whether there were any."""
        groups = self.optimizer.param_groups
        first = len(self.set_)
        fresh = range(first, len(groups))
        unsaid = [place for place in fresh if FLAG not in groups[place]]
        zero = [place for place in unsaid if _number(groups[place].get("weight_decay")) == 0]
        # A group that is added without its own decay has the optimizer's default.
        default = _number(self.optimizer.defaults.get("weight_decay"))
        others = any(
            _number(groups[place].get("weight_decay"))
            for place in fresh
            if place not in zero and not _is_false(groups[place].get(FLAG, True))
        )
        beside = default != 0 if first else others
        self.optional += [
            *(zero if beside else []),
            *(place for place in fresh if groups[place].get(FLAG) == NO_DECAY),
        ]
        spared = zero if beside and not self.all_parameters else []
        if spared and self.all_parameters is None:
            warn(
                f"weight_decay stays 0 in parameter group {_listed(spared)}, while other groups "
                f"have some: all_parameters=True decays them too, all_parameters=False (or "
                f"auto_l2=False in the group) leaves them alone without this warning",
                UserWarning,
            )
        for index in fresh:
            flag = groups[index].get(FLAG, index not in spared)
            if flag == NO_DECAY:
                flag = bool(self.all_parameters)
            if type(flag).__name__ in ("bool", "bool_"):  # also NumPy's
                flag = bool(flag)
            elif isinstance(flag, Mapping):
                flag = {name: _plain(value) for name, value in flag.items()}
            else:
                raise ValueError(
                    f"parameter group {index} has {FLAG}={flag!r}: it must be True, False or a "
                    f"dictionary of settings"
                )
            if groups[index].get(FLAG, NO_DECAY) != NO_DECAY:
                groups[index][FLAG] = flag  # the optimizer saves it
            self.set_.append(flag is not False)
            self.settings.append(flag if isinstance(flag, Mapping) else None)
            if self.set_[index]:
                self._check_group(index)
        return len(fresh) > 0

    def _check_group(self, index: int) -> None:
        group, name = self.optimizer.param_groups[index], type(self.optimizer).__name__
        if "weight_decay" not in group:
            raise ValueError(
                f"{name} has no weight_decay in parameter group {index}: use an optimizer with "
                f"one, such as SGD, Adam or AdamW"
            )
        decay = group["weight_decay"]
        if decay is None:
            raise ValueError(
                f"{name} has weight_decay=None in parameter group {index}: give it a number "
                f"(0.0 will do), or leave the group alone with auto_l2=False"
            )
        if isinstance(decay, torch.Tensor) and not decay.is_floating_point():
            raise ValueError(
                f"{name} has a weight_decay of {decay.dtype} in parameter group {index}, which "
                f"cannot hold fractions: give it a float"
            )
        if isinstance(decay, torch.Tensor):  # torch lets groups share a tensor
            group["weight_decay"] = decay.clone()

    def copy(self) -> Groups:
        """Return an independent copy for the same optimizer."""
        other = copy.copy(self)
        for name in ("set_", "optional", "settings", "found"):
            setattr(other, name, list(getattr(self, name)))
        return other

    def recall(self, optional: Sequence[int], count: int) -> None:
        """Apply `all_parameters` to the groups that it applied to when they were new.

        Their decays, on which this depends, may come from a checkpoint by now.

        Args:
            optional: indices of these groups, among the first `count` groups.
            count: number of groups at that time.
        """
        groups = self.optimizer.param_groups
        for index in range(min(count, len(self.set_))):
            if groups[index].get(FLAG, NO_DECAY) != NO_DECAY:
                continue
            self.set_[index] = index not in optional or bool(self.all_parameters)
            if index in optional and index < len(self.found):
                self.found[index] = 0.0
        self.optional = [*optional, *(place for place in self.optional if place >= count)]

    def give_back(self, were_set: Sequence[bool]) -> None:
        """Restore the original decay of groups that are no longer controlled."""
        for index, (is_set, was_set) in enumerate(zip(self.set_, were_set, strict=False)):
            if was_set and not is_set and index < len(self.found):
                _put(self.optimizer.param_groups[index], self.found[index])

    def indices(self) -> list[int]:
        """Return the indices of the controlled groups."""
        return [index for index, is_set in enumerate(self.set_) if is_set]

    def apply(self, lambda_of: Callable[[int], float]) -> None:
        """Set ``weight_decay`` to 2λ, where `lambda_of` returns the λ of a group's index."""
        for index in self.indices():
            _set(self.optimizer.param_groups[index], lambda_of(index))

    def agrees(self, lambda_of: Callable[[int], float], first: int | None = None) -> bool:
        """Return whether each ``weight_decay`` is 2λ, within the precision of its type.

        With `first`, only the first so many groups are compared.
        """
        groups = self.optimizer.param_groups[:first]
        return all(
            _is(groups[index].get("weight_decay"), 2 * lambda_of(index))
            for index in self.indices()
            if index < len(groups)
        )

    def agreed_at_first(self, lambda_of: Callable[[int], float]) -> bool:
        """Return whether each ``weight_decay`` was 2λ before any was set."""
        groups = self.optimizer.param_groups
        return all(
            index < len(self.found)
            and _is(self.found[index], 2 * lambda_of(index), groups[index]["weight_decay"])
            for index in self.indices()
        )

    def decays(self) -> list[float]:
        """Return the ``weight_decay`` of the controlled groups."""
        return [
            float(self.optimizer.param_groups[index]["weight_decay"]) for index in self.indices()
        ]


def sign_flip(groups: Iterable[Mapping[str, Any]]) -> str | None:
    """Return a warning if a step of decay removes all of the weights or more, else None.

    This is the case if lr·weight_decay ≥ 1 in one of `groups`; for SGD with momentum μ, whose steps
    add up, if lr·weight_decay/(1 - μ) ≥ 1 (times 1 - dampening). Groups without their own learning
    rate (Adafactor's relative steps) are skipped.
    """
    for group in groups:
        lr, weight_decay = group.get("lr"), group.get("weight_decay")
        if lr is None or weight_decay is None:
            continue
        lr, weight_decay = float(lr), float(weight_decay)
        decay, momentum = lr * weight_decay, 0.0
        if "dampening" in group:  # SGD, whose momentum includes the decay
            momentum = float(group.get("momentum") or 0)
        if momentum and momentum < 1:
            decay *= (1 - float(group["dampening"])) / (1 - momentum)
        if decay >= 1:
            strength = f"(λ = {weight_decay / 2:g}, lr = {lr:g}"
            if momentum:
                return (
                    f"lr·weight_decay/(1 - momentum) = {decay:.3g} is at least 1 {strength}, "
                    f"momentum = {momentum:g}): successive steps together remove more than the "
                    f"weights, so the weights oscillate around 0; lower lr or lambda_max"
                )
            return (
                f"lr·weight_decay = {decay:.3g} is at least 1 {strength}): each step "
                f"multiplies the weights by {1 - decay:.3g}, so they vanish or flip their signs; "
                f"lower lr or lambda_max"
            )
    return None


def warn(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """Issue a warning that points to the first caller outside of this package."""
    package, level = __name__.partition(".")[0], 1
    frame = sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        (f"{package}.",)
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _set(group: dict[str, Any], lambda_: float) -> None:
    _put(group, 2 * lambda_)


def _put(group: dict[str, Any], decay: float) -> None:
    if isinstance(group["weight_decay"], torch.Tensor):
        group["weight_decay"].fill_(decay)
    else:
        group["weight_decay"] = decay


def _is(found: Any, expected: float, like: Any = None) -> bool:
    """Return whether `found` equals `expected` in the precision of `like` (by default, its own)."""
    like = found if like is None else like
    if isinstance(like, torch.Tensor):
        expected = float(torch.tensor(expected, dtype=like.dtype))
        found = float(torch.tensor(float(found), dtype=like.dtype))
    return found is not None and math.isclose(float(found), expected, rel_tol=1e-6)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _is_false(flag: Any) -> bool:
    """Return whether `flag` is Python's or NumPy's False."""
    return type(flag).__name__ in ("bool", "bool_") and not flag


def _plain(value: Any) -> Any:
    """Return `value` as a plain number if it is NumPy's or a tensor."""
    return value.item() if hasattr(value, "item") else value


def _listed(numbers: list[int]) -> str:
    return " and ".join(map(str, numbers))
