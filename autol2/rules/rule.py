"""Which λ rule, with which constants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, SupportsFloat

Method = Literal["fixed", "auto_l2", "threshold", "advance", "combined"]
Protocol = Literal["published", "pseudocode", "corrected", "original"]

LAMBDA_MAX = 10.0
"""The paper's suggestion of an upper bound of λ; the default under corrected."""

METHODS = ("fixed", "auto_l2", "threshold", "advance", "combined")
PROTOCOLS = ("published", "pseudocode", "corrected", "original")


@dataclass(frozen=True)
class Rule:
    """Which rule, with which constants. The paper's values are the defaults.

    Numbers of any kind (NumPy's, tensors of one element) are kept as plain ones.

    Raises:
        ValueError: a constant makes no sense.
    """

    method: str
    """fixed, auto_l2 (Algorithm 1), threshold (2), advance (3) or combined (4)."""
    protocol: str = "published"
    """published, pseudocode, corrected or (auto_l2 and fixed alone) original."""
    alpha: float = 0.0
    """The threshold α in percent; counts as 0 in methods that have none."""
    fixed_lambda: float = 0.0
    """λ of the method fixed."""
    initial_lambda: float = 0.1
    """λ at the first step of an adaptive method."""
    decay_factor: float = 0.1
    """λ is multiplied by it when it decays, divided by it when it is raised."""
    cooldown: float = 0.1
    """After a change to λ, it rests for ``cooldown / λ`` steps."""
    lambda_min: float = 0.0
    """λ of an adaptive method never falls below this."""
    lambda_max: float | None = None
    """λ of an adaptive method never rises above this. None becomes 10 under corrected and ∞ under
    the other protocols, which have no bound."""
    raise_when_converged: int = 0
    """Raise λ after this many measurements in a row without a new minimum of loss or error (the
    paper's future work); 0 never does. The count goes on during the cool-down, but λ rises only
    outside of it and where the measurement changes λ in no other way. Each change of λ, whatever
    made it, starts the count anew."""

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
        """r = 1 + α/100, 1 in methods without a threshold."""
        return 1 + self.alpha / 100 if self.method in ("threshold", "combined") else 1.0

    @property
    def raises(self) -> bool:
        """Whether λ may also rise when loss or error gets better."""
        return self.method in ("advance", "combined")

    def bounded(self, lambda_: float) -> float:
        """`lambda_`, or the bound that it lies beyond."""
        assert self.lambda_max is not None
        return min(max(lambda_, self.lambda_min), self.lambda_max)

    def used(self) -> dict[str, Any]:
        """The options that the method uses, by name."""
        if self.method == "fixed":
            return {"method": self.method, "fixed_lambda": self.fixed_lambda}
        unused = {"fixed_lambda"}
        if self.method not in ("threshold", "combined"):
            unused.add("alpha")
        options = asdict(self)
        if not (self.raises or self.raise_when_converged):  # it bounds the first λ alone
            unused.add("lambda_max")
            options["initial_lambda"] = self.bounded(self.initial_lambda)
        return {name: value for name, value in options.items() if name not in unused}

    def differences(self, saved: Mapping[str, Any]) -> str:
        """How the rule `saved` (the options, as `plain` gives them) differs; empty if it does not.

        Options that neither method uses do not count.

        Raises:
            ValueError: `saved` holds no rule.
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
        """The options, as strings and finite numbers."""
        return {
            name: plain(value) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def plain(value: float) -> float | str:
    """`value`; as a string ("inf", "nan") where JSON has no number for it. `float` reads both."""
    return value if math.isfinite(value) else str(value)


def number(name: str, value: SupportsFloat) -> float:
    """`value` as a plain number; a ValueError with the option's `name` if it is none."""
    try:
        if not isinstance(value, str):
            return float(value)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise ValueError(f"{name} must be a number, not {value!r}")


def whole(name: str, value: SupportsFloat) -> int:
    """`value` as a plain integer; a ValueError with the option's `name` if it is none."""
    as_float = number(name, value)
    if not as_float.is_integer():
        raise ValueError(f"{name} must be a whole number, not {as_float:g}")
    return int(as_float)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
