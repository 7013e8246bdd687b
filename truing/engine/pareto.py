"""Which points no other beats in both coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence


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
