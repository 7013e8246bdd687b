"""Best of n."""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING

from truing.core.errors import bad
from truing.core.lazy import np
from truing.core.method import method
from truing.methods.rerank._family import RerankMethod

if TYPE_CHECKING:
    from truing.methods.rerank._family import Array


def best_of_n_weights(scores: Array, *, n: int) -> Array:
    """Probability of each draw of a pool of ``N`` to be the best of ``n`` drawn without replacement.

    The maximum of the subset lies at or below a score in ``C(#{<= s}, n)`` of ``C(N, n)`` subsets; draws of one
    score share their level's probability. Beirami et al. 2024, arXiv:2401.01879, for the discrete law.

    Args:
        scores: ``(N,)``.
        n: size of the subset, 1 <= n <= N.

    Returns:
        ``(N,)`` probabilities that sum to one.

    Raises:
        InputError: the pool is smaller than ``n``.
    """
    size = len(scores)
    if n > size:
        raise bad("rerank/best_of_n", f"n = {n} needs a pool of as many draws, and there are {size}", "Draw more.")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    below = np.array([comb(int(c), n) / comb(size, n) for c in np.cumsum(counts)])
    mass = np.diff(below, prepend=0.0)
    return np.asarray(mass[place] / counts[place], dtype=np.float64)


@method(paper="arXiv:2112.09332", dial="n", neutral={"n": 1})
class BestOfN(RerankMethod):
    """Draws n replies and gives the one that the judge scores highest; ties are broken at random."""

    def weights(self, scores: Array) -> Array:
        return best_of_n_weights(scores, n=self.n)
