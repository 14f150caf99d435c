"""The λ rules and their constants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, SupportsFloat

Method = Literal["fixed", "auto_l2", "threshold", "advance", "combined"]
Protocol = Literal["published", "pseudocode", "corrected", "original"]

LAMBDA_MAX = 10.0
"""The upper bound of λ that the paper suggests; the default with corrected."""

METHODS = ("fixed", "auto_l2", "threshold", "advance", "combined")
PROTOCOLS = ("published", "pseudocode", "corrected", "original")


@dataclass(frozen=True)
class Rule:
    """A λ rule and its constants. The paper's values are the defaults.

    Numbers of any kind (NumPy's, tensors of one element) are converted to plain ones.

    Raises:
        ValueError: a constant is invalid.
    """

    method: str
    """fixed, auto_l2 (Algorithm 1), threshold (2), advance (3) or combined (4)."""
    protocol: str = "published"
    """published, pseudocode, corrected or (auto_l2 and fixed only) original."""
    alpha: float = 0.0
    """The threshold α in percent; it counts as 0 in methods without a threshold."""
    fixed_lambda: float = 0.0
    """The λ of the method fixed."""
    initial_lambda: float = 0.1
    """The λ of an adaptive method at the first step."""
    decay_factor: float = 0.1
    """Factor by which λ is multiplied when it decays and divided when it is raised."""
    cooldown: float = 0.1
    """After a change, λ stays constant for ``cooldown / λ`` steps."""
    lambda_min: float = 0.0
    """Lower bound of the λ of an adaptive method."""
    lambda_max: float | None = None
    """Upper bound of the λ of an adaptive method. None means 10 with corrected and ∞ with the other
    protocols, which have no bound."""
    raise_when_converged: int = 0
    """Raise λ after this many measurements in a row without a new minimum of loss or error (the
    paper's future work); 0 never does. The count continues during the cool-down, but λ rises only
    after it and only if the measurement does not change λ in another way. Each change of λ,
    whatever its cause, restarts the count."""

    def __post_init__(self) -> None:
        if self.lambda_max is None:
            highest = LAMBDA_MAX if self.protocol == "corrected" else math.inf
            object.__setattr__(self, "lambda_max", highest)
        for option in fields(self):
            if option.name in ("method", "protocol"):
                continue
            kind = whole if option.name == "raise_when_converged" else number
            object.__setattr__(self, option.name, kind(option.name, getattr(self, option.name)))
        assert self.lambda_max is not None
        checks = {
            f"method must be one of {', '.join(METHODS)}": self.method in METHODS,
            f"protocol must be one of {', '.join(PROTOCOLS)}": self.protocol in PROTOCOLS,
            f"protocol original has no method {self.method}: it only has auto_l2": (
                self.protocol != "original" or self.method in ("auto_l2", "fixed")
            ),
            "alpha must be a percentage of at least 0": 0 <= self.alpha < math.inf,
            "fixed_lambda must be at least 0": 0 <= self.fixed_lambda < math.inf,
            "initial_lambda must be at least 0": 0 <= self.initial_lambda < math.inf,
            "decay_factor must lie between 0 and 1": 0 < self.decay_factor < 1,
            "cooldown must be at least 0": 0 <= self.cooldown < math.inf,
            "lambda_min must be at least 0": 0 <= self.lambda_min < math.inf,
            "lambda_max must be at least lambda_min": self.lambda_max >= self.lambda_min,
            "raise_when_converged must be at least 0": self.raise_when_converged >= 0,
        }
        for message, holds in checks.items():
            if not holds:
                raise ValueError(message)

    @property
    def ratio(self) -> float:
        """The ratio r = 1 + α/100; it is 1 in methods without a threshold."""
        return 1 + self.alpha / 100 if self.method in ("threshold", "combined") else 1.0

    @property
    def raises(self) -> bool:
        """Whether λ may also rise when loss or error improves."""
        return self.method in ("advance", "combined")

    def bounded(self, lambda_: float) -> float:
        """Return `lambda_`, clipped to the bounds."""
        assert self.lambda_max is not None
        return min(max(lambda_, self.lambda_min), self.lambda_max)

    def used(self) -> dict[str, Any]:
        """Return the options that the method uses, by name."""
        if self.method == "fixed":
            return {"method": self.method, "fixed_lambda": self.fixed_lambda}
        unused = {"fixed_lambda"}
        if self.method not in ("threshold", "combined"):
            unused.add("alpha")
        options = asdict(self)
        # lambda_max then bounds the first λ only
        if not (self.raises or self.raise_when_converged):
            unused.add("lambda_max")
            options["initial_lambda"] = self.bounded(self.initial_lambda)
        return {name: value for name, value in options.items() if name not in unused}

    def differences(self, saved: Mapping[str, Any]) -> str:
        """Describe how the rule `saved` (the result of `plain`) differs; empty if it does not.

        Options that neither method uses are ignored.

        Raises:
            ValueError: `saved` is not a rule.
        """
        known = {option.name for option in fields(self)}
        if "method" not in saved or not saved.keys() <= known:
            raise ValueError(f"not a rule: it has {sorted(saved)}")
        values: dict[str, Any] = {
            name: float(value) if name not in ("method", "protocol") else value
            for name, value in saved.items()
        }
        theirs, ours = Rule(**values).used(), self.used()
        return ", ".join(
            f"{name}={_shown(theirs[name])}, not {_shown(ours[name])}"
            for name in ours
            if name in theirs and theirs[name] != ours[name]
        )

    def plain(self) -> dict[str, Any]:
        """Return the options as strings and finite numbers."""
        return {
            name: plain(value) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def plain(value: float) -> float | str:
    """Return `value`, as "inf" or "nan" if JSON has no number for it. `float` reads both."""
    return value if math.isfinite(value) else str(value)


def number(name: str, value: SupportsFloat) -> float:
    """Return `value` as a plain float, or raise a ValueError that names the option."""
    try:
        if not isinstance(value, str):
            return float(value)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise ValueError(f"{name} must be a number, not {value!r}")


def whole(name: str, value: SupportsFloat) -> int:
    """Return `value` as a plain integer, or raise a ValueError that names the option."""
    as_float = number(name, value)
    if not as_float.is_integer():
        raise ValueError(f"{name} must be a whole number, not {as_float:g}")
    return int(as_float)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
