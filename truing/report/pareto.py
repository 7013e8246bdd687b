"""Which arms no other arm beats in both directions, and the curve that best-of-n follows in theory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from truing.core.measures import Measure
from truing.engine.pareto import pareto_set as pareto_set
from truing.report.load import Arm


@dataclass(frozen=True)
class Point:
    """An arm on the front: its win rate over its KL from the base."""

    arm: Arm
    win: Measure
    distance: Measure

    @property
    def x(self) -> float:
        """KL, nats. Sampling noise can put an estimate below zero; a KL cannot be."""
        return max(self.distance.value, 0.0)

    @property
    def y(self) -> float:
        """Win rate against the base, in [0, 1]."""
        return self.win.value

    @property
    def is_bound(self) -> bool:
        """Whether ``x`` is only an upper bound."""
        return self.distance.kind == "bound" or self.distance.probe == "kl_bound"


def best_of_n(n: float) -> tuple[float, float]:
    """KL from the base (nats) and win rate against it of best-of-n with continuous rewards.

    KL is ``log n - (n - 1) / n``, win rate ``n / (n + 1)``. With rewards that tie, the KL is an upper bound
    (Beirami et al. 2024, arXiv:2401.01879).

    Example:
        >>> best_of_n(1)
        (0.0, 0.5)
    """
    return math.log(n) - (n - 1) / n, n / (n + 1)
