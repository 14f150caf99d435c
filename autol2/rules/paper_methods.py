"""The methods of the paper: Auto L2 and Methods 1 to 3 (Algorithms 1 to 4)."""

from __future__ import annotations

from dataclasses import dataclass

from .method import Adaptive


@dataclass
class AutoL2Method(Adaptive):
    """Auto L2 (Algorithm 1): λ decays when loss or error gets worse."""

    name = algorithm = "auto_l2"
    label = "Auto L2"
    place = 1
    uses = ("protocol",)


@dataclass
class Threshold(Adaptive):
    """Method 1, percentage threshold (Algorithm 2): Auto L2 that ignores changes below α %."""

    name = algorithm = "threshold"
    place = 2
    uses = ("alpha", "protocol")


@dataclass
class Advance(Adaptive):
    """Method 2, Advance L2 (Algorithm 3): Auto L2 that also raises λ when training improves."""

    name = algorithm = "advance"
    label = "Advance L2"
    place = 3
    uses = ("protocol",)


@dataclass
class Combined(Adaptive):
    """Method 3 (Algorithm 4): Advance L2 with the percentage threshold."""

    name = algorithm = "combined"
    place = 4
    uses = ("alpha", "protocol")
