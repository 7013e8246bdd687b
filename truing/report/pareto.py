"""Which arms no other arm beats in both directions, and the curve that best-of-n follows in theory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from truing.core.measures import Measure
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


def pareto_set(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices, rising, of the points that no other beats: lower in the first coordinate, higher in the second.

    A point is beaten by one that is at least as good in both and better in one, so equal points stand together.
    One sort and one pass, O(n log n).

    Example:
        >>> pareto_set([(0.0, 0.5), (1.0, 0.6), (2.0, 0.55)])
        [0, 1]
    """
    kept, best = [], -math.inf
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    previous: tuple[float, float] | None = None
    for i in order:
        if points[i][1] > best or points[i] == previous:
            kept.append(i)
            best, previous = points[i][1], points[i]
    return sorted(kept)


def best_of_n(n: float) -> tuple[float, float]:
    """KL from the base (nats) and win rate against it of best-of-n with continuous rewards.

    KL is ``log n - (n - 1) / n``, win rate ``n / (n + 1)``. With rewards that tie, the KL is an upper bound
    (Beirami et al. 2024, arXiv:2401.01879).

    Example:
        >>> best_of_n(1)
        (0.0, 0.5)
    """
    return math.log(n) - (n - 1) / n, n / (n + 1)
