"""The two-sample test of Kolmogorov and Smirnov: might two samples be of one distribution?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from truing.core.errors import bad

if TYPE_CHECKING:
    from truing.probes.pool import Array

EXACT = 1_000_000
"""Products of the two sizes up to which the p-value is exact."""


@dataclass(frozen=True)
class Apart:
    """The largest distance between two empirical distribution functions, and how odd it is.

    Attributes:
        distance: in [0, 1].
        p: the chance of one as large where both samples are of one continuous distribution, in (0, 1].
    """

    distance: float
    p: float


def kolmogorov_smirnov(left: Array, right: Array) -> Apart:
    """The two-sided test. Hodges 1958, Arkiv foer Matematik 3: the p-value counts paths on a lattice.

    It is exact where the product of the sizes is at most a million, else Kolmogorov's limit. Ties are as in any sample
    of a continuous distribution that was rounded: the distance is right, the p-value errs to the large side.

    Args:
        left, right: ``(N,)`` and ``(M,)``, finite or infinite.

    Raises:
        InputError: an empty sample, or a value that is NaN.
    """
    n, m, gap = len(left), len(right), _gap(left, right)
    if gap == 0:
        return Apart(0.0, 1.0)
    far = gap / (n * m)
    return Apart(far, _exact(n, m, gap) if n * m <= EXACT else _limit(far * math.sqrt(n * m / (n + m))))


def distance(left: Array, right: Array) -> float:
    """The largest distance between the two empirical distribution functions alone, in [0, 1].

    Raises:
        InputError: as for :func:`kolmogorov_smirnov`.
    """
    return _gap(left, right) / (len(left) * len(right))


def _gap(left: Array, right: Array) -> int:
    """The distance times the sizes of both samples: a whole number."""
    left, right = (np.sort(np.asarray(values, dtype=np.float64)) for values in (left, right))
    n, m = len(left), len(right)
    if not n or not m or np.isnan(left).any() or np.isnan(right).any():
        raise bad("kolmogorov_smirnov", "needs two samples of numbers, at least one each")
    at = np.concatenate([left, right])
    below = [np.searchsorted(values, at, side="right").astype(np.int64) for values in (left, right)]
    return int(np.abs(below[0] * m - below[1] * n).max())


def _exact(n: int, m: int, gap: int) -> float:
    """The share of the paths from (0, 0) to (n, m) that somewhere reach ``|i m - j n| >= gap``.

    Whole numbers of any size, so that a tiny share is not lost as a difference of two near 1.
    """
    inside = [int(j * n < gap) for j in range(m + 1)]  # one path along the edge, while it is inside
    for i in range(1, n + 1):
        left = 0
        for j in range(m + 1):
            left = inside[j] = left + inside[j] if abs(i * m - j * n) < gap else 0
    total = math.comb(n + m, n)
    return float((total - inside[m]) / total)


def _limit(scaled: float) -> float:
    """Kolmogorov's ``2 sum_k (-1)^(k-1) exp(-2 k^2 x^2)``."""
    if scaled < 0.2:  # the sum is 1 to within 1e-12 there, and converges slowly
        return 1.0
    terms = [(2 if k % 2 else -2) * math.exp(-2 * k * k * scaled * scaled) for k in range(1, 101)]
    return min(1.0, max(sum(terms), 5e-324))
